/* The last stage of models of characters: text is cut into words where a cut is safe, and their
 * symbols become ids. Characters without a token become those of their bytes, or `unk`. */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <string.h>

#define NO_CHAR UINT32_MAX

/* ---- what comes out ---- */

// A character without a token, which ends at `raw` in the document.
static enum status emit_unknown(struct tok_stream *s, const char *text, size_t n, int64_t raw,
                                struct err *e) {
    enum status st = OK;
    const struct tokjson *j = s->t->json;
    const struct tok_chars *c = &s->t->chars;
    bool all = j->byte_fallback;
    if (j->spaced && n == 1 && *text == ' ') { // it is the bytes of U+2581 that are meant
        text = "\xE2\x96\x81";
        n = 3;
    }
    for (size_t i = 0; i < n; i++) all = all && c->byte_token[(unsigned char)text[i]] >= 0;
    if (all) {
        s->unk_last = false;
        for (size_t i = 0; i < n; i++) {
            const int64_t end =
                raw - (int64_t)(n - 1 - i) > s->out_end ? raw - (int64_t)(n - 1 - i) : s->out_end;
            TRY(tok_emit(s, c->byte_token[(unsigned char)text[i]], i + 1 < n ? end : raw, e));
        }
    } else if (j->unk >= 0 && s->unk_last && j->fuse_unk) {
        TRY(tok_emit_more(s, raw, e));
    } else if (j->unk >= 0) {
        TRY(tok_emit(s, j->unk, raw, e));
        s->unk_last = true;
    }
done:
    return st;
}

// Symbols one by one: text[from, ..) of the stage.
static enum status emit_slowly(struct tok_stage *g, size_t from, const int32_t *symbols, size_t n,
                               struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    const struct tok *t = s->t;
    struct tok_bpe *b = &s->bpe;
    TRY(mem_grow(&b->spare, &b->spare_cap, n, sizeof *b->spare, e)); // ids may outrun symbols
    memcpy(b->spare, symbols, n * sizeof *symbols);
    for (size_t i = 0; i < n; i++) {
        const int32_t symbol = b->spare[i];
        const char *at = tok_text_at(&g->text) + from;
        uint32_t cp;
        const size_t len = symbol == t->chars.unknown
                               ? utf8_decode(at, tok_text_n(&g->text) - from, &cp)
                               : t->pieces[symbol].n;
        bool exact;
        from += len;
        const int64_t raw = tok_text_raw(&g->text, from, &exact);
        if (symbol >= t->n_vocab) {
            TRY(emit_unknown(s, at, len, raw, e));
        } else {
            s->unk_last = false;
            TRY(tok_emit(s, symbol, raw, e));
        }
    }
done:
    return st;
}

// The word text[g->pos, to).
static enum status emit_word(struct tok_stage *g, size_t to, struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    const struct tok *t = s->t;
    const int32_t *symbols;
    size_t n;
    const size_t size = to - g->pos;
    if (size == 0) goto done;
    g->begun = true;
    TRY(tok_encode(s, tok_text_at(&g->text) + g->pos, size, &symbols, &n, e));
    const struct tok_span v = tok_text_span(&g->text, g->pos, to);
    bool plain = v.n == size && v.place == TOK_LINEAR;
    for (size_t i = 0; i < n && plain; i++) plain = symbols[i] < t->n_vocab;
    if (plain) {
        s->unk_last = false;
        TRY(tok_emit_word(s, symbols, n, v.raw - (int64_t)size, v.raw, e));
    } else {
        TRY(emit_slowly(g, g->pos, symbols, n, e));
    }
    g->pos = to;
done:
    return st;
}

/* ---- cuts ---- */

// A token that stands for itself at g->look: *more when that cannot be told yet.
static enum status take_user(struct tok_stage *g, bool last, bool *taken, bool *more,
                             struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    const struct tok_added *a = &s->t->chars.user;
    const char *text = tok_text_at(&g->text);
    size_t len = 0;
    *taken = *more = false;
    if (!a->first[(unsigned char)text[g->look]]) goto done;
    const int32_t hit =
        tok_added_longest(a, text + g->look, tok_text_n(&g->text) - g->look, last, &len);
    *more = hit == TOK_ADDED_MORE;
    if (hit < 0) goto done;
    *taken = true;
    TRY(emit_word(g, g->look, e));
    bool exact;
    g->look += len;
    g->pos = g->look;
    s->unk_last = false;
    TRY(tok_emit(s, a->tokens[hit].id, tok_text_raw(&g->text, g->look, &exact), e));
    g->last_cp = NO_CHAR;
    g->begun = true;
done:
    return st;
}

// Emits the words that are complete.
static enum status run(struct tok_stage *g, bool last, struct err *e) {
    enum status st = OK;
    const struct tok *t = g->stream->t;
    const struct tok_chars *c = &t->chars;
    const bool user = c->user.n_tokens > 0 && t->json->model == TOKJSON_SCORES;
    const bool split = t->json->split_spaces;
    const size_t n = tok_text_n(&g->text);
    const char *s = tok_text_at(&g->text);
    g->stream->work += (int64_t)(n - g->look);
    while (g->look < n) {
        if (user) {
            bool taken, more;
            TRY(take_user(g, last, &taken, &more, e));
            if (more) break;
            if (taken) continue;
        }
        uint32_t cp = (unsigned char)s[g->look];
        const size_t len = cp < 0x80 ? 1 : utf8_decode(s + g->look, n - g->look, &cp);
        if (g->last_cp != NO_CHAR) {
            const bool at_space = split && cp == ' ';
            if (at_space || tok_chars_cut(c, g->last_cp, cp)) {
                TRY(emit_word(g, g->look, e));
                if (at_space) g->stream->unk_last = false;
            }
        }
        g->last_cp = cp;
        g->look += len;
    }
    if (last) TRY(emit_word(g, n, e));
done:
    return st;
}

static void drop(struct tok_stage *g) {
    tok_text_drop(&g->text, g->pos);
    g->look -= g->pos;
    g->pos = 0;
}

// With ignore_merges a piece that is a token as a whole stays one, so its end must be seen first.
static bool must_wait(const struct tok_stage *g) {
    const struct tok *t = g->stream->t;
    return t->json->ignore_merges && !g->begun && tok_text_n(&g->text) <= t->chars.max_piece;
}

static enum status sp_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    if (tok_text_n(&g->text) == 0 && !g->begun) g->last_cp = NO_CHAR;
    TRY(tok_text_add(&g->text, v, e));
    if (must_wait(g)) goto done;
    TRY(run(g, false, e));
    drop(g);
    if (tok_text_n(&g->text) > TOK_MAX_STRETCH) {
        bool unused;
        st = tok_too_long(tok_text_raw(&g->text, 0, &unused), e);
    }
done:
    return st;
}

static enum status sp_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    const size_t n = tok_text_n(&g->text);
    int32_t whole = -1;
    if (must_wait(g) && n > 0) whole = tok_words_get(s->t, tok_text_at(&g->text), n);
    if (whole >= 0) {
        TRY(emit_slowly(g, 0, &whole, 1, e));
        g->pos = g->look = n;
    } else {
        TRY(run(g, true, e));
    }
    drop(g);
    g->begun = false;
    g->last_cp = NO_CHAR;
    s->unk_last = false;
done:
    return st;
}

const struct tok_stage_ops tok_sp_ops = {sp_push, tok_stage_whole, sp_end};

/* ---- without `unk`: what has no token is as if it were not in the text ---- */

static bool is_dropped(const struct tok *t, const char *s, size_t n) {
    if (t->json->model == TOKJSON_BYTES) return t->byte_id[(unsigned char)*s] == t->n_vocab;
    int32_t symbol;
    (void)tok_chars_symbols(&t->chars, s, n, &symbol);
    bool bytes = t->json->byte_fallback;
    for (size_t i = 0; i < n; i++) bytes = bytes && t->chars.byte_token[(unsigned char)s[i]] >= 0;
    return symbol >= t->n_vocab && !bytes;
}

// The first at or behind `from`, of *len bytes; n when there is none.
static size_t next_dropped(const struct tok *t, const char *s, size_t n, size_t from, size_t *len) {
    size_t at = from;
    for (; at < n; at += *len) {
        uint32_t cp;
        *len = t->json->model == TOKJSON_BYTES ? 1 : utf8_decode(s + at, n - at, &cp);
        if (is_dropped(t, s + at, *len)) break;
    }
    return at;
}

static enum status filter_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    TRY(tok_text_add(&g->text, v, e));
    const char *s = tok_text_at(&g->text);
    const struct tok *t = g->stream->t;
    size_t from = 0, len;
    g->stream->work += (int64_t)v.n;
    for (size_t at; (at = next_dropped(t, s, v.n, from, &len)) < v.n; from = at + len) {
        TRY(tok_stage_send(g, from, at, e));
    }
    TRY(tok_stage_send(g, from, v.n, e));
    tok_text_drop(&g->text, v.n);
done:
    return st;
}

static enum status filter_whole(struct tok_stage *g, struct tok_span v, struct err *e) {
    size_t len;
    const bool keeps_all = next_dropped(g->stream->t, v.s, v.n, 0, &len) == v.n;
    return keeps_all ? g->next->ops->whole(g->next, v, e) : tok_stage_whole(g, v, e);
}

const struct tok_stage_ops tok_filter_ops = {filter_push, filter_whole, tok_stage_pass_end};
