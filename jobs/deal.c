/* Claims, and rows on their way out. */
#include "jobs/deal_impl.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    HELD_BYTES = 64 << 20, /* of rows that wait: no further claims past that */
    ASIDE_BYTES = 1 << 16  /* token lines of one document that wait in memory */
};

/* ---- documents and parts ---- */

void deal_free_doc(struct deal_doc *t) {
    if (t == NULL) return;
    sbuf_fini(&t->tokens);
    sbuf_fini(&t->lines);
    sbuf_fini(&t->saved);
    mem_free(t->chunks);
    mem_free(t);
}

bool deal_is_first(const struct deal_doc *t) {
    return t->index == t->part->job->mark.documents;
}

bool deal_is_through(const struct deal_part *p) {
    if (!p->broken) return p->end >= 0 && p->job->mark.documents >= p->end && p->n_doc == 0;
    for (size_t i = 0; i < p->n_doc; i++) {
        if (p->docs[i]->state == DEAL_TAKEN) return false;
    }
    return true;
}

struct deal_doc *deal_new_doc(struct deal *d, struct deal_part *p, struct err *e) {
    struct deal_doc *t = NULL;
    (void)d;
    if (mem_grow(&p->docs, &p->cap_doc, p->n_doc + 1, sizeof *p->docs, e) != OK) return NULL;
    if (mem_zalloc(&t, 1, sizeof *t, e) != OK) return NULL;
    t->part = p;
    t->serial = p->serial;
    t->index = p->job->mark.documents + (int64_t)p->n_doc;
    t->state = DEAL_FREE;
    sbuf_init(&t->tokens);
    sbuf_init(&t->lines);
    sbuf_init(&t->saved);
    p->docs[p->n_doc++] = t;
    p->n_free++;
    return t;
}

static void remove_doc(struct deal *d, struct deal_doc *t) {
    struct deal_part *p = t->part;
    for (size_t i = 0; i < p->n_doc; i++) {
        if (p->docs[i] != t) continue;
        memmove(p->docs + i, p->docs + i + 1, (p->n_doc - i - 1) * sizeof *p->docs);
        p->n_doc--;
        break;
    }
    d->held_bytes -= t->tokens.n + t->lines.n;
    deal_free_doc(t);
    pthread_cond_broadcast(&d->moved);
    pthread_cond_signal(&d->told);
}

/* ---- rows ---- */

enum status deal_put_aside(struct deal *d, struct deal_doc *t, struct err *e) {
    enum status st = OK;
    if (t->tokens.n == 0) goto done;
    TRY(mem_grow(&t->chunks, &t->cap_chunk, t->n_chunk + 1, sizeof *t->chunks, e));
    TRY(part_chunk_put(&t->part->job->out, &t->chunks[t->n_chunk], t->tokens.s, t->tokens.n, e));
    t->n_chunk++;
    d->held_bytes -= t->tokens.n;
    sbuf_clear(&t->tokens);
done:
    return st;
}

// The token lines that waited for the first document's turn.
static enum status flush(struct deal *d, struct deal_doc *t, struct err *e) {
    enum status st = OK;
    const struct part_out *out = &t->part->job->out;
    struct sbuf piece;
    sbuf_init(&piece);
    for (size_t i = 0; i < t->n_chunk; i++) {
        sbuf_clear(&piece);
        TRY(part_chunk_get(out, &t->chunks[i], &piece, e));
        TRY(out->add_open(out->ctx, piece.s, piece.n, e));
    }
    t->n_chunk = t->n_saved_chunk = 0;
    if (t->tokens.n > 0) TRY(out->add_open(out->ctx, t->tokens.s, t->tokens.n, e));
    d->held_bytes -= t->tokens.n;
    sbuf_clear(&t->tokens);
done:
    sbuf_fini(&piece);
    return st;
}

static enum status leave(struct deal *d, struct deal_doc *t, struct err *e) {
    enum status st = OK;
    struct deal_part *p = t->part;
    const struct part_out *out = &p->job->out;
    struct ledger_mark *m = &p->job->mark;
    if (t->failed) {
        TRY(out->drop_document(out->ctx, e));
        TRY(out->add(out->ctx, LEDGER_ERRORS, t->lines.s, t->lines.n, e));
        m->failed++;
    } else {
        TRY(flush(d, t, e));
        out->close_document(out->ctx);
        TRY(out->add(out->ctx, LEDGER_RESULTS, t->lines.s, t->lines.n, e));
        m->rows += t->rows;
        m->tokens += t->n_tok;
    }
    m->documents++;
done:
    return st;
}

enum status deal_advance(struct deal *d, struct deal_part *p, struct err *e) {
    enum status st = OK;
    size_t n = 0;
    while (n < p->n_doc && p->docs[n]->state == DEAL_DONE) {
        TRY(leave(d, p->docs[n], e));
        d->held_bytes -= p->docs[n]->tokens.n + p->docs[n]->lines.n;
        deal_free_doc(p->docs[n++]);
    }
    if (n == 0) goto done;
    if (n < p->n_doc) TRY(flush(d, p->docs[n], e));
done:
    if (n > 0) {
        memmove(p->docs, p->docs + n, (p->n_doc - n) * sizeof *p->docs);
        p->n_doc -= n;
        pthread_cond_broadcast(&d->moved);
        pthread_cond_signal(&d->told);
    }
    return st;
}

enum status deal_tokens(struct deal *d, struct deal_doc *t, const char *lines, size_t n,
                        struct err *e) {
    enum status st = OK;
    pthread_mutex_lock(&d->mu);
    const struct part_out *out = &t->part->job->out;
    if (t->part->broken) goto done;
    if (deal_is_first(t)) {
        TRY(out->add_open(out->ctx, lines, n, e));
        goto done;
    }
    sbuf_add(&t->tokens, lines, n);
    TRY(sbuf_status(&t->tokens, e));
    d->held_bytes += n;
    if (t->tokens.n >= ASIDE_BYTES) TRY(deal_put_aside(d, t, e));
done:
    pthread_mutex_unlock(&d->mu);
    return st;
}

void deal_count(struct deal *d, struct deal_doc *t, const struct deal_count *c) {
    pthread_mutex_lock(&d->mu);
    struct part_job *j = t->part->job;
    t->begun = true;
    if (c->resumed) {
        d->totals.tokens_resumed += c->tokens;
        j->tokens_resumed += c->tokens;
    } else {
        d->totals.tokens += c->tokens;
        j->tokens += c->tokens;
        d->workers[t->worker].tokens += c->tokens;
    }
    num_sum_add(&d->totals.sum, c->sum_logprob);
    d->totals.num_scored += c->num_scored;
    pthread_mutex_unlock(&d->mu);
}

enum status deal_finish(struct deal *d, struct deal_doc *t, const struct deal_result *r,
                        struct err *e) {
    enum status st = OK;
    pthread_mutex_lock(&d->mu);
    struct deal_part *p = t->part;
    d->totals.documents++;
    d->totals.failed += r->failed;
    d->workers[t->worker].documents++;
    if (p->broken) {
        remove_doc(d, t);
        goto done;
    }
    sbuf_add(&t->lines, r->lines, r->n);
    TRY(sbuf_status(&t->lines, e));
    d->held_bytes += t->lines.n;
    sbuf_fini(&t->saved);
    t->state = DEAL_DONE;
    t->failed = r->failed;
    t->rows = r->rows;
    t->n_tok = r->n_tok;
    TRY(deal_advance(d, p, e));
done:
    pthread_mutex_unlock(&d->mu);
    return st;
}

enum status deal_begin_anew(struct deal *d, struct deal_doc *t, struct err *e) {
    enum status st = OK;
    const struct part_out *out = &t->part->job->out;
    t->begun = false;
    t->n_chunk = t->n_saved_chunk = 0;
    d->held_bytes -= t->tokens.n;
    sbuf_clear(&t->tokens);
    sbuf_fini(&t->saved);
    if (deal_is_first(t)) TRY(out->drop_document(out->ctx, e));
done:
    return st;
}

enum status deal_anew(struct deal *d, struct deal_doc *t, struct err *e) {
    pthread_mutex_lock(&d->mu);
    const enum status st = t->part->broken ? OK : deal_begin_anew(d, t, e);
    pthread_mutex_unlock(&d->mu);
    return st;
}

enum status deal_return(struct deal *d, struct deal_doc *t, const struct sbuf *state,
                        struct err *e) {
    enum status st = OK;
    pthread_mutex_lock(&d->mu);
    if (t->part->broken) {
        remove_doc(d, t);
        goto done;
    }
    if (state != NULL) {
        TRY(deal_put_aside(d, t, e));
        sbuf_clear(&t->saved);
        sbuf_add(&t->saved, state->s, state->n);
        TRY(sbuf_status(&t->saved, e));
        t->n_saved_chunk = t->n_chunk;
        memcpy(t->kind, d->workers[t->worker].kind, sizeof t->kind);
    } else if (t->begun && t->saved.n > 0 && !deal_is_first(t)) {
        t->n_chunk = t->n_saved_chunk; // what was saved is behind no line that has left
        d->held_bytes -= t->tokens.n;
        sbuf_clear(&t->tokens);
    } else if (t->begun) {
        TRY(deal_begin_anew(d, t, e));
    }
    t->begun = false;
    t->state = DEAL_FREE;
    t->part->n_free++;
    pthread_cond_broadcast(&d->moved);
done:
    pthread_mutex_unlock(&d->mu);
    return st;
}

/* ---- claims ---- */

void deal_join(struct deal *d, int worker, const char *name, const char *kind) {
    struct deal_worker *w = &d->workers[worker];
    snprintf(w->name, sizeof w->name, "%s", name);
    snprintf(w->kind, sizeof w->kind, "%s", kind);
    w->alive = true;
    d->n_worker++;
    d->n_alive++;
}

// A checkpoint is for its own kind of device, as long as there is one.
static bool suits(const struct deal *d, const struct deal_doc *t, int worker) {
    if (t->saved.n == 0 || strcmp(t->kind, d->workers[worker].kind) == 0) return true;
    for (int i = 0; i < d->n_worker; i++) {
        if (d->workers[i].alive && strcmp(t->kind, d->workers[i].kind) == 0) return false;
    }
    return true;
}

static struct deal_doc *returned(const struct deal *d, const struct deal_part *p, int worker) {
    for (size_t i = 0; p->n_free > 0 && i < p->n_doc; i++) {
        struct deal_doc *t = p->docs[i];
        const bool now = i == 0 || d->held_bytes < HELD_BYTES;
        if (now && t->state == DEAL_FREE && suits(d, t, worker)) return t;
    }
    return NULL;
}

static enum status find(struct deal *d, int worker, struct deal_doc **out, struct err *e) {
    *out = NULL;
    for (size_t i = 0; i < d->n_part && *out == NULL; i++) {
        struct deal_part *p = d->parts[i];
        if (p->broken) continue;
        *out = returned(d, p, worker);
        if (*out != NULL || p->end >= 0 || (p->n_doc > 0 && d->held_bytes >= HELD_BYTES)) continue;
        *out = deal_new_doc(d, p, e);
        if (*out == NULL) return E_NOMEM;
    }
    if (*out == NULL) return OK;
    (*out)->state = DEAL_TAKEN;
    (*out)->worker = worker;
    (*out)->saved_ns = clock_ns();
    (*out)->part->n_free--;
    return OK;
}

enum status deal_claim(struct deal *d, int worker, bool wait, struct deal_doc **out,
                       struct err *e) {
    enum status st = OK;
    *out = NULL;
    pthread_mutex_lock(&d->mu);
    while (!(wait && atomic_load(&d->stop)) && !(d->sealed && d->n_part == 0)) {
        TRY(find(d, worker, out, e));
        if (*out != NULL) break;
        // Several devices have the next part at hand; one alone takes it when it has nothing else.
        d->want_part |= !d->sealed && (wait || d->n_alive > 1);
        pthread_cond_signal(&d->told);
        if (!wait) break;
        pthread_cond_wait(&d->moved, &d->mu);
    }
done:
    pthread_mutex_unlock(&d->mu);
    return st;
}

const struct plan_part *deal_plan(const struct deal_doc *t) {
    return t->part->job->part;
}

const struct ledger_mark *deal_begin(const struct deal_doc *t) {
    return &t->part->begin;
}

void deal_locate(struct deal *d, struct deal_doc *t, int slice, int64_t offset, int64_t bytes) {
    pthread_mutex_lock(&d->mu);
    struct part_job *j = t->part->job;
    if (t->index == t->part->begin.documents && j->bytes == 0) j->bytes = j->bytes_begun = bytes;
    t->located = true;
    t->slice = slice;
    t->offset = offset;
    pthread_mutex_unlock(&d->mu);
}

void deal_end(struct deal *d, struct deal_doc *t) {
    pthread_mutex_lock(&d->mu);
    struct deal_part *p = t->part;
    if (p->end < 0 || t->index < p->end) p->end = t->index;
    remove_doc(d, t);
    pthread_mutex_unlock(&d->mu);
}

void deal_break(struct deal *d, struct deal_doc *t, const struct err *why) {
    pthread_mutex_lock(&d->mu);
    struct deal_part *p = t->part;
    if (!p->broken) p->why = *why;
    p->broken = true;
    remove_doc(d, t);
    pthread_mutex_unlock(&d->mu);
}

/* ---- between spans ---- */

static enum status save_middle(struct deal *d, const struct deal_hand *h, struct err *e) {
    enum status st = OK;
    struct deal_doc *t = h->middle;
    struct sbuf state;
    sbuf_init(&state);
    if (t == NULL || deal_is_first(t) || t->part->broken) goto done;
    if ((double)(clock_ns() - t->saved_ns) < d->cfg.checkpoint_s * 1e9) goto done;
    TRY(h->save(h->ctx, &state, e));
    TRY(deal_put_aside(d, t, e));
    sbuf_fini(&t->saved);
    t->saved = state;
    sbuf_init(&state);
    t->n_saved_chunk = t->n_chunk;
    t->saved_ns = clock_ns();
    memcpy(t->kind, d->workers[h->worker].kind, sizeof t->kind);
done:
    sbuf_fini(&state);
    return st;
}

enum status deal_settle(struct deal *d, const struct deal_hand *h, struct err *e) {
    enum status st = OK;
    pthread_mutex_lock(&d->mu);
    dev_times(h->dev, d->workers[h->worker].seconds);
    if (h->reading != NULL && h->bytes > h->reading->part->job->bytes) {
        h->reading->part->job->bytes = h->bytes;
    }
    d->source = h->source;
    d->news = true;
    TRY(save_middle(d, h, e));
    for (size_t i = 0; i < d->n_part; i++) {
        if (!d->parts[i]->broken) TRY(deal_commit_if_due(d, d->parts[i], h, e));
    }
done:
    pthread_cond_signal(&d->told);
    pthread_mutex_unlock(&d->mu);
    return st;
}

bool deal_must_stop(void *deal) {
    return atomic_load(&((struct deal *)deal)->stop);
}

void deal_note(void *deal, enum run_note kind, const char *text) {
    struct deal *d = deal;
    pthread_mutex_lock(&d->mu);
    sbuf_putc(&d->notes, kind == RUN_WARNING ? 'w' : 'i');
    sbuf_add(&d->notes, text, strlen(text) + 1);
    pthread_cond_signal(&d->told);
    pthread_mutex_unlock(&d->mu);
}
