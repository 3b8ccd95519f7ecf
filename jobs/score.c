#include "jobs/score.h"

#include "base/mem.h"
#include "jobs/score_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum status score_open(struct scorer **out, const struct part_config *c, struct err *e) {
    enum status st = OK;
    struct scorer *s = NULL;
    *out = NULL;
    TRY(mem_zalloc(&s, 1, sizeof *s, e));
    s->cfg = *c;
    s->n_setting = (int)c->man->n_settings;
    s->exact = dev_kv_dtype(c->mo->dev) == DT_F64;
    sbuf_init(&s->line);
    TRY(mem_zalloc(&s->rules, c->man->n_settings, sizeof *s->rules, e));
    for (int i = 0; i < s->n_setting; i++) s->rules[i] = part_rule(&c->man->settings[i]);
    TRY(doc_reader_init(&s->reader, c->tok, c->man, c->add_bos, e));
    TRY(span_open(&s->span, c->mo, c->n_row > s->n_setting ? c->n_row : s->n_setting, e));
    *out = s;
    s = NULL;
done:
    score_close(s);
    return st;
}

static void drop_documents(struct scorer *s) {
    for (int i = 0; i < s->n_doc; i++) doc_free(s->docs[i]);
    s->n_doc = 0;
    s->n_piece = 0;
    s->reader.doc = NULL;
    span_clear(s->span);
    part_feed_fini(&s->feed);
}

void score_close(struct scorer *s) {
    if (s == NULL) return;
    if (s->span != NULL) drop_documents(s);
    doc_reader_fini(&s->reader);
    span_close(s->span);
    sbuf_fini(&s->line);
    mem_free(s->docs);
    mem_free(s->pieces);
    mem_free(s->rules);
    mem_free(s);
}

const struct part_totals *score_totals(const struct scorer *s) {
    return &s->totals;
}

/* ---- opening documents ---- */

static enum status open_tracks(struct scorer *s, struct doc *d, struct err *e) {
    enum status st = OK;
    for (int i = 0; i < s->n_setting; i++) {
        TRY(cache_open(&d->tracks[i].cache, s->cfg.mo, &s->rules[i], e));
    }
done:
    return st;
}

/* Opens the next document of the part: it becomes the last of s->docs. *end when there is none. */
static enum status open_next(struct scorer *s, bool *end, struct err *e) {
    enum status st = OK;
    struct doc *d = NULL;
    struct err bad;
    struct corpus_doc from = {0};
    TRY(part_feed_next(&s->feed, &from, end, &bad, e));
    if (*end) goto done;
    TRY(doc_new(&d, &from, s->feed.slice, s->n_setting, e));
    TRY(mem_grow(&s->docs, &s->cap_doc, (size_t)s->n_doc + 1, sizeof *s->docs, e));
    if (bad.code != OK) {
        d->failure = bad;
        d->ended = true;
    } else {
        TRY(open_tracks(s, d, e));
        TRY(doc_reader_begin(&s->reader, s->feed.corpus, d, e));
    }
    s->docs[s->n_doc++] = d;
    d = NULL;
done:
    doc_free(d);
    return st;
}

/* ---- filling a span ---- */

static enum status add_piece(struct scorer *s, struct doc *d, int64_t n, bool keep, struct err *e) {
    enum status st = OK;
    struct err why = {0};
    TRY(mem_grow(&s->pieces, &s->cap_piece, (size_t)s->n_piece + 1, sizeof *s->pieces, e));
    struct score_piece *p = &s->pieces[s->n_piece];
    *p = (struct score_piece){.doc = d, .n = n, .first_id = s->reader.queue[0]};
    // Under every setting before anything is added: a document fails as a whole.
    for (int i = 0; i < s->n_setting && st == OK; i++) {
        st = span_check(s->span, d->tracks[i].cache, n, &why);
    }
    for (int i = 0; i < s->n_setting; i++) {
        int64_t row = 0;
        if (st == OK)
            st = span_add(s->span, d->tracks[i].cache, s->reader.queue, s->reader.queue + 1, n,
                          keep, &row, &why);
        if (st == E_ARG) { // ids or positions the model does not have: nothing was added
            d->failure = why;
            d->ended = true;
            return OK;
        }
        if (st != OK) return err_fail(e, st, "%s", why.msg);
        if (i == 0) p->row = row;
    }
    s->n_piece++;
    d->n_fed += n;
    doc_reader_advance(&s->reader, (size_t)n);
done:
    return st;
}

// Feeds the document being read until it has nothing left or the span is full.
static enum status feed(struct scorer *s, bool *through, struct err *e) {
    enum status st = OK;
    struct doc *d = s->reader.doc;
    const int64_t room = span_room(s->span) / s->n_setting;
    // One id more than there is room for: the last row's target.
    TRY(doc_reader_fill(&s->reader, (size_t)room + 1, e));
    if (d->failure.code == OK && s->reader.n_queue > 1) {
        const int64_t have = (int64_t)s->reader.n_queue - 1, n = have < room ? have : room;
        TRY(add_piece(s, d, n, !(d->ended && n == have), e));
    }
    *through = d->failure.code != OK || (d->ended && s->reader.n_queue <= 1);
    if (*through && d->n_tok == 1 && s->reader.n_queue == 1) d->only_id = s->reader.queue[0];
done:
    return st;
}

static enum status fill_span(struct scorer *s, bool *end, struct err *e) {
    enum status st = OK;
    *end = false;
    while (span_room(s->span) >= s->n_setting) {
        if (s->reader.doc == NULL) {
            TRY(open_next(s, end, e));
            if (*end) break;
            if (s->docs[s->n_doc - 1]->failure.code != OK) {
                if (s->n_doc * s->n_setting >= SCORE_TRACKS_MOST) break;
                continue;
            }
        }
        bool through = false;
        TRY(feed(s, &through, e));
        if (!through) break; // the span is full
        s->reader.doc = NULL;
        // Documents without rows must not pile up.
        if (s->n_doc * s->n_setting >= SCORE_TRACKS_MOST) break;
    }
done:
    return st;
}

/* ---- accounting ---- */

static enum status emit_block(struct scorer *s, struct doc *d, int64_t n, struct err *e) {
    enum status st = OK;
    if (s->cfg.man->score.tokens && n > 0) {
        sbuf_clear(&s->line);
        for (int i = 0; i < s->n_setting; i++) {
            doc_print_tokens(d, &s->cfg.man->settings[i], &d->tracks[i], d->n_entries - n, n,
                             &s->line);
        }
        TRY(sbuf_status(&s->line, e));
        TRY(s->out->add_open(s->out->ctx, s->line.s, s->line.n, e));
    }
done:
    return st;
}

/* One more token of d has its log-probabilities: logp[i * stride] under setting i. NaN only for the
 * first. */
static enum status add_entry(struct scorer *s, struct doc *d, int32_t id, const double *logp,
                             int64_t stride, struct err *e) {
    enum status st = OK;
    const int64_t at = d->n_entries % DOC_BLOCK;
    TRY(doc_open_block(d, e));
    d->block_ids[at] = id;
    for (int i = 0; i < s->n_setting; i++) {
        struct doc_track *t = &d->tracks[i];
        const double x = s->exact ? logp[i * stride] : num_round_f32(logp[i * stride]);
        t->logp[at] = x;
        if (d->n_entries == 0) continue;
        if (!isfinite(x)) {
            err_fail(&d->failure, E_FORMAT,
                     "setting %s: the model's logits are not finite at token %lld",
                     s->cfg.man->settings[i].name, (long long)d->n_entries);
            goto done;
        }
        num_sum_add(&t->sum, x);
        t->n_scored++;
        num_sum_add(&s->totals.sum, x);
        s->totals.num_scored++;
    }
    d->n_entries++;
    if (d->n_entries % DOC_BLOCK == 0) TRY(emit_block(s, d, DOC_BLOCK, e));
done:
    return st;
}

static enum status first_entry(struct scorer *s, struct doc *d, int32_t id, struct err *e) {
    const double none = NAN;
    return d->n_entries == 0 ? add_entry(s, d, id, &none, 0, e) : OK;
}

// Rotary models run on past the length they were trained at, and get worse: said once.
static void warn_length(struct scorer *s, const struct doc *d) {
    const int64_t n_ctx = model_arch(s->cfg.mo->model)->n_ctx_train;
    for (int i = 0; i < s->n_setting && !s->warned_length; i++) {
        if (!s->rules[i].dense || d->n_done <= n_ctx) continue;
        s->warned_length = true;
        char text[512];
        snprintf(text, sizeof text,
                 "setting %s: %s is longer than the %lld tokens the model was trained at; dense "
                 "attention goes on, with worse predictions",
                 s->cfg.man->settings[i].name, d->source, (long long)n_ctx);
        if (s->cfg.note != NULL) s->cfg.note(s->cfg.ctx, RUN_WARNING, text);
    }
}

static enum status account(struct scorer *s, const struct score_piece *p, struct err *e) {
    enum status st = OK;
    struct doc *d = p->doc;
    const double *logp = span_logp(s->span) + p->row;
    const int32_t *ids = span_targets(s->span) + p->row;
    TRY(first_entry(s, d, p->first_id, e));
    for (int64_t k = 0; k < p->n && d->failure.code == OK; k++) {
        TRY(add_entry(s, d, ids[k], logp + k, p->n, e)); // setting i's rows follow setting i - 1's
    }
    d->n_done += p->n;
    s->totals.tokens += p->n * s->n_setting;
    warn_length(s, d);
done:
    return st;
}

static enum status finish_document(struct scorer *s, struct doc *d, struct err *e) {
    enum status st = OK;
    s->mark.documents++;
    s->totals.documents++;
    sbuf_clear(&s->line);
    if (d->failure.code != OK) {
        s->mark.failed++;
        s->totals.failed++;
        TRY(s->out->drop_document(s->out->ctx, e));
        for (int i = 0; i < s->n_setting; i++)
            doc_print_error(d, &s->cfg.man->settings[i], &s->line);
        TRY(sbuf_status(&s->line, e));
        TRY(s->out->add(s->out->ctx, LEDGER_ERRORS, s->line.s, s->line.n, e));
        goto done;
    }
    TRY(emit_block(s, d, d->n_entries % DOC_BLOCK, e));
    s->out->close_document(s->out->ctx);
    sbuf_clear(&s->line);
    for (int i = 0; i < s->n_setting; i++) {
        doc_print_result(d, &s->cfg.man->settings[i], &d->tracks[i], &s->cfg.labels, &s->line);
    }
    TRY(sbuf_status(&s->line, e));
    TRY(s->out->add(s->out->ctx, LEDGER_RESULTS, s->line.s, s->line.n, e));
    s->mark.rows += s->n_setting;
    s->mark.tokens += d->n_tok * s->n_setting;
done:
    return st;
}

static bool in_progress(const struct scorer *s, const struct doc *d) {
    return d == s->reader.doc && d->failure.code == OK;
}

/* Documents leave in order, up to `until` (NULL: up to the one that is still being read). */
static enum status emit(struct scorer *s, const struct doc *until, struct err *e) {
    enum status st = OK;
    int n = 0;
    while (st == OK && n < s->n_doc && s->docs[n] != until && !in_progress(s, s->docs[n])) {
        struct doc *d = s->docs[n];
        if (d->failure.code == OK && d->n_tok == 1) st = first_entry(s, d, d->only_id, e);
        if (st == OK) st = finish_document(s, d, e);
        if (st != OK) break;
        if (d == s->reader.doc) s->reader.doc = NULL;
        doc_free(d);
        n++;
    }
    memmove(s->docs, s->docs + n, (size_t)(s->n_doc - n) * sizeof *s->docs);
    s->n_doc -= n;
    return st;
}

/* ---- committing ---- */

// Where a run would have to go on if this one ended now.
static enum status locate(struct scorer *s, struct err *e) {
    enum status st = OK;
    bool end = false;
    if (s->n_doc == 0) TRY(open_next(s, &end, e));
    s->mark.slice = s->n_doc > 0 ? s->docs[0]->slice : s->feed.part->n_slice;
    s->mark.offset = s->n_doc > 0 ? s->docs[0]->offset : 0;
done:
    return st;
}

static enum status commit(struct scorer *s, bool with_state, struct err *e) {
    enum status st = OK;
    struct sbuf state;
    sbuf_init(&state);
    TRY(locate(s, e));
    const struct doc *d = s->n_doc > 0 ? s->docs[0] : NULL;
    if (with_state && d != NULL && d->n_done > 0 && d->failure.code == OK)
        TRY(score_save(s, d, &state, e));
    TRY(s->out->commit(s->out->ctx, &s->mark, state.s, state.n, e));
    part_committed(&s->clock, &s->mark, state.n > 0 || d == NULL || d->n_done == 0);
done:
    sbuf_fini(&state);
    return st;
}

static enum status commit_if_due(struct scorer *s, struct err *e) {
    bool with_state = false;
    const bool middle = s->n_doc > 0 && s->docs[0]->n_done > 0;
    const bool due = part_commit_due(&s->clock, &s->cfg, s->out, &s->mark, middle, &with_state);
    return due ? commit(s, with_state, e) : OK;
}

// Gives up the span in hand: back to where the last one ended, and save that.
static enum status stop_here(struct scorer *s, struct err *e) {
    enum status st = OK;
    const int keep = s->n_doc > 0 ? 1 : 0; // the first is where to go on, in its middle or not
    for (int i = keep; i < s->n_doc; i++) doc_free(s->docs[i]);
    s->n_doc = keep;
    struct err why = {0};
    st = commit(s, true, &why);
    if (st != OK) return err_fail(e, st, "%s", why.msg);
    return err_fail(e, E_CANCEL, "stopped on request");
}

static int64_t bytes_read(const struct scorer *s) {
    return part_feed_bytes(&s->feed, s->reader.doc, s->reader.text_pos);
}

/* ---- the part ---- */

static enum status run_span(struct scorer *s, struct err *e) {
    enum status st = OK;
    struct err why = {0};
    st = span_run(s->span, &s->cfg.stop, &why);
    if (st == E_CANCEL) return stop_here(s, e);
    if (st != OK) return err_fail(e, st, "%s", why.msg);
    for (int i = 0; i < s->n_piece; i++) {
        TRY(emit(s, s->pieces[i].doc, e)); // those before it, so that lines stay in document order
        TRY(account(s, &s->pieces[i], e));
    }
    s->n_piece = 0;
    span_clear(s->span);
    TRY(emit(s, NULL, e));
done:
    return st;
}

static enum status begin(struct scorer *s, const struct ledger_mark *mark, const struct sbuf *state,
                         struct err *e) {
    enum status st = OK;
    s->mark = *mark;
    part_clock_start(&s->clock, mark);
    if (state != NULL && state->n > 0) {
        bool end = false;
        TRY(open_next(s, &end, e));
        if (s->n_doc == 0) FAIL(e, E_IO, "the document of a checkpoint is no longer there");
        struct err why = {0};
        st = score_restore(s, s->docs[0], state, &why);
        if (st == E_FORMAT) { // an optimisation: its loss costs time and nothing else
            st = OK;
            char text[640];
            snprintf(text, sizeof text, "%s: checkpoint not used: %s", s->docs[0]->source, why.msg);
            if (s->cfg.note != NULL) s->cfg.note(s->cfg.ctx, RUN_WARNING, text);
            TRY(s->out->drop_document(s->out->ctx, e));
            drop_documents(s);
            part_feed_begin(&s->feed, s->feed.plan, s->feed.part, mark);
        } else if (st != OK) {
            st = err_fail(e, st, "%s", why.msg);
        }
    }
done:
    return st;
}

enum status score_part(struct scorer *s, const struct plan *plan, const struct plan_part *part,
                       const struct part_out *out, struct ledger_mark *mark, struct sbuf *state,
                       struct err *e) {
    enum status st = OK;
    bool end = false;
    s->out = out;
    part_feed_begin(&s->feed, plan, part, mark);
    TRY(begin(s, mark, state, e));
    if (state != NULL) sbuf_fini(state);
    s->totals.part_bytes = s->totals.part_begun = bytes_read(s);
    while (!end || s->n_doc > 0) {
        if (s->cfg.stop.asked != NULL && s->cfg.stop.asked(s->cfg.stop.ctx)) TRY(stop_here(s, e));
        TRY(fill_span(s, &end, e));
        TRY(run_span(s, e));
        s->totals.part_bytes = bytes_read(s);
        if (s->cfg.progress != NULL) {
            s->cfg.progress(s->cfg.ctx, &s->totals, s->n_doc > 0 ? s->docs[0]->source : NULL);
        }
        TRY(commit_if_due(s, e));
    }
    TRY(commit(s, false, e));
done:
    *mark = s->mark;
    drop_documents(s);
    return st;
}
