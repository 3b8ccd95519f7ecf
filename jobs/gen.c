#include "jobs/gen.h"

#include "base/clock.h"
#include "base/mem.h"
#include "jobs/gen_impl.h"

#include <stdio.h>
#include <string.h>

enum { MOST_STREAMS = 64, SHOW_NS = 50 * 1000 * 1000 };

const char *gen_finish_name(enum gen_finish f) {
    static const char *const names[] = {"error", "stop", "length"};
    return names[f];
}

int gen_default_streams(int64_t bytes_of_one, int64_t free_bytes) {
    const int64_t n = bytes_of_one > 0 ? free_bytes / 2 / bytes_of_one : MOST_STREAMS;
    return n < 1 ? 1 : n > MOST_STREAMS ? MOST_STREAMS : (int)n;
}

/* ---- opening and closing ---- */

static enum status open_engines(struct generator *g, struct err *e) {
    enum status st = OK;
    const struct part_config *c = &g->cfg.part;
    const struct stream_how *how = &g->cfg.ask->how;
    const struct stream_config sc = {.n_stream = g->cfg.n_stream,
                                     .n_candidate = how->penalty_alpha > 0 ? how->samp.top_k : 0,
                                     .n_logprob = how->n_logprob};
    const int64_t n_row = c->n_row > g->n_setting ? c->n_row : g->n_setting;
    TRY(span_open(&g->span, c->mo, n_row, e));
    TRY(stream_open(&g->stream, c->step_mo, &sc, e));
    TRY(tok_stream_open(&g->tok, c->tok, e));
    TRY(doc_reader_init(&g->reader, c->tok, c->man, c->add_bos, e));
    TRY(mem_zalloc(&g->no_targets, (size_t)n_row, sizeof *g->no_targets, e));
    for (int64_t i = 0; i < n_row; i++) g->no_targets[i] = -1;
done:
    return st;
}

enum status gen_open(struct generator **out, const struct gen_config *c, struct err *e) {
    enum status st = OK;
    struct generator *g = NULL;
    *out = NULL;
    TRY(mem_zalloc(&g, 1, sizeof *g, e));
    g->cfg = *c;
    g->n_setting = (int)c->part.man->n_settings;
    if (g->cfg.n_stream < g->n_setting) g->cfg.n_stream = g->n_setting;
    g->exact = dev_kv_dtype(c->part.mo->dev) == DT_F64;
    const size_t n_stream = (size_t)g->cfg.n_stream;
    TRY(mem_zalloc(&g->rules, c->part.man->n_settings, sizeof *g->rules, e));
    for (int i = 0; i < g->n_setting; i++) g->rules[i] = part_rule(&c->part.man->settings[i]);
    TRY(mem_zalloc(&g->track_of_slot, n_stream, sizeof *g->track_of_slot, e));
    TRY(mem_zalloc(&g->doc_of_slot, n_stream, sizeof *g->doc_of_slot, e));
    TRY(mem_zalloc(&g->events, n_stream, sizeof *g->events, e));
    TRY(open_engines(g, e));
    *out = g;
    g = NULL;
done:
    gen_close(g);
    return st;
}

static void free_track(struct gen_track *t) {
    cache_close(t->cache);
    stream_past_close(t->past);
    sbuf_fini(&t->text.tail);
    sbuf_fini(&t->answer);
    sbuf_fini(&t->turns);
    sbuf_fini(&t->block_text);
    sbuf_fini(&t->held);
    mem_free(t->ids);
    mem_free(t->logp);
    mem_free(t->tops.ids);
    mem_free(t->tops.logp);
    mem_free(t->block_ids);
    mem_free(t->block_logp);
    mem_free(t->chunks);
}

void gen_doc_free(struct gen_doc *d) {
    if (d == NULL) return;
    for (int i = 0; d->tracks != NULL && i < d->d->n_setting; i++) free_track(&d->tracks[i]);
    mem_free(d->tracks);
    gen_prompt_fini(&d->prompt);
    if (d->own_ask) gen_ask_fini(&d->ask);
    doc_free(d->d);
    mem_free(d);
}

static void leave_slot(struct generator *g, struct gen_track *t) {
    if (t->slot < 0) return;
    // Frees the slot whatever happens; nothing of it is wanted.
    const enum status ignored = stream_leave(g->stream, t->slot, NULL, NULL, NULL);
    (void)ignored;
    g->track_of_slot[t->slot] = NULL;
    g->doc_of_slot[t->slot] = NULL;
    t->slot = -1;
}

static void clear_pieces(struct generator *g) {
    for (int i = 0; i < g->n_piece; i++) mem_free(g->pieces[i].ids);
    g->n_piece = 0;
    span_clear(g->span);
}

// Gives up the last documents until n are left.
static void drop_documents(struct generator *g, int n) {
    clear_pieces(g);
    while (g->n_doc > n) {
        struct gen_doc *d = g->docs[--g->n_doc];
        for (int i = 0; d->tracks != NULL && i < g->n_setting; i++) leave_slot(g, &d->tracks[i]);
        if (g->reader.doc == d->d) g->reader.doc = NULL;
        gen_doc_free(d);
    }
}

void gen_close(struct generator *g) {
    if (g == NULL) return;
    if (g->span != NULL && g->stream != NULL) drop_documents(g, 0);
    part_feed_fini(&g->feed);
    doc_reader_fini(&g->reader);
    tok_stream_close(g->tok);
    stream_close(g->stream);
    span_close(g->span);
    sbuf_fini(&g->line);
    sbuf_fini(&g->json);
    sbuf_fini(&g->scratch);
    mem_free(g->no_targets);
    mem_free(g->track_of_slot);
    mem_free(g->doc_of_slot);
    mem_free(g->events);
    mem_free(g->docs);
    mem_free(g->pieces);
    mem_free(g->rules);
    mem_free(g);
}

const struct part_totals *gen_totals(const struct generator *g) {
    return &g->totals;
}

/* ---- documents ---- */

const struct gen_ask *gen_ask_of(const struct generator *g, const struct gen_doc *d) {
    return d->own_ask ? &d->ask : g->cfg.ask;
}

void gen_set_how(struct generator *g, struct gen_doc *d, struct gen_track *t) {
    const struct gen_ask *a = gen_ask_of(g, d);
    t->how = a->how;
    t->how.key = samp_key(a->seed, d->d->source, strlen(d->d->source), d->d->offset);
    t->how.first_step = t->n_new - t->n_turn;
}

enum status gen_fail(struct generator *g, struct gen_doc *d, const struct err *why, struct err *e) {
    if (why->code != E_FORMAT && why->code != E_ARG && why->code != E_UNSUPPORTED) {
        return err_fail(e, why->code, "%s", why->msg);
    }
    d->d->failure = *why;
    d->d->ended = true;
    for (int i = 0; d->tracks != NULL && i < g->n_setting; i++) {
        leave_slot(g, &d->tracks[i]);
        d->tracks[i].done = true;
    }
    return OK;
}

// A chat or a batch's line: what it says is read now, as a whole.
static enum status read_json(struct generator *g, struct gen_doc *d, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    const struct gen_chat chat = {g->cfg.chat, g->cfg.no_chat, g->cfg.part.tok};
    sbuf_clear(&g->json);
    TRY(corpus_read_json(g->feed.corpus, &g->json, e));
    st = gen_prompt_read(&d->prompt, &chat, sbuf_str(&g->json), g->json.n, &why);
    if (st == OK && d->prompt.body != NULL) {
        const int64_t n_vocab = model_arch(g->cfg.part.mo->model)->n_vocab;
        st = gen_ask_of_body(&d->ask, g->cfg.ask, d->prompt.body, n_vocab, &why);
        d->own_ask = st == OK;
    }
    if (st != OK) {
        if (why.code == E_FORMAT || why.code == E_UNSUPPORTED) {
            err_prefix(&why, "%s: byte %lld: ", d->d->source, (long long)d->d->offset);
        }
        st = gen_fail(g, d, &why, e);
    }
done:
    return st;
}

static enum status begin_reading(struct generator *g, struct gen_doc *d, struct err *e) {
    const struct gen_prompt *p = &d->prompt;
    if (p->doc == NULL) return doc_reader_begin(&g->reader, g->feed.corpus, d->d, e);
    if (p->is_ids) return doc_reader_begin_ids(&g->reader, d->d, p->ids, p->n_ids, e);
    const char *text = sbuf_str(&d->prompt.text);
    size_t n = p->text.n, n_bos = 0;
    bool bos = g->cfg.part.add_bos;
    if (p->kind != GEN_TEXT) {
        // A template says itself where a BOS is, unless the manifest knows better.
        const enum man_bos want = man_add_bos(g->cfg.part.man);
        const bool there = chat_begins_with_bos(g->cfg.chat);
        if (there) (void)tok_borrow_piece(g->cfg.part.tok, tok_bos(g->cfg.part.tok), &n_bos);
        if (want != MAN_BOS_FALSE || n_bos > n) n_bos = 0;
        bos = want == MAN_BOS_TRUE && !there;
        d->d->bos = there && want != MAN_BOS_FALSE;
    }
    return doc_reader_begin_text(&g->reader, d->d, text + n_bos, n - n_bos, bos, e);
}

enum status gen_open_next(struct generator *g, bool reading, struct err *e) {
    enum status st = OK;
    struct gen_doc *d = NULL;
    struct err bad;
    struct corpus_doc from = {0};
    TRY(part_feed_next(&g->feed, &from, &g->end, &bad, e));
    if (g->end) goto done;
    TRY(mem_grow(&g->docs, &g->cap_doc, (size_t)g->n_doc + 1, sizeof *g->docs, e));
    TRY(mem_zalloc(&d, 1, sizeof *d, e));
    TRY(doc_new(&d->d, &from, g->feed.slice, g->n_setting, e));
    TRY(mem_zalloc(&d->tracks, (size_t)g->n_setting, sizeof *d->tracks, e));
    for (int i = 0; i < g->n_setting; i++) {
        d->tracks[i].base = &g->rules[i];
        d->tracks[i].rule = g->rules[i];
        d->tracks[i].slot = -1;
    }
    if (bad.code != OK) {
        TRY(gen_fail(g, d, &bad, e));
    } else if (from.is_json) {
        TRY(read_json(g, d, e));
    }
    if (d->d->failure.code == OK && reading) TRY(begin_reading(g, d, e));
    g->docs[g->n_doc++] = d;
    d = NULL;
done:
    if (d != NULL && d->d == NULL) {
        mem_free(d);
    } else {
        gen_doc_free(d);
    }
    return st;
}

/* ---- emitting ---- */

bool gen_is_next(const struct generator *g, const struct gen_doc *d, const struct gen_track *t) {
    return g->n_doc > 0 && g->docs[0] == d && t == &d->tracks[d->n_flushed];
}

// Token rows leave as far as their turn has come: document by document, setting by setting.
static enum status flush_tokens(struct generator *g, struct gen_doc *d, struct err *e) {
    enum status st = OK;
    for (; d->n_flushed < g->n_setting; d->n_flushed++) {
        struct gen_track *t = &d->tracks[d->n_flushed];
        for (size_t i = 0; i < t->n_chunk; i++) {
            sbuf_clear(&g->scratch);
            TRY(part_chunk_get(g->out, &t->chunks[i], &g->scratch, e));
            TRY(g->out->add_open(g->out->ctx, g->scratch.s, g->scratch.n, e));
        }
        t->n_chunk = 0;
        if (t->held.n > 0) TRY(g->out->add_open(g->out->ctx, t->held.s, t->held.n, e));
        sbuf_clear(&t->held);
        if (!t->done) break;
        sbuf_fini(&t->held);
    }
done:
    return st;
}

static bool is_done(const struct generator *g, const struct gen_doc *d) {
    if (d->d->failure.code != OK) return true;
    for (int i = 0; i < g->n_setting; i++) {
        if (!d->tracks[i].done) return false;
    }
    return true;
}

static enum status finish_document(struct generator *g, struct gen_doc *d, struct err *e) {
    enum status st = OK;
    const struct manifest *man = g->cfg.part.man;
    const bool failed = d->d->failure.code != OK;
    g->mark.documents++;
    g->totals.documents++;
    // What it wrote before it failed has been shown to those who follow: it stays.
    g->out->close_document(g->out->ctx);
    sbuf_clear(&g->line);
    for (int i = 0; i < g->n_setting; i++) {
        if (failed) doc_print_error(d->d, &man->settings[i], &g->line);
        if (!failed) gen_print_result(g, d, i, &g->line);
    }
    TRY(sbuf_status(&g->line, e));
    TRY(g->out->add(g->out->ctx, failed ? LEDGER_ERRORS : LEDGER_RESULTS, g->line.s, g->line.n, e));
    if (failed) {
        g->mark.failed++;
        g->totals.failed++;
        goto done;
    }
    g->mark.rows += g->n_setting;
    for (int i = 0; i < g->n_setting; i++) g->mark.tokens += d->tracks[i].n_new;
done:
    return st;
}

// Documents leave in order, up to the first that is not done.
static enum status emit(struct generator *g, struct err *e) {
    enum status st = OK;
    int n = 0;
    while (n < g->n_doc) {
        struct gen_doc *d = g->docs[n];
        st = flush_tokens(g, d, e);
        if (st != OK || !is_done(g, d)) break;
        st = finish_document(g, d, e);
        if (st != OK) break;
        if (g->reader.doc == d->d) g->reader.doc = NULL;
        gen_doc_free(d);
        n++;
    }
    if (n > 0) memmove(g->docs, g->docs + n, (size_t)(g->n_doc - n) * sizeof *g->docs);
    g->n_doc -= n;
    return st;
}

/* ---- committing ---- */

int gen_n_begun(const struct generator *g) {
    int n = 0;
    while (n < g->n_doc && (g->docs[n]->tracks[0].slot >= 0 || g->docs[n]->tracks[0].done)) n++;
    return n;
}

// Where a run would have to go on if this one ended now: at the first document that is not emitted.
static enum status locate(struct generator *g, struct err *e) {
    enum status st = OK;
    if (g->n_doc == 0 && !g->end) TRY(gen_open_next(g, true, e));
    g->mark.slice = g->n_doc > 0 ? g->docs[0]->d->slice : g->feed.part->n_slice;
    g->mark.offset = g->n_doc > 0 ? g->docs[0]->d->offset : 0;
done:
    return st;
}

// A commit without a state would win against the last checkpoint, which knows more of these answers.
static bool knows_more(const struct generator *g) {
    return g->n_doc > 0 && g->docs[0]->kept;
}

static void say(const struct generator *g, const char *what) {
    char text[640];
    snprintf(text, sizeof text, "%s: %s", g->n_doc > 0 ? g->docs[0]->d->source : "part", what);
    if (g->cfg.part.note != NULL) g->cfg.part.note(g->cfg.part.ctx, RUN_WARNING, text);
}

static enum status commit(struct generator *g, bool with_state, struct err *e) {
    enum status st = OK;
    bool late = false;
    TRY(locate(g, e));
    const int n = with_state ? gen_n_begun(g) : 0;
    if (n > 0) TRY(gen_save(g, &late, e));
    if (late && knows_more(g)) {
        say(g, "no time to write a checkpoint: the next run goes on from the one before");
    } else if (late) {
        say(g, "no time to write a checkpoint: the next run begins these answers again");
    }
    if (late && knows_more(g)) goto done;
    const bool saved = n > 0 && !late;
    TRY(g->out->commit(g->out->ctx, &g->mark, NULL, saved ? LEDGER_STATE_PUT : 0, e));
    for (int i = 0; i < n; i++) g->docs[i]->kept = saved;
    g->up_to_date = saved || g->n_doc == 0;
    part_committed(&g->clock, &g->mark, g->up_to_date);
done:
    return st;
}

static enum status commit_if_due(struct generator *g, struct err *e) {
    bool with_state = false;
    const bool due =
        part_commit_due(&g->clock, &g->cfg.part, g->out, &g->mark, g->n_doc > 0, &with_state);
    return due && (with_state || !knows_more(g)) ? commit(g, with_state, e) : OK;
}

// Gives up prompts that are half way, and saves the rest.
static enum status stop_here(struct generator *g, struct err *e) {
    const int n = gen_n_begun(g);
    const int keep = n > 0 || g->n_doc == 0 ? n : 1; // the first says where to go on
    drop_documents(g, keep);
    struct err why = {.code = OK};
    const enum status st = g->up_to_date ? OK : commit(g, n > 0, &why);
    if (st != OK) return err_fail(e, st, "%s", why.msg);
    return err_fail(e, E_CANCEL, "stopped on request");
}

/* ---- the part ---- */

static enum status begin(struct generator *g, const struct ledger_mark *mark,
                         const struct sbuf *state, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    g->mark = *mark;
    g->end = g->up_to_date = false;
    part_clock_start(&g->clock, mark);
    if (state == NULL || state->n == 0) goto done;
    st = gen_restore(g, state, &why);
    g->up_to_date = st == OK;
    if (st != OK && st != E_FORMAT) FAIL(e, st, "%s", why.msg);
    if (st == OK) goto done;
    st = OK; // an optimisation: its loss costs time and nothing else
    err_prefix(&why, "checkpoint not used: ");
    say(g, why.msg);
    TRY(g->out->drop_document(g->out->ctx, e));
    drop_documents(g, 0);
    g->end = false;
    part_feed_begin(&g->feed, g->feed.plan, g->feed.part, mark);
done:
    return st;
}

static int64_t bytes_read(const struct generator *g) {
    return part_feed_bytes(&g->feed, g->reader.doc, g->reader.text_pos);
}

// Not after every token: a part may have many files to count.
static void tell(struct generator *g) {
    const struct part_config *c = &g->cfg.part;
    const int64_t now = clock_ns();
    if (now - g->shown_ns < SHOW_NS && (!g->end || g->n_doc > 0)) return;
    g->shown_ns = now;
    g->totals.part_bytes = bytes_read(g);
    if (c->progress != NULL) {
        c->progress(c->ctx, &g->totals, g->n_doc > 0 ? g->docs[0]->d->source : NULL);
    }
}

static enum status one_round(struct generator *g, struct err *e) {
    enum status st = OK;
    const struct part_config *c = &g->cfg.part;
    struct err why = {.code = OK};
    if (c->stop.asked != NULL && c->stop.asked(c->stop.ctx)) return stop_here(g, e);
    g->up_to_date = false;
    st = gen_admit(g, &why);
    if (st == OK) st = gen_step(g, &why);
    if (st == E_CANCEL) return stop_here(g, e);
    if (st != OK) FAIL(e, st, "%s", why.msg);
    TRY(emit(g, e));
    tell(g);
    TRY(commit_if_due(g, e));
done:
    return st;
}

enum status gen_part(struct generator *g, const struct plan *plan, const struct plan_part *part,
                     const struct part_out *out, struct ledger_mark *mark, struct sbuf *state,
                     struct err *e) {
    enum status st = OK;
    g->out = out;
    part_feed_begin(&g->feed, plan, part, mark);
    TRY(begin(g, mark, state, e));
    if (state != NULL) sbuf_fini(state); // as large as all caches together
    g->totals.part_bytes = g->totals.part_begun = bytes_read(g);
    // A place that others see from the first token on: who follows looks for a commit.
    if (g->n_doc == 0) TRY(commit(g, false, e));
    while (!g->end || g->n_doc > 0) TRY(one_round(g, e));
    TRY(commit(g, false, e));
done:
    *mark = g->mark;
    drop_documents(g, 0);
    part_feed_fini(&g->feed);
    return st;
}
