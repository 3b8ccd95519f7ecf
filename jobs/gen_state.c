/* Checkpoints of a part's answers.
 *
 *   int64 n_head, head      text: what the state belongs to, a "name value" line each
 *   int64 n_doc             the first documents that are not emitted, whose prompts are through
 *   per document: struct saved_doc, its failure's message
 *   per setting: struct saved_track, then, each with an int64 length in front, the texts and lists it
 *   names, and, of a live one, the stream (core/stream.h)
 *
 * Host byte order: a state is read by the build that wrote it (the head says which) on the same
 * kind of device, and its bytes are covered by the ledger's checksum. Documents are opened again from
 * their input; an engine with fewer streams takes as many of the first ones as it can. */
#include "jobs/gen_impl.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

enum { PIECE_BYTES = 1 << 20, WRITE_BYTES = 16 << 20 };

struct saved_doc {
    int64_t offset, n_tok;
    int32_t slice, code, n_flushed;
    bool bos, is_ids;
    char text_hash[HASH_TEXT];
};

struct saved_track {
    struct vis_rule rule;
    int64_t turn, n_prompt, n_new, n_turn, n_turn_prompt, n_block;
    struct num_sum sum;
    int32_t finish;
    bool live, done, ended_by_id, answer_over;
};

static void print_head(const struct generator *g, struct sbuf *out) {
    const struct part_config *c = &g->cfg.part;
    sbuf_printf(out, "version %s\n", BASIN_VERSION);
    sbuf_printf(out, "device %s\n", c->labels.device);
    sbuf_printf(out, "dtype %s\n", c->labels.dtype);
    sbuf_printf(out, "model %s\n", c->model_identity);
    sbuf_printf(out, "tokenizer %s\n", tok_identity(c->tok));
    sbuf_printf(out, "settings %d\n", g->n_setting);
    sbuf_printf(out, "template %s\n", g->cfg.chat != NULL ? chat_name(g->cfg.chat) : "none");
}

/* ---- writing ---- */

static void put(struct sbuf *out, const void *bytes, size_t n) {
    const int64_t length = (int64_t)n;
    sbuf_add(out, &length, sizeof length);
    if (n > 0) sbuf_add(out, bytes, n);
}

// How many of the most probable ids are kept beside each token.
static size_t n_top_of(const struct generator *g, const struct gen_ask *a) {
    const int64_t n_vocab = model_arch(g->cfg.part.mo->model)->n_vocab;
    return a->logprobs <= 0 ? 0 : (size_t)(a->logprobs < n_vocab ? a->logprobs : n_vocab);
}

static enum status save_track(struct generator *g, const struct gen_doc *d,
                              const struct gen_track *t, struct sbuf *out, struct err *e) {
    enum status st = OK;
    const struct gen_ask *a = gen_ask_of(g, d);
    const size_t n = t->answer_over ? 0 : (size_t)t->n_new, n_top = n * n_top_of(g, a);
    const bool ids = a->token_ids || a->logprobs >= 0;
    struct saved_track s;
    memset(&s, 0, sizeof s); // padding as well: the same state is the same bytes
    s.rule = t->rule;
    s.turn = (int64_t)t->turn;
    s.n_prompt = t->n_prompt;
    s.n_new = t->n_new;
    s.n_turn = t->n_turn;
    s.n_turn_prompt = t->n_turn_prompt;
    s.n_block = t->n_block;
    s.sum = t->sum;
    s.finish = (int32_t)t->finish;
    s.live = t->slot >= 0;
    s.done = t->done;
    s.ended_by_id = t->ended_by_id;
    s.answer_over = t->answer_over;
    put(out, &s, sizeof s);
    put(out, t->text.tail.s, t->text.tail.n);
    put(out, t->answer.s, t->answer.n);
    put(out, t->turns.s, t->turns.n);
    put(out, t->block_text.s, t->block_text.n);
    put(out, t->held.s, t->held.n);
    put(out, t->chunks, t->n_chunk * sizeof *t->chunks);
    put(out, t->ids, ids ? n * sizeof *t->ids : 0);
    put(out, t->logp, a->logprobs >= 0 ? n * sizeof *t->logp : 0);
    put(out, t->tops.ids, n_top * sizeof *t->tops.ids);
    put(out, t->tops.logp, n_top * sizeof *t->tops.logp);
    put(out, t->block_ids, (size_t)t->n_block * sizeof *t->block_ids);
    put(out, t->block_logp, (size_t)t->n_block * sizeof *t->block_logp);
    if (t->slot < 0) goto done;
    const size_t at = out->n;
    int64_t length = 0;
    sbuf_add(out, &length, sizeof length);
    TRY(stream_save(g->stream, t->slot, out, e));
    TRY(sbuf_status(out, e));
    length = (int64_t)(out->n - at - sizeof length);
    memcpy(out->s + at, &length, sizeof length);
done:
    return st;
}

static bool is_late(struct generator *g) {
    const struct part_config *c = &g->cfg.part;
    if (g->stop_by_ns == 0 && c->stop.asked != NULL && c->stop.asked(c->stop.ctx)) {
        g->stop_by_ns = clock_ns() + (int64_t)(c->stop_save_s * 1e9);
    }
    return g->stop_by_ns != 0 && clock_ns() >= g->stop_by_ns;
}

static enum status flush(struct generator *g, struct sbuf *out, bool *late, struct err *e) {
    enum status st = OK;
    TRY(sbuf_status(out, e));
    for (size_t at = 0; at < out->n; at += WRITE_BYTES) {
        *late = *late || is_late(g);
        if (*late) break;
        const size_t left = out->n - at;
        TRY(g->out->put_state(g->out->ctx, out->s + at, left < WRITE_BYTES ? left : WRITE_BYTES,
                              e));
    }
    sbuf_clear(out);
done:
    return st;
}

static void save_doc(const struct doc *d, int n_flushed, struct sbuf *out) {
    struct saved_doc s;
    memset(&s, 0, sizeof s);
    s.offset = d->offset;
    s.n_tok = d->n_tok;
    s.slice = d->slice;
    s.code = (int32_t)d->failure.code;
    s.n_flushed = n_flushed;
    s.bos = d->bos;
    s.is_ids = d->is_ids;
    memcpy(s.text_hash, d->text_hash, sizeof s.text_hash);
    put(out, &s, sizeof s);
    put(out, d->failure.msg, strlen(d->failure.msg));
}

enum status gen_save(struct generator *g, bool *late, struct err *e) {
    enum status st = OK;
    const int64_t n_doc = gen_n_begun(g);
    struct sbuf head, out;
    *late = false;
    sbuf_init(&head);
    sbuf_init(&out);
    print_head(g, &head);
    TRY(sbuf_status(&head, e));
    put(&out, head.s, head.n);
    sbuf_add(&out, &n_doc, sizeof n_doc);
    for (int64_t i = 0; i < n_doc && !*late; i++) {
        const struct gen_doc *d = g->docs[i];
        save_doc(d->d, d->n_flushed, &out);
        for (int k = 0; k < g->n_setting && !*late; k++) {
            TRY(save_track(g, d, &d->tracks[k], &out, e));
            if (out.n >= PIECE_BYTES) TRY(flush(g, &out, late, e));
        }
    }
    if (!*late) TRY(flush(g, &out, late, e));
    if (*late) TRY(g->out->put_state(g->out->ctx, NULL, 0, e));
done:
    sbuf_fini(&head);
    sbuf_fini(&out);
    return st;
}

/* ---- reading ---- */

struct cursor {
    const char *p, *end;
};

// The next piece: borrowed from the state.
static enum status take(struct cursor *c, const char **bytes, size_t *n, struct err *e) {
    int64_t length = 0;
    if ((size_t)(c->end - c->p) < sizeof length) return err_fail(e, E_FORMAT, "it is cut short");
    memcpy(&length, c->p, sizeof length);
    c->p += sizeof length;
    if (length < 0 || length > c->end - c->p) return err_fail(e, E_FORMAT, "it is cut short");
    *bytes = c->p;
    *n = (size_t)length;
    c->p += length;
    return OK;
}

static enum status take_exactly(struct cursor *c, void *dst, size_t n, struct err *e) {
    const char *bytes = NULL;
    size_t have = 0;
    const enum status st = take(c, &bytes, &have, e);
    if (st != OK) return st;
    if (have != n) return err_fail(e, E_FORMAT, "its lengths make no sense");
    if (n > 0) memcpy(dst, bytes, n);
    return OK;
}

static enum status take_text(struct cursor *c, struct sbuf *out, struct err *e) {
    const char *bytes = NULL;
    size_t n = 0;
    const enum status st = take(c, &bytes, &n, e);
    if (st != OK) return st;
    sbuf_clear(out);
    if (n > 0) sbuf_add(out, bytes, n);
    return sbuf_status(out, e);
}

// A list of elements of `size` bytes; *list is owned, NULL when there are none.
static enum status take_list(struct cursor *c, void *list, size_t *cap, size_t size, size_t want,
                             struct err *e) {
    enum status st = OK;
    const char *bytes = NULL;
    size_t n = 0;
    TRY(take(c, &bytes, &n, e));
    if (n != 0 && n != want * size) FAIL(e, E_FORMAT, "its lengths make no sense");
    if (n == 0) goto done;
    TRY(mem_grow(list, cap, want, size, e));
    memcpy(*(void **)list, bytes, n);
done:
    return st;
}

// They are read once now: a state whose rows are damaged is not to be used.
static enum status take_chunks(struct generator *g, struct cursor *c, struct gen_track *t,
                               struct err *e) {
    enum status st = OK;
    const char *bytes = NULL;
    size_t n = 0;
    TRY(take(c, &bytes, &n, e));
    t->n_chunk = n / sizeof *t->chunks;
    if (t->n_chunk == 0) goto done;
    TRY(mem_grow(&t->chunks, &t->cap_chunk, t->n_chunk, sizeof *t->chunks, e));
    memcpy(t->chunks, bytes, t->n_chunk * sizeof *t->chunks);
    for (size_t i = 0; i < t->n_chunk; i++) {
        sbuf_clear(&g->scratch);
        struct err why = {.code = OK};
        st = t->chunks[i].n < 0 || t->chunks[i].n > INT32_MAX
                 ? err_fail(&why, E_FORMAT, "its lengths make no sense")
                 : part_chunk_get(g->out, &t->chunks[i], &g->scratch, &why);
        if (st == E_IO || st == E_NOINPUT) st = E_FORMAT;
        if (st != OK) FAIL(e, st, "%s", why.msg);
    }
done:
    return st;
}

static enum status take_blocks(struct cursor *c, struct gen_track *t, struct err *e) {
    enum status st = OK;
    if (t->n_block < 0 || t->n_block >= DOC_BLOCK) FAIL(e, E_FORMAT, "its lengths make no sense");
    if (t->n_block > 0) {
        TRY(mem_zalloc(&t->block_ids, DOC_BLOCK, sizeof *t->block_ids, e));
        TRY(mem_zalloc(&t->block_logp, DOC_BLOCK, sizeof *t->block_logp, e));
    }
    TRY(take_exactly(c, t->block_ids, (size_t)t->n_block * sizeof *t->block_ids, e));
    TRY(take_exactly(c, t->block_logp, (size_t)t->n_block * sizeof *t->block_logp, e));
done:
    return st;
}

static enum status restore_stream(struct generator *g, struct gen_doc *d, struct gen_track *t,
                                  struct cursor *c, struct err *e) {
    enum status st = OK;
    int slot = -1;
    struct stream_saved in = {.rule = &t->rule, .how = &t->how};
    gen_set_how(g, d, t);
    TRY(take(c, &in.bytes, &in.n, e));
    TRY(stream_restore(g->stream, &in, &slot, e));
    t->slot = slot;
    g->track_of_slot[slot] = t;
    g->doc_of_slot[slot] = d;
done:
    return st;
}

static enum status restore_track(struct generator *g, struct gen_doc *d, struct gen_track *t,
                                 struct cursor *c, struct err *e) {
    enum status st = OK;
    const struct gen_ask *a = gen_ask_of(g, d);
    struct saved_track s;
    TRY(take_exactly(c, &s, sizeof s, e));
    if (s.n_new < 0 || s.turn < 0 || (s.live && (size_t)s.turn >= d->prompt.n_turn && s.turn > 0)) {
        FAIL(e, E_FORMAT, "its position makes no sense");
    }
    t->rule = s.rule;
    t->turn = (size_t)s.turn;
    t->n_prompt = s.n_prompt;
    t->n_new = s.n_new;
    t->n_turn = s.n_turn;
    t->n_turn_prompt = s.n_turn_prompt;
    t->n_block = s.n_block;
    t->sum = s.sum;
    t->finish = (enum gen_finish)s.finish;
    t->done = s.done;
    t->ended_by_id = s.ended_by_id;
    t->answer_over = s.answer_over;
    TRY(take_text(c, &t->text.tail, e));
    TRY(take_text(c, &t->answer, e));
    TRY(take_text(c, &t->turns, e));
    TRY(take_text(c, &t->block_text, e));
    TRY(take_text(c, &t->held, e));
    TRY(take_chunks(g, c, t, e));
    const size_t n = t->answer_over ? 0 : (size_t)t->n_new, n_top = n * n_top_of(g, a);
    TRY(take_list(c, &t->ids, &t->cap_ids, sizeof *t->ids, n, e));
    TRY(take_list(c, &t->logp, &t->cap_logp, sizeof *t->logp, n, e));
    TRY(take_list(c, &t->tops.ids, &t->tops.cap_ids, sizeof *t->tops.ids, n_top, e));
    TRY(take_list(c, &t->tops.logp, &t->tops.cap_logp, sizeof *t->tops.logp, n_top, e));
    TRY(take_blocks(c, t, e));
    if (s.live) TRY(restore_stream(g, d, t, c, e));
    g->totals.tokens_resumed += t->n_new;
done:
    return st;
}

static enum status restore_doc(struct generator *g, struct cursor *c, struct err *e) {
    enum status st = OK;
    struct saved_doc s;
    const char *message = NULL;
    size_t n = 0;
    TRY(take_exactly(c, &s, sizeof s, e));
    TRY(take(c, &message, &n, e));
    TRY(gen_open_next(g, false, e));
    if (g->end) FAIL(e, E_FORMAT, "its documents are no longer there");
    struct gen_doc *d = g->docs[g->n_doc - 1];
    if (d->d->offset != s.offset || d->d->slice != s.slice) {
        FAIL(e, E_FORMAT, "its documents have changed");
    }
    if (d->d->failure.code != OK && s.code == OK)
        FAIL(e, E_FORMAT, "a document cannot be read any more");
    if (s.code != OK && d->d->failure.code == OK) {
        struct err why = {.code = OK};
        err_fail(&why, (enum status)s.code, "%.*s", (int)n, message);
        TRY(gen_fail(g, d, &why, e));
    }
    d->d->n_tok = s.n_tok;
    d->d->bos = s.bos;
    d->d->is_ids = s.is_ids;
    d->d->ended = true;
    d->opened = d->kept = true;
    d->n_flushed = s.n_flushed >= 0 && s.n_flushed <= g->n_setting ? s.n_flushed : 0;
    memcpy(d->d->text_hash, s.text_hash, sizeof s.text_hash);
    d->d->text_hash[sizeof s.text_hash - 1] = '\0';
    for (int k = 0; k < g->n_setting; k++) TRY(restore_track(g, d, &d->tracks[k], c, e));
done:
    return st;
}

enum status gen_restore(struct generator *g, const struct sbuf *state, struct err *e) {
    enum status st = OK;
    struct cursor c = {state->s, state->s + state->n};
    struct sbuf head;
    const char *have = NULL;
    size_t n_have = 0;
    int64_t n_doc = 0;
    sbuf_init(&head);
    print_head(g, &head);
    TRY(sbuf_status(&head, e));
    TRY(take(&c, &have, &n_have, e));
    TRY(part_compare_heads(have, n_have, &head, e));
    if ((size_t)(c.end - c.p) < sizeof n_doc) FAIL(e, E_FORMAT, "it is cut short");
    memcpy(&n_doc, c.p, sizeof n_doc);
    c.p += sizeof n_doc;
    if (n_doc < 1 || n_doc > GEN_DOCS_MOST) FAIL(e, E_FORMAT, "its lengths make no sense");
    for (int64_t i = 0; i < n_doc && stream_room(g->stream) >= g->n_setting; i++) {
        TRY(restore_doc(g, &c, e));
    }
    if (g->n_doc == 0) FAIL(e, E_FORMAT, "there is no room for its streams");
done:
    sbuf_fini(&head);
    return st;
}
