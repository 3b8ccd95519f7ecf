/* The thread that called: opens parts and ends them, and does all the talking. */
#include "jobs/deal_impl.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { ASK_NS = 20000000 }; // how often a signal is looked for

enum status deal_open(struct deal **out, const struct deal_config *c, struct err *e) {
    enum status st = OK;
    struct deal *d = NULL;
    TRY(mem_zalloc(&d, 1, sizeof *d, e));
    d->cfg = *c;
    d->due = (struct part_config){.commit_s = c->commit_s, .checkpoint_s = c->checkpoint_s};
    pthread_mutex_init(&d->mu, NULL);
    pthread_cond_init(&d->moved, NULL);
    pthread_cond_init(&d->told, NULL);
    sbuf_init(&d->notes);
done:
    *out = d;
    return st;
}

static void free_part(struct deal_part *p) {
    for (size_t i = 0; i < p->n_doc; i++) deal_free_doc(p->docs[i]);
    mem_free(p->docs);
    mem_free(p);
}

void deal_close(struct deal *d) {
    if (d == NULL) return;
    for (size_t i = 0; i < d->n_part; i++) free_part(d->parts[i]);
    mem_free(d->parts);
    sbuf_fini(&d->notes);
    pthread_cond_destroy(&d->moved);
    pthread_cond_destroy(&d->told);
    pthread_mutex_destroy(&d->mu);
    mem_free(d);
}

const struct part_totals *deal_totals_held(const struct deal *d) {
    return &d->totals;
}

int deal_workers_held(const struct deal *d, const struct deal_worker **w) {
    *w = d->workers;
    return d->n_worker;
}

static void stop(struct deal *d) {
    atomic_store(&d->stop, true);
    pthread_cond_broadcast(&d->moved);
}

static void fail(struct deal *d, const struct err *why) {
    if (d->failed.code == OK) d->failed = *why;
    stop(d);
}

void deal_leave(struct deal *d, int worker, enum status st, const struct err *why) {
    pthread_mutex_lock(&d->mu);
    struct deal_worker *w = &d->workers[worker];
    const bool device = st == E_DEVICE || st == E_NOMEM;
    w->alive = false;
    d->n_alive--;
    if (device) snprintf(w->why, sizeof w->why, "%.255s", why->msg);
    if (device && d->n_alive > 0) {
        char text[640];
        snprintf(text, sizeof text, "%s is set aside, its documents go to the others: %s", w->name,
                 why->msg);
        sbuf_putc(&d->notes, 'w');
        sbuf_add(&d->notes, text, strlen(text) + 1);
        pthread_cond_broadcast(&d->moved); // checkpoints of its kind may be anybody's now
    } else if (st != OK) {
        struct err last = *why;
        if (device && strcmp(w->kind, "cuda") == 0) last.code = E_DEVICE;
        d->none_left = device && d->failed.code == OK;
        if (d->none_left && d->n_worker > 1) err_prefix(&last, "no device is left; %s: ", w->name);
        fail(d, &last);
    }
    pthread_cond_signal(&d->told);
    pthread_mutex_unlock(&d->mu);
}

/* ---- parts ---- */

static enum status take_up(struct deal *d, struct part_job *j, struct err *e) {
    enum status st = OK;
    struct deal_part *p = NULL;
    TRY(mem_grow(&d->parts, &d->cap_part, d->n_part + 1, sizeof *d->parts, e));
    TRY(mem_zalloc(&p, 1, sizeof *p, e));
    p->job = j;
    p->begin = j->mark;
    p->serial = ++d->serial;
    p->end = -1;
    part_clock_start(&p->clock, &j->mark);
    d->parts[d->n_part++] = p;
    if (j->state.n == 0) goto done;
    struct err why = {.code = OK};
    st = deal_load(d, p, &why);
    sbuf_fini(&j->state);
    if (st == E_FORMAT) { // an optimisation: its loss costs time and nothing else
        char text[640];
        snprintf(text, sizeof text, "checkpoint not used: %s", why.msg);
        sbuf_putc(&d->notes, 'w');
        sbuf_add(&d->notes, text, strlen(text) + 1);
        TRY(j->out.drop_document(j->out.ctx, e));
    } else if (st != OK) {
        st = err_fail(e, st, "%s", why.msg);
    }
done:
    return st;
}

// Without the lock but for what is shared.
static enum status next_part(struct deal *d, const struct part_source *src, struct err *e) {
    enum status st = OK;
    struct part_job *j = NULL;
    pthread_mutex_unlock(&d->mu);
    st = src->next(src->ctx, &j, e);
    pthread_mutex_lock(&d->mu);
    d->want_part = false;
    if (st == OK && j != NULL) {
        st = take_up(d, j, e);
    } else {
        d->sealed = true;
    }
    pthread_cond_broadcast(&d->moved);
    return st;
}

static enum status end_part(struct deal *d, size_t i, const struct part_source *src,
                            enum status how, const struct err *why, struct err *e) {
    enum status st = OK;
    struct deal_part *p = d->parts[i];
    memmove(d->parts + i, d->parts + i + 1, (d->n_part - i - 1) * sizeof *d->parts);
    d->n_part--;
    pthread_mutex_unlock(&d->mu);
    if (how == OK) st = deal_commit(p, NULL, false, e);
    struct err wrong = {.code = OK};
    if (st != OK && e != NULL) wrong = *e;
    const enum status ended =
        src->end(src->ctx, p->job, st != OK ? st : how, st != OK ? &wrong : why, e);
    if (st == OK) st = ended;
    free_part(p);
    pthread_mutex_lock(&d->mu);
    pthread_cond_broadcast(&d->moved);
    return st;
}

static bool find_through(const struct deal *d, size_t *i) {
    for (*i = 0; *i < d->n_part; ++*i) {
        if (deal_is_through(d->parts[*i])) return true;
    }
    return false;
}

/* ---- talking ---- */

static void talk(struct deal *d, const struct part_config *hooks) {
    for (size_t at = 0; at < d->notes.n;) {
        const char *text = d->notes.s + at + 1;
        if (hooks->note != NULL)
            hooks->note(hooks->ctx, d->notes.s[at] == 'w' ? RUN_WARNING : RUN_INFO, text);
        at += strlen(text) + 2;
    }
    sbuf_clear(&d->notes);
    if (d->news && hooks->progress != NULL) hooks->progress(hooks->ctx, &d->totals, d->source);
    d->news = false;
}

static void wait_a_little(struct deal *d) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += ASK_NS;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&d->told, &d->mu, &t);
}

// What is in progress is given up: saved first, where what is at hand may be believed.
static enum status give_up_part(struct deal *d, const struct part_source *src, bool *whole,
                                struct err *e) {
    enum status st = OK;
    struct deal_part *p = d->parts[0];
    struct err why = d->failed;
    const bool cancel = why.code == E_CANCEL;
    *whole = cancel && !p->broken && deal_is_through(p);
    if (*whole) return end_part(d, 0, src, OK, NULL, e);
    if ((cancel || d->none_left) && !p->broken) {
        struct err wrong = {.code = OK};
        st = deal_commit(p, NULL, true, &wrong);
        if (st != OK) why = wrong;
    }
    struct err ended = {.code = OK};
    (void)end_part(d, 0, src, why.code, &why, &ended);
    return st != OK ? err_fail(e, st, "%s", why.msg) : OK;
}

static enum status give_up(struct deal *d, const struct part_source *src, struct err *e) {
    enum status st = OK;
    bool all = d->failed.code == E_CANCEL;
    while (d->n_part > 0) {
        bool whole = false;
        const enum status one = give_up_part(d, src, &whole, st == OK ? e : NULL);
        if (st == OK) st = one;
        all &= whole;
    }
    if (st == OK && all && !d->sealed) { // a job that is all done is done, not stopped
        struct part_job *j = NULL;
        TRY(src->next(src->ctx, &j, e));
        if (j == NULL) return OK;
        (void)src->end(src->ctx, j, E_CANCEL, &d->failed, NULL);
    }
    if (st == OK && !(all && d->sealed)) FAIL(e, d->failed.code, "%s", d->failed.msg);
done:
    return st;
}

enum status deal_lead(struct deal *d, const struct part_source *src,
                      const struct part_config *hooks, struct err *e) {
    enum status st = OK;
    size_t i = 0;
    pthread_mutex_lock(&d->mu);
    while (d->n_alive > 0) {
        struct err why = {.code = OK};
        talk(d, hooks);
        if (!atomic_load(&d->stop) && hooks->stop.asked != NULL &&
            hooks->stop.asked(hooks->stop.ctx)) {
            err_fail(&why, E_CANCEL, "stopped on request");
            fail(d, &why);
        }
        if (d->failed.code == OK && find_through(d, &i)) {
            const struct err *broken = d->parts[i]->broken ? &d->parts[i]->why : NULL;
            const struct err copy = broken != NULL ? *broken : why;
            st = end_part(d, i, src, copy.code, &copy, &why);
        } else if (d->failed.code == OK && d->want_part && d->n_part < 2 * (size_t)d->n_alive) {
            st = next_part(d, src, &why);
        } else {
            wait_a_little(d);
        }
        if (st != OK) fail(d, &why);
        st = OK;
    }
    talk(d, hooks);
    if (d->failed.code == OK) { // ended by the last worker before it was seen here
        while (st == OK && find_through(d, &i)) {
            const struct err copy = d->parts[i]->why;
            st = end_part(d, i, src, copy.code, &copy, e);
        }
    }
    if (st == OK && d->failed.code != OK) st = give_up(d, src, e);
    pthread_mutex_unlock(&d->mu);
    return st;
}
