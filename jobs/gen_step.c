/* Tokens: one more of every stream, and what follows from it. */
#include "jobs/gen_impl.h"

#include "base/mem.h"
#include "base/num.h"

#include <math.h>
#include <string.h>

static int setting_of(const struct gen_doc *d, const struct gen_track *t) {
    return (int)(t - d->tracks);
}

/* ---- what is kept of a token ---- */

static enum status keep_for_row(struct generator *g, struct gen_track *t, const struct gen_ask *a,
                                const struct stream_event *ev, struct err *e) {
    enum status st = OK;
    const size_t n = (size_t)t->n_new, n_top = (size_t)ev->n_top;
    if (a->token_ids || a->logprobs >= 0) {
        TRY(mem_grow(&t->ids, &t->cap_ids, n + 1, sizeof *t->ids, e));
        t->ids[n] = ev->id;
    }
    if (a->logprobs >= 0) {
        TRY(mem_grow(&t->logp, &t->cap_logp, n + 1, sizeof *t->logp, e));
        t->logp[n] = g->exact ? ev->logp : num_round_f32(ev->logp);
    }
    if (a->logprobs > 0) {
        TRY(mem_grow(&t->tops.ids, &t->tops.cap_ids, (n + 1) * n_top, sizeof *t->tops.ids, e));
        TRY(mem_grow(&t->tops.logp, &t->tops.cap_logp, (n + 1) * n_top, sizeof *t->tops.logp, e));
        for (size_t i = 0; i < n_top; i++) {
            t->tops.ids[n * n_top + i] = ev->top_id[i];
            t->tops.logp[n * n_top + i] =
                g->exact ? ev->top_logp[i] : num_round_f32(ev->top_logp[i]);
        }
    }
done:
    return st;
}

// More tokens than a row can hold: its texts and lists are let go.
static void leave_row(struct gen_track *t) {
    t->answer_over = true;
    sbuf_fini(&t->answer);
    sbuf_fini(&t->turns);
    mem_free(t->ids);
    mem_free(t->logp);
    mem_free(t->tops.ids);
    mem_free(t->tops.logp);
    t->ids = NULL;
    t->logp = NULL;
    t->tops = (struct gen_tops){.ids = NULL};
    t->cap_ids = t->cap_logp = 0;
}

static enum status keep_in_block(struct generator *g, struct gen_track *t, int32_t id, double logp,
                                 struct err *e) {
    enum status st = OK;
    if (!g->cfg.part.man->generate.tokens) goto done;
    if (t->block_ids == NULL) TRY(mem_zalloc(&t->block_ids, DOC_BLOCK, sizeof *t->block_ids, e));
    if (t->block_logp == NULL) TRY(mem_zalloc(&t->block_logp, DOC_BLOCK, sizeof *t->block_logp, e));
    t->block_ids[t->n_block] = id;
    t->block_logp[t->n_block++] = logp;
done:
    return st;
}

// Rows that wait behind a long answer do not wait in memory.
static enum status put_aside(struct generator *g, struct gen_track *t, struct err *e) {
    enum status st = OK;
    TRY(mem_grow(&t->chunks, &t->cap_chunk, t->n_chunk + 1, sizeof *t->chunks, e));
    TRY(part_chunk_put(g->out, &t->chunks[t->n_chunk], t->held.s, t->held.n, e));
    t->n_chunk++;
    sbuf_clear(&t->held);
done:
    return st;
}

static enum status end_block(struct generator *g, struct gen_doc *d, struct gen_track *t,
                             struct err *e) {
    if (t->n_block == 0) return OK;
    gen_print_block(g, d, setting_of(d, t), &t->held);
    t->n_block = 0;
    sbuf_clear(&t->block_text);
    const bool aside = t->held.n >= GEN_SPOOL_BYTES && !gen_is_next(g, d, t);
    const enum status st = sbuf_status(&t->held, e);
    return st == OK && aside ? put_aside(g, t, e) : st;
}

// Text that has become certain goes where it is wanted.
static enum status take_text(struct generator *g, struct gen_track *t, struct err *e) {
    const bool block = g->cfg.part.man->generate.tokens;
    if (block) sbuf_add(&t->block_text, g->scratch.s, g->scratch.n);
    if (!t->answer_over) sbuf_add(&t->answer, g->scratch.s, g->scratch.n);
    const enum status st = sbuf_status(&t->answer, e);
    return st != OK ? st : sbuf_status(&t->block_text, e);
}

/* ---- the end of a turn ---- */

static enum status next_ids(struct generator *g, struct gen_doc *d, struct gen_track *t,
                            struct sbuf *ids, struct err *e) {
    enum status st = OK;
    const struct gen_chat chat = {g->cfg.chat, g->cfg.no_chat, g->cfg.part.tok};
    int32_t piece[256], unfed = 0;
    // The id that ends an answer is written by the template, which knows where it belongs.
    if (!t->ended_by_id && stream_unfed(g->stream, t->slot, &unfed)) {
        sbuf_add(ids, &unfed, sizeof unfed);
    }
    sbuf_clear(&g->scratch);
    TRY(gen_prompt_turn(&d->prompt, &chat, t->turn, &g->scratch, e));
    tok_stream_reset(g->tok);
    TRY(tok_feed(g->tok, sbuf_str(&g->scratch), g->scratch.n, e));
    TRY(tok_finish(g->tok, e));
    for (size_t n; (n = tok_take(g->tok, piece, NULL, COUNTOF(piece))) > 0;) {
        sbuf_add(ids, piece, n * sizeof piece[0]);
    }
    TRY(sbuf_status(ids, e));
done:
    return st;
}

static enum status begin_turn(struct generator *g, struct gen_doc *d, struct gen_track *t,
                              struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    struct sbuf ids;
    sbuf_init(&ids);
    st = next_ids(g, d, t, &ids, &why);
    t->n_turn = 0;
    t->finish = GEN_UNFINISHED;
    gen_set_how(g, d, t);
    const int64_t n = (int64_t)(ids.n / sizeof(int32_t));
    struct vis_rule rule = t->rule;
    if (st == OK) st = gen_turn_rule(g, t, stream_pos(g->stream, t->slot), n, &rule, &why);
    if (st == OK) st = stream_rule(g->stream, t->slot, &rule, &why);
    if (st == OK) t->rule = rule;
    const int32_t *list = (const int32_t *)(const void *)ids.s;
    if (st == OK) st = stream_turn(g->stream, t->slot, &t->how, list, n, &why);
    if (st != OK) st = gen_fail(g, d, &why, e);
    t->n_prompt += n;
    t->n_turn_prompt = n;
    sbuf_fini(&ids);
    return st;
}

static enum status end_turn(struct generator *g, struct gen_doc *d, struct gen_track *t,
                            struct err *e) {
    enum status st = OK;
    sbuf_clear(&g->scratch);
    TRY(gen_text_end(&t->text, &g->scratch, e));
    TRY(take_text(g, t, e));
    if (d->prompt.kind == GEN_TURNS && !t->answer_over) gen_print_turn(t, &t->turns);
    TRY(sbuf_status(&t->turns, e));
    if (++t->turn < d->prompt.n_turn) {
        sbuf_clear(&t->answer);
        TRY(begin_turn(g, d, t, e));
        goto done;
    }
    TRY(end_block(g, d, t, e));
    t->done = true;
    const int slot = t->slot;
    t->slot = -1;
    g->track_of_slot[slot] = NULL;
    g->doc_of_slot[slot] = NULL;
    TRY(stream_leave(g->stream, slot, NULL, NULL, e));
done:
    return st;
}

/* ---- a step ---- */

// The turn's prompt is through: from now on tokens come one at a time.
static enum status end_chunk(struct generator *g, struct gen_track *t, struct err *e) {
    if (g->cfg.part.man->generate.turn != MAN_TURN_CHUNK || t->rule.n_chunk == 1) return OK;
    t->rule.n_chunk = 1;
    t->rule.n_prefill = 0;
    return stream_rule(g->stream, t->slot, &t->rule, e);
}

static enum status add_token(struct generator *g, struct gen_doc *d, struct gen_track *t,
                             const struct stream_event *ev, struct err *e) {
    enum status st = OK;
    const struct gen_ask *a = gen_ask_of(g, d);
    const double x = g->exact ? ev->logp : num_round_f32(ev->logp);
    const struct gen_stops stops = {a->stop, a->n_stop};
    const bool ends = ev->end == STREAM_EOS || ev->end == STREAM_STOP;
    bool stopped = false;
    if (t->n_turn == 0) TRY(end_chunk(g, t, e));
    if (!t->answer_over && t->n_new == MAN_ROW_TOKENS) leave_row(t);
    if (!t->answer_over) TRY(keep_for_row(g, t, a, ev, e));
    TRY(keep_in_block(g, t, ev->id, x, e));
    num_sum_add(&t->sum, x);
    num_sum_add(&g->totals.sum, x);
    g->totals.num_scored++;
    g->totals.tokens++;
    t->n_new++;
    t->n_turn++;
    if (!ends) { // what ended the answer is no part of its text
        const bool may_stop = a->n_stop > 0 && t->n_turn > a->how.min_new;
        sbuf_clear(&g->scratch);
        TRY(gen_text_add(&t->text, g->cfg.part.tok, ev->id, may_stop ? &stops : NULL, &g->scratch,
                         &stopped, e));
        TRY(take_text(g, t, e));
    }
    t->ended_by_id = ends;
    if (ends || stopped) t->finish = GEN_STOP;
    if (!ends && !stopped && ev->end == STREAM_LENGTH) t->finish = GEN_LENGTH;
    if (stopped && ev->end == STREAM_GOES_ON) stream_hold(g->stream, t->slot);
    if (t->finish != GEN_UNFINISHED) TRY(end_turn(g, d, t, e));
    if (t->n_block == DOC_BLOCK) TRY(end_block(g, d, t, e));
done:
    return st;
}

// What is done about an event may take the engine's own away.
static void copy_event(struct gen_event *to, const struct stream_event *ev) {
    to->ev = *ev;
    to->why = ev->why != NULL ? *ev->why : (struct err){.code = OK};
    for (int i = 0; i < ev->n_top; i++) {
        to->top_id[i] = ev->top_id[i];
        to->top_logp[i] = ev->top_logp[i];
    }
    to->ev.top_id = to->top_id;
    to->ev.top_logp = to->top_logp;
}

enum status gen_step(struct generator *g, struct err *e) {
    enum status st = OK;
    if (stream_live(g->stream) == 0) goto done;
    TRY(stream_step(g->stream, &g->cfg.part.stop, e));
    const int n = stream_events(g->stream);
    for (int i = 0; i < n; i++) copy_event(&g->events[i], stream_event(g->stream, i));
    for (int i = 0; i < n; i++) {
        const struct stream_event *ev = &g->events[i].ev;
        struct gen_doc *d = g->doc_of_slot[ev->slot];
        struct gen_track *t = g->track_of_slot[ev->slot];
        if (t == NULL) continue; // its document failed under another setting just now
        if (ev->end == STREAM_FAILED) {
            TRY(gen_fail(g, d, &g->events[i].why, e));
        } else {
            TRY(add_token(g, d, t, ev, e));
        }
    }
done:
    return st;
}
