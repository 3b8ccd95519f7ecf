/* From the logits of a step to tokens: tables for dev_sample, events, candidates. */
#include "core/stream_impl.h"

#include <math.h>
#include <string.h>

/* ---- what a token means for its stream ---- */

static bool among(int32_t id, const int32_t *ids, int n) {
    for (int i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

static enum stream_end end_of(const struct stream_slot *s, int32_t id) {
    const struct stream_how *how = s->how;
    if (!how->ignore_eos && among(id, how->eos, how->n_eos)) return STREAM_EOS;
    if (among(id, how->stop, how->n_stop)) return STREAM_STOP;
    return s->generated >= how->max_new ? STREAM_LENGTH : STREAM_GOES_ON;
}

void stream_accept(struct stream *st, struct stream_slot *s, int32_t id, double logp, int n_top) {
    s->generated++;
    s->last = id;
    s->event = (struct stream_event){.slot = (int)(s - st->slots),
                                     .end = end_of(s, id),
                                     .id = id,
                                     .logp = logp,
                                     .n_top = n_top,
                                     .top_id = s->top_id,
                                     .top_logp = s->top_logp};
    s->has_event = true;
    if (s->event.end != STREAM_GOES_ON) s->state = SLOT_ENDED;
}

void stream_fail(struct stream *st, struct stream_slot *s) {
    s->event = (struct stream_event){
        .slot = (int)(s - st->slots), .end = STREAM_FAILED, .id = -1, .logp = (double)NAN};
    s->event.why = &s->err;
    s->has_event = true;
    s->state = SLOT_ENDED;
}

/* ---- the table ---- */

// A row for slot i's logits: its next token, or with `adjusted` its candidates.
static enum status add_row(struct stream *st, int i, bool adjusted, int n_top, struct err *e) {
    const struct stream_slot *s = &st->slots[i];
    const struct stream_how *how = s->how;
    struct dev_sample_row *row = &st->rows[st->n_sample];
    const bool hold = s->generated < how->min_new;
    const struct samp_ban ban[2] = {{how->eos, hold && !how->ignore_eos ? how->n_eos : 0},
                                    {how->stop, hold ? how->n_stop : 0}};
    *row = (struct dev_sample_row){.logits_row = (int32_t)s->logits_row,
                                   .n_top = n_top,
                                   .top_adjusted = adjusted,
                                   .u = samp_uniform(&how->key, how->first_step + s->generated)};
    st->row_slot[st->n_sample++] = i;
    return samp_table_add(st->table, &how->samp, s->past->seen, ban, row, e);
}

static enum status fill_table(struct stream *st, struct err *e) {
    enum status status = OK;
    st->n_sample = 0;
    samp_table_clear(st->table);
    for (int i = 0; i < st->cfg.n_stream && status == OK; i++) {
        const struct stream_slot *s = &st->slots[i];
        if (s->state != SLOT_LIVE || s->logits_row < 0) continue;
        const int n_top = s->how->n_logprob;
        const bool contrastive = stream_contrastive(s->how);
        if (!contrastive || n_top > 0) status = add_row(st, i, false, n_top, e);
        if (status == OK && contrastive) status = add_row(st, i, true, s->how->samp.top_k, e);
    }
    return status;
}

static enum status run_table(struct stream *st, struct err *e) {
    enum status status = OK;
    struct dev *d = st->mo->dev;
    int64_t n = 0;
    const struct dev_adjust *entries = samp_table_entries(st->table, &n);
    if (n > 0 && (st->b_adjust == NULL || buf_rows(st->b_adjust) < n)) {
        buf_free(st->b_adjust);
        st->b_adjust = NULL;
        status = buf_new(&st->b_adjust, d, BUF_ADJUST, n + n / 2, 1, e);
        if (status != OK) return status;
    }
    if (n > 0) dev_write(d, st->b_adjust, 0, n, entries);
    dev_write(d, st->b_rows, 0, st->n_sample, st->rows);
    const struct dev_sample a = {.logits = st->fwd->logits,
                                 .rows = st->b_rows,
                                 .adjust = st->b_adjust,
                                 .id = st->b_id,
                                 .logp = st->b_logp,
                                 .n_top = st->n_top,
                                 .top_id = st->b_top_id,
                                 .top_logp = st->b_top_logp,
                                 .top_adjusted = st->b_top_adjusted};
    dev_sample(d, &a, st->n_sample);
    dev_read(d, st->b_id, 0, st->n_sample, st->id);
    dev_read(d, st->b_logp, 0, st->n_sample, st->logp);
    const int64_t n_top = (int64_t)st->n_sample * st->n_top;
    dev_read(d, st->b_top_id, 0, n_top, st->top_id);
    dev_read(d, st->b_top_logp, 0, n_top, st->top_logp);
    dev_read(d, st->b_top_adjusted, 0, n_top, st->top_adjusted);
    return fwd_finish(st->fwd, OK, e);
}

/* ---- results ---- */

// The top list of row r of the table, at most n long; returns its length.
static int take_top(const struct stream *st, int r, int n, int32_t *id, double *logp) {
    const int64_t at = (int64_t)r * st->n_top;
    int k = 0;
    for (; k < n && st->top_id[at + k] >= 0; k++) {
        id[k] = st->top_id[at + k];
        logp[k] = st->top_logp[at + k];
    }
    return k;
}

static bool usable(const struct stream *st, struct stream_slot *s, int r) {
    if (st->id[r] == -1)
        (void)err_fail(&s->err, E_FORMAT, "token %lld: the model's logits are NaN or infinite",
                       (long long)s->pos);
    if (st->id[r] == -2)
        (void)err_fail(&s->err, E_ARG, "token %lld: every token id is banned", (long long)s->pos);
    return st->id[r] >= 0;
}

static void take_candidates(const struct stream *st, struct stream_slot *s, int r) {
    const int64_t at = (int64_t)r * st->n_top;
    s->n_cand = 0;
    for (int k = 0; k < s->how->samp.top_k && st->top_id[at + k] >= 0; k++) {
        s->cand[k] = st->top_id[at + k];
        s->cand_logp[k] = st->top_logp[at + k];
        s->cand_log_p[k] = st->top_adjusted[at + k];
        s->n_cand++;
    }
}

enum status stream_sample(struct stream *st, struct err *e) {
    enum status status = fill_table(st, e);
    if (status != OK) return status;
    if (st->n_sample == 0) return fwd_finish(st->fwd, OK, e);
    status = run_table(st, e);
    if (status != OK) return status;
    for (int r = 0; r < st->n_sample; r++) {
        struct stream_slot *s = &st->slots[st->row_slot[r]];
        const bool contrastive = stream_contrastive(s->how);
        if (!usable(st, s, r)) {
            // A stream that has an event already says so with the next step.
            if (!s->has_event) stream_fail(st, s);
        } else if (!contrastive) {
            const int n_top = take_top(st, r, s->how->n_logprob, s->top_id, s->top_logp);
            stream_accept(st, s, st->id[r], st->logp[r], n_top);
            s->unfed = true;
        } else if (!st->rows[r].top_adjusted) {
            s->n_next = take_top(st, r, s->how->n_logprob, s->next_id, s->next_logp);
        } else {
            take_candidates(st, s, r);
        }
    }
    return OK;
}
