#include "jobs/score.h"

#include "base/mem.h"
#include "jobs/score_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* As many rows as were asked for, or half as often as the device has room. */
static enum status open_span(struct scorer *s, struct err *e) {
    for (;;) {
        struct err why = {.code = OK};
        const enum status st = span_open(&s->span, s->cfg.mo, s->n_row, &why);
        if (st != E_NOMEM || s->n_row / 2 < SCORE_ROWS_LEAST || s->n_row / 2 < s->n_setting) {
            return st == OK ? OK : err_fail(e, st, "%s", why.msg);
        }
        s->n_row /= 2;
    }
}

enum status score_open(struct scorer **out, const struct part_config *c, struct deal *d, int worker,
                       struct err *e) {
    enum status st = OK;
    struct scorer *s = NULL;
    *out = NULL;
    TRY(mem_zalloc(&s, 1, sizeof *s, e));
    s->cfg = *c;
    s->deal = d;
    s->worker = worker;
    s->n_row = c->n_row > (int64_t)c->man->n_settings ? c->n_row : (int64_t)c->man->n_settings;
    s->n_setting = (int)c->man->n_settings;
    s->exact = dev_kv_dtype(c->mo->dev) == DT_F64;
    sbuf_init(&s->line);
    TRY(mem_zalloc(&s->rules, c->man->n_settings, sizeof *s->rules, e));
    for (int i = 0; i < s->n_setting; i++) s->rules[i] = part_rule(&c->man->settings[i]);
    TRY(doc_reader_init(&s->reader, c->tok, c->man, c->add_bos, e));
    TRY(open_span(s, e));
    *out = s;
    s = NULL;
done:
    score_close(s);
    return st;
}

void score_close(struct scorer *s) {
    if (s == NULL) return;
    for (int i = 0; i < s->n_doc; i++) doc_free(s->docs[i]);
    part_feed_fini(&s->feed);
    doc_reader_fini(&s->reader);
    span_close(s->span);
    sbuf_fini(&s->line);
    mem_free(s->docs);
    mem_free(s->pieces);
    mem_free(s->rules);
    mem_free(s);
}

int64_t score_rows(const struct scorer *s) {
    return s->n_row;
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

/* Moves the feed to document t of its part. *end: there is none. */
static enum status reach(struct scorer *s, const struct deal_doc *t, struct corpus_doc *from,
                         bool *end, struct err *bad, struct err *e) {
    enum status st = OK;
    if (s->serial != t->serial || s->next > t->index) {
        const struct ledger_mark *begin = deal_begin(t);
        part_feed_begin(&s->feed, s->cfg.plan, deal_plan(t), begin);
        s->serial = t->serial;
        s->next = begin->documents;
    }
    while (s->next <= t->index) {
        TRY(part_feed_next(&s->feed, from, end, bad, e));
        if (*end) break;
        s->next++;
    }
done:
    if (st != OK) s->serial = 0; // the feed is where nobody knows
    return st;
}

static int64_t bytes_read(const struct scorer *s) {
    return s->serial != 0 ? part_feed_bytes(&s->feed, s->reader.doc, s->reader.text_pos) : 0;
}

/* Goes on where a checkpoint ends. *anew: it is of no use, and the document has to be opened again. */
static enum status restore(struct scorer *s, struct doc *d, bool *anew, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    *anew = false;
    if (d->turn->saved.n == 0) goto done;
    st = score_restore(s, d, &d->turn->saved, &why);
    if (st == E_FORMAT) { // an optimisation: its loss costs time and nothing else
        char text[640];
        snprintf(text, sizeof text, "%s: checkpoint not used: %s", d->source, why.msg);
        deal_note(s->deal, RUN_WARNING, text);
        *anew = true;
        s->serial = 0;
        s->reader.doc = NULL;
        TRY(deal_anew(s->deal, d->turn, e));
    } else if (st != OK) {
        st = err_fail(e, st, "%s", why.msg);
    }
done:
    return st;
}

/* Opens the document that has been claimed: it becomes the last of s->docs. */
static enum status open_document(struct scorer *s, struct deal_doc *t,
                                 const struct corpus_doc *from, const struct err *bad, bool *anew,
                                 struct err *e) {
    enum status st = OK;
    struct doc *d = NULL;
    *anew = false;
    TRY(doc_new(&d, from, s->feed.slice, s->n_setting, e));
    TRY(mem_grow(&s->docs, &s->cap_doc, (size_t)s->n_doc + 1, sizeof *s->docs, e));
    d->turn = t;
    if (bad->code != OK) {
        d->failure = *bad;
        d->ended = true;
    } else {
        TRY(open_tracks(s, d, e));
        TRY(doc_reader_begin(&s->reader, s->feed.corpus, d, e));
    }
    TRY(restore(s, d, anew, e));
    if (*anew) goto done;
    deal_locate(s->deal, t, d->slice, d->offset, bytes_read(s));
    s->docs[s->n_doc++] = d;
    d = NULL;
done:
    if (d != NULL && d == s->reader.doc) s->reader.doc = NULL;
    doc_free(d);
    return st;
}

/* Opens the next document that is this device's to do. *none: there is none for now. */
static enum status open_next(struct scorer *s, bool wait, bool *none, struct err *e) {
    enum status st = OK;
    struct deal_doc *t = NULL;
    for (bool end = true, anew = false; end || anew;) {
        struct corpus_doc from = {0};
        struct err bad = {.code = OK}, why = {.code = OK};
        if (!anew) TRY(deal_claim(s->deal, s->worker, wait, &t, e));
        anew = false;
        *none = t == NULL;
        if (*none) goto done;
        end = false;
        st = reach(s, t, &from, &end, &bad, &why);
        if (st == OK && !end) st = open_document(s, t, &from, &bad, &anew, &why);
        if (st == E_NOINPUT) { // what is wrong with one part's inputs is not the others' fault
            deal_break(s->deal, t, &why);
            end = true;
            st = OK;
        } else if (st != OK) {
            const enum status back = deal_return(s->deal, t, NULL, NULL);
            FAIL(e, back != OK ? back : st, "%s", why.msg);
        } else if (end) {
            deal_end(s->deal, t);
        }
    }
done:
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

static enum status fill_span(struct scorer *s, struct err *e) {
    enum status st = OK;
    while (span_room(s->span) >= s->n_setting) {
        if (s->reader.doc == NULL) {
            bool none = false;
            TRY(open_next(s, s->n_doc == 0, &none, e));
            if (none) break;
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
        TRY(deal_tokens(s->deal, d->turn, s->line.s, s->line.n, e));
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
        s->count.sum_logprob += x;
        s->count.num_scored++;
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
        deal_note(s->deal, RUN_WARNING, text);
    }
}

static enum status account(struct scorer *s, const struct score_piece *p, struct err *e) {
    enum status st = OK;
    struct doc *d = p->doc;
    const double *logp = span_logp(s->span) + p->row;
    const int32_t *ids = span_targets(s->span) + p->row;
    s->count = (struct deal_count){.tokens = p->n * s->n_setting};
    TRY(first_entry(s, d, p->first_id, e));
    for (int64_t k = 0; k < p->n && d->failure.code == OK; k++) {
        TRY(add_entry(s, d, ids[k], logp + k, p->n, e)); // setting i's rows follow setting i - 1's
    }
    d->n_done += p->n;
    deal_count(s->deal, d->turn, &s->count);
    warn_length(s, d);
done:
    return st;
}

static enum status finish_document(struct scorer *s, struct doc *d, struct err *e) {
    enum status st = OK;
    struct deal_result r = {.failed = d->failure.code != OK};
    if (!r.failed) TRY(emit_block(s, d, d->n_entries % DOC_BLOCK, e));
    sbuf_clear(&s->line);
    for (int i = 0; i < s->n_setting; i++) {
        const struct man_setting *c = &s->cfg.man->settings[i];
        if (r.failed) {
            doc_print_error(d, c, &s->line);
        } else {
            doc_print_result(d, c, &d->tracks[i], &s->cfg.labels, &s->line);
        }
    }
    TRY(sbuf_status(&s->line, e));
    r.lines = s->line.s;
    r.n = s->line.n;
    r.rows = s->n_setting;
    r.n_tok = d->n_tok * s->n_setting;
    TRY(deal_finish(s->deal, d->turn, &r, e));
    d->turn = NULL;
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

/* ---- saving ---- */

// The one whose results are partly in: there is one at most, and it was claimed first.
static struct doc *middle(const struct scorer *s) {
    struct doc *d = s->n_doc > 0 ? s->docs[0] : NULL;
    return d != NULL && d->n_done > 0 && d->failure.code == OK ? d : NULL;
}

static enum status save_middle(void *ctx, struct sbuf *out, struct err *e) {
    struct scorer *s = ctx;
    return score_save(s, middle(s), out, e);
}

static enum status settle(struct scorer *s, struct err *e) {
    const struct doc *d = middle(s), *last = s->n_doc > 0 ? s->docs[s->n_doc - 1] : NULL;
    const struct deal_hand h = {.worker = s->worker,
                                .middle = d != NULL ? d->turn : NULL,
                                .save = save_middle,
                                .ctx = s,
                                .reading = last != NULL ? last->turn : NULL,
                                .bytes = bytes_read(s),
                                .source = s->n_doc > 0 ? s->docs[0]->source : NULL,
                                .dev = s->cfg.mo->dev};
    return deal_settle(s->deal, &h, e);
}

/* What is in hand goes back, a middle with its state when `save`; the span is empty afterwards. */
static enum status give_back(struct scorer *s, bool save, struct err *e) {
    enum status st = OK;
    struct sbuf state;
    sbuf_init(&state);
    struct doc *d = middle(s);
    if (save && d != NULL) st = score_save(s, d, &state, e);
    for (int i = 0; i < s->n_doc; i++) {
        const bool with = s->docs[i] == d && save && st == OK;
        if (s->docs[i]->turn != NULL) {
            const enum status one =
                deal_return(s->deal, s->docs[i]->turn, with ? &state : NULL, st == OK ? e : NULL);
            if (st == OK) st = one;
        }
        doc_free(s->docs[i]);
    }
    s->n_doc = s->n_piece = 0;
    s->reader.doc = NULL;
    s->serial = 0;
    span_clear(s->span);
    sbuf_fini(&state);
    return st;
}

/* ---- the work ---- */

/* Fewer rows at once from now on: what the failed span held is claimed again. */
static enum status shrink(struct scorer *s, const struct err *why, struct err *e) {
    enum status st = OK;
    char text[640];
    if (s->n_row / 2 < SCORE_ROWS_LEAST || s->n_row / 2 < s->n_setting) {
        FAIL(e, E_NOMEM, "%s", why->msg);
    }
    s->n_row /= 2;
    snprintf(text, sizeof text, "%s: out of memory: goes on with spans of %lld rows (%s)",
             dev_describe(s->cfg.mo->dev), (long long)s->n_row, why->msg);
    deal_note(s->deal, RUN_INFO, text);
    TRY(give_back(s, true, e));
    span_close(s->span);
    s->span = NULL;
    TRY(open_span(s, e));
done:
    return st;
}

static enum status run_span(struct scorer *s, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    st = span_run(s->span, &s->cfg.stop, &why);
    if (st == E_CANCEL) return OK; // asked again by the loop
    if (st == E_NOMEM) return shrink(s, &why, e);
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

// Where to go on has to be known, even if nothing is in hand.
static enum status stop_here(struct scorer *s, struct err *e) {
    enum status st = OK;
    bool none = false;
    if (s->n_doc == 0) TRY(open_next(s, false, &none, e));
    TRY(give_back(s, true, e));
done:
    return st;
}

enum status score_work(struct scorer *s, struct err *e) {
    enum status st = OK;
    do {
        TRY(fill_span(s, e));
        if (s->n_doc == 0) {
            if (!s->cfg.stop.asked(s->cfg.stop.ctx)) break; // nothing is left
        } else if (!s->cfg.stop.asked(s->cfg.stop.ctx)) {
            TRY(settle(s, e));
            TRY(run_span(s, e));
            if (s->n_doc == 0) TRY(settle(s, e));
        }
    } while (!s->cfg.stop.asked(s->cfg.stop.ctx));
    if (s->cfg.stop.asked(s->cfg.stop.ctx)) TRY(stop_here(s, e));
done:
    if (st != OK && s->span != NULL) (void)give_back(s, false, NULL);
    return st;
}
