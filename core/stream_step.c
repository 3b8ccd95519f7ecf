/* One step: a row (or the candidates) of every live stream through the model, and what comes of it. */
#include "core/stream_impl.h"

#include <math.h>

/* ---- planning ---- */

// Rows of the slot in this step: the next fed id, the last generated one, or all candidates.
static int rows_of(const struct stream_slot *s) {
    return s->feed_at < s->n_feed || s->n_cand == 0 ? 1 : s->n_cand;
}

static enum status plan_slot(struct stream *st, int i, struct err *e) {
    enum status status = OK;
    struct stream_slot *s = &st->slots[i];
    s->row = st->n_row;
    s->n_row = rows_of(s);
    const bool aside = s->feed_at >= s->n_feed && s->n_cand > 0;
    for (int k = 0; k < s->n_row && status == OK; k++) {
        const struct fwd_rows rows = {&s->rule, s->pos, st->n_row, 1};
        st->ids[st->n_row++] = s->feed_at < s->n_feed ? s->feed[s->feed_at]
                               : aside                ? s->cand[k]
                                                      : s->last;
        fwd_plan_rows(st->fwd, &rows);
        for (int c = 0; c < st->mo->n_class && status == OK; c++) {
            const struct fwd_place at = {.base = s->lie[c].base,
                                         .front = s->lie[c].front,
                                         .own = aside ? stream_kv_aside(st, i) + k
                                                      : stream_kv_own(st, s, c),
                                         .aside = aside};
            status = fwd_plan_keys(st->fwd, c, &rows, &at, e);
        }
    }
    return status;
}

// Room first: stretches may be laid out anew, and only then do rows have their places.
static enum status plan(struct stream *st, struct err *e) {
    enum status status = OK;
    st->n_row = 0;
    for (int i = 0; i < st->cfg.n_stream; i++) {
        struct stream_slot *s = &st->slots[i];
        s->n_row = 0;
        s->logits_row = -1;
        s->has_event = false;
        if (s->state != SLOT_LIVE || s->err.code != OK) continue;
        if (fwd_check(st->mo, &s->rule, s->pos, 1, &s->err) != OK) continue;
        struct err own = {0};
        status = stream_kv_room(st, s, &own);
        if (status == E_ARG) // the stream's failure, not the step's
            s->err = own;
        else if (status != OK)
            return err_fail(e, status, "%s", own.msg);
    }
    fwd_begin(st->fwd);
    status = OK;
    for (int i = 0; i < st->cfg.n_stream && status == OK; i++)
        if (st->slots[i].state == SLOT_LIVE && st->slots[i].err.code == OK)
            status = plan_slot(st, i, e);
    return status;
}

/* ---- running ---- */

// Keys stay where they were written; a candidate's are adopted once it has been chosen.
static void open_keys(void *ctx, int64_t l, struct buf **k, struct buf **v) {
    const struct stream *st = ctx;
    *k = st->k[l];
    *v = st->v[l];
}

static bool has_candidates(const struct stream_slot *s) {
    return s->n_row > 0 && s->feed_at >= s->n_feed && s->n_cand > 0;
}

static enum status run(struct stream *st, const struct span_stop *stop, struct err *e) {
    struct dev *d = st->mo->dev;
    const struct fwd_block block = {
        .keys = {st, open_keys, NULL}, .ids = st->ids, .targets = st->targets, .n_row = st->n_row};
    const enum status status = fwd_run(st->fwd, &block, stop, e);
    bool any = false;
    for (int i = 0; status == OK && i < st->cfg.n_stream; i++) {
        const struct stream_slot *s = &st->slots[i];
        if (!has_candidates(s)) continue;
        const struct stream_past *p = s->past;
        const struct dev_similar a = {.out = st->b_similar,
                                      .out_row = s->row,
                                      .x = st->fwd->h,
                                      .row = s->row,
                                      .y = p->hidden,
                                      .n_y = p->n_hidden < p->window ? p->n_hidden : p->window};
        dev_similar(d, &a, s->n_row);
        any = true;
    }
    if (status == OK && !any) return OK; // waited for with what is sampled
    if (any) dev_read(d, st->b_similar, 0, st->n_row, st->similar);
    return fwd_finish(st->fwd, status, e);
}

/* ---- what has been fed ---- */

// The candidate with the largest score; the more probable one on ties. -1: hidden states not finite.
static int choose(const struct stream *st, const struct stream_slot *s) {
    const double alpha = s->how->penalty_alpha;
    double best = -INFINITY;
    int which = -1;
    for (int k = 0; k < s->n_cand; k++) {
        const double score = (1 - alpha) * exp(s->cand_log_p[k]) - alpha * st->similar[s->row + k];
        if (isnan(score)) return -1;
        if (score > best) {
            best = score;
            which = k;
        }
    }
    return which;
}

static void adopt(struct stream *st, struct stream_slot *s, int which) {
    stream_kv_adopt(st, s, which);
    for (int k = 0; k < s->n_next; k++) {
        s->top_id[k] = s->next_id[k];
        s->top_logp[k] = s->next_logp[k];
    }
    s->pos++;
    s->logits_row = s->row + which;
    samp_seen_output(s->past->seen, s->cand[which]);
    stream_accept(st, s, s->cand[which], s->cand_logp[which], s->n_next);
    s->n_cand = 0;
    s->n_next = 0;
}

static enum status advance(struct stream *st, struct stream_slot *s, struct err *e) {
    int which = 0;
    if (has_candidates(s)) {
        which = choose(st, s);
        if (which < 0) {
            (void)err_fail(&s->err, E_FORMAT,
                           "token %lld: the model's hidden state is NaN or infinite",
                           (long long)s->pos);
            stream_fail(st, s);
            return OK;
        }
        adopt(st, s, which);
    } else {
        if (s->feed_at < s->n_feed)
            samp_seen_prompt(s->past->seen, &s->feed[s->feed_at++], 1);
        else
            samp_seen_output(s->past->seen, s->last);
        s->unfed = false;
        s->pos++;
        if (s->feed_at == s->n_feed) s->logits_row = s->row;
    }
    return stream_past_hidden(s->past, st->mo->dev, st->fwd->h, s->row + which, 1, e);
}

static void collect_events(struct stream *st) {
    for (int i = 0; i < st->cfg.n_stream; i++) {
        struct stream_slot *s = &st->slots[i];
        if (s->state == SLOT_LIVE && s->err.code != OK && s->n_row == 0) stream_fail(st, s);
        if (s->has_event) st->events[st->n_event++] = s->event;
    }
}

enum status stream_step(struct stream *st, const struct span_stop *stop, struct err *e) {
    CHECK(!st->broken);
    st->n_event = 0;
    enum status status = plan(st, e);
    if (status == OK && st->n_row > 0) {
        status = run(st, stop, e);
        if (status == E_CANCEL) return status;
        for (int i = 0; i < st->cfg.n_stream && status == OK; i++)
            if (st->slots[i].n_row > 0) status = advance(st, &st->slots[i], e);
        if (status == OK) status = stream_sample(st, e);
    }
    if (status == OK)
        collect_events(st);
    else
        st->broken = true;
    return status;
}
