#include "jobs/work.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ---- a generator ---- */

static void follow(void *ctx, const struct part_totals *t, const char *source) {
    struct work *w = ctx;
    struct part_job *j = w->job;
    j->tokens = t->tokens - w->before.tokens;
    j->tokens_resumed = t->tokens_resumed - w->before.tokens_resumed;
    j->bytes = t->part_bytes;
    j->bytes_begun = t->part_begun;
    w->only.documents = t->documents;
    w->only.tokens = t->tokens;
    const struct session *s = w->session;
    dev_times(s->step_dev != NULL ? s->step_dev : s->devs[0].dev, w->only.seconds);
    if (w->hooks.progress != NULL) w->hooks.progress(w->hooks.ctx, t, source);
}

static bool asked(void *ctx) {
    const struct work *w = ctx;
    return w->hooks.stop.asked != NULL && w->hooks.stop.asked(w->hooks.stop.ctx);
}

static void tell(void *ctx, enum run_note kind, const char *text) {
    const struct work *w = ctx;
    if (w->hooks.note != NULL) w->hooks.note(w->hooks.ctx, kind, text);
}

static enum status open_generator(struct work *w, struct err *e) {
    const struct session *s = w->session;
    struct gen_config gc = {
        .ask = &s->ask, .chat = s->chat, .no_chat = &s->no_chat, .n_stream = s->n_stream};
    session_part_config(s, 0, &gc.part);
    gc.part.stop = (struct span_stop){asked, w};
    gc.part.note = tell;
    gc.part.progress = follow;
    gc.part.ctx = w;
    return gen_open(&w->generator, &gc, e);
}

static enum status generate(struct work *w, const struct part_source *src, struct err *e) {
    enum status st = OK;
    for (;;) {
        struct part_job *j = NULL;
        struct err why = {.code = OK};
        TRY(src->next(src->ctx, &j, e));
        if (j == NULL) break;
        w->job = j;
        w->before = *gen_totals(w->generator);
        st = gen_part(w->generator, w->session->plan, j->part, &j->out, &j->mark, &j->state, &why);
        follow(w, gen_totals(w->generator), NULL);
        TRY(src->end(src->ctx, j, st, &why, e));
        if (st != OK && st != E_NOINPUT) FAIL(e, st, "%s", why.msg);
    }
done:
    w->job = NULL;
    return st;
}

/* ---- scorers ---- */

struct hand {
    pthread_t thread;
    struct work *work; /* borrowed */
    int number;
};

static void *hand_main(void *arg) {
    enum status st = OK;
    const struct hand *h = arg;
    struct deal *d = h->work->deal;
    struct scorer *s = NULL;
    struct part_config c;
    struct err why = {.code = OK};
    session_part_config(h->work->session, h->number, &c);
    c.stop = (struct span_stop){deal_must_stop, d};
    st = score_open(&s, &c, d, h->number, &why);
    if (st == OK) st = score_work(s, &why);
    score_close(s);
    deal_leave(d, h->number, st, &why);
    return NULL;
}

// A worker on every device, and this thread to lead them.
static enum status score(struct work *w, const struct part_source *src, struct err *e) {
    enum status st = OK;
    struct hand hands[SESSION_DEVICES];
    const int n = w->session->n_dev;
    int begun = 0;
    for (int i = 0; i < n; i++) {
        const struct session_dev *v = &w->session->devs[i];
        deal_join(w->deal, i, v->name, dev_kind(v->dev));
    }
    for (; begun < n; begun++) {
        struct hand *h = &hands[begun];
        h->work = w;
        h->number = begun;
        if (pthread_create(&h->thread, NULL, hand_main, h) != 0) break;
    }
    for (int i = begun; i < n; i++) {
        struct err why = {.code = OK};
        err_fail(&why, E_NOMEM, "no thread can be started for %s", w->session->devs[i].name);
        deal_leave(w->deal, i, E_NOMEM, &why);
    }
    st = deal_lead(w->deal, src, &w->hooks, e);
    for (int i = 0; i < begun; i++) pthread_join(hands[i].thread, NULL);
    return st;
}

/* ---- either ---- */

enum status work_open(struct work *w, const struct session *s, const struct part_config *hooks,
                      struct err *e) {
    struct part_config c;
    memset(w, 0, sizeof *w);
    w->session = s;
    w->hooks = *hooks;
    snprintf(w->only.name, sizeof w->only.name, "%s", s->devs[0].name);
    if (s->man->job == MAN_GENERATE) return open_generator(w, e);
    session_part_config(s, 0, &c);
    const struct deal_config dc = {c.commit_s, c.checkpoint_s};
    return deal_open(&w->deal, &dc, e);
}

void work_close(struct work *w) {
    deal_close(w->deal);
    gen_close(w->generator);
    memset(w, 0, sizeof *w);
}

enum status work_run(struct work *w, const struct part_source *src, struct err *e) {
    return w->generator != NULL ? generate(w, src, e) : score(w, src, e);
}

const struct part_totals *work_totals(const struct work *w) {
    static const struct part_totals none = {.documents = 0};
    if (w->generator != NULL) return gen_totals(w->generator);
    return w->deal != NULL ? deal_totals_held(w->deal) : &none;
}

int work_devices(const struct work *w, const struct deal_worker **list) {
    *list = &w->only;
    return w->deal != NULL ? deal_workers_held(w->deal, list) : 1;
}
