/* Tables of models of characters: symbols, which of them join, and where a cut is safe. */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <stdlib.h>
#include <string.h>

static const char LOW_BAR[] = "\xE2\x96\x81";

/* ---- sets ---- */

static size_t char_slot(const struct tok_chars *c, uint32_t cp) {
    size_t i = (size_t)(cp * 0x9E3779B1u >> 7) & c->cp_mask;
    while (c->by_cp[i].symbol >= 0 && c->by_cp[i].cp != cp) i = (i + 1) & c->cp_mask;
    return i;
}

static int32_t symbol_of(const struct tok_chars *c, uint32_t cp) {
    if (cp < 0x80) return c->ascii[cp];
    const int32_t symbol = c->by_cp[char_slot(c, cp)].symbol;
    return symbol >= 0 ? symbol : c->unknown;
}

static size_t joined_slot(const struct tok_chars *c, uint64_t key) {
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15ull >> 20) & c->joined_mask;
    while (c->joined[i] != 0 && c->joined[i] != key) i = (i + 1) & c->joined_mask;
    return i;
}

bool tok_chars_cut(const struct tok_chars *c, uint32_t a, uint32_t b) {
    if ((a | b) < 0x80) return !(c->joined_ascii[a][b >> 3] >> (b & 7) & 1);
    return c->joined[joined_slot(c, (uint64_t)a << 32 | b)] == 0;
}

static void join(struct tok_chars *c, uint32_t a, uint32_t b) {
    if ((a | b) < 0x80) {
        c->joined_ascii[a][b >> 3] = (uint8_t)(c->joined_ascii[a][b >> 3] | 1u << (b & 7));
    } else {
        const uint64_t key = (uint64_t)a << 32 | b;
        c->joined[joined_slot(c, key)] = key;
    }
}

size_t tok_chars_symbols(const struct tok_chars *c, const char *s, size_t n, int32_t *out) {
    size_t k = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp = (unsigned char)s[i];
        len = cp < 0x80 ? 1 : utf8_decode(s + i, n - i, &cp);
        CHECK(len > 0); // tok_feed lets only UTF-8 in, and cuts are made between characters
        out[k++] = symbol_of(c, cp);
    }
    return k;
}

/* ---- which tokens take part ---- */

// Whether some text can become the token. Where spaces are written as U+2581 a token with a space
// in its name never is.
static bool usable(const struct tok *t, const struct tokjson_token *k) {
    if (k->kind != TOKJSON_NORMAL && k->kind != TOKJSON_USER) return false;
    if (t->json->spaced && memchr(k->text.s, ' ', k->text.n) != NULL) return false;
    return k->text.n > 0;
}

static size_t first_char(const struct tok *t, const struct tok_piece *p, size_t at, uint32_t *cp) {
    const size_t len = utf8_decode(t->arena + p->at + at, p->n - at, cp);
    CHECK(len > 0); // checked in init_chars
    return len;
}

static bool is_one_char(const struct tok *t, const struct tok_piece *p) {
    uint32_t cp;
    return first_char(t, p, 0, &cp) == p->n;
}

// Gives `cp` a symbol unless it has one.
static void put_char(struct tok_chars *c, uint32_t cp, int32_t symbol) {
    struct tok_char *k = &c->by_cp[char_slot(c, cp)];
    if (k->symbol < 0) *k = (struct tok_char){cp, symbol};
}

// Tokens of one character first, then those that occur inside tokens and are none: they may still
// join. The last symbol stands for all others.
static enum status init_chars(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    struct tok_chars *c = &t->chars;
    size_t n_chars = 0, pieces_cap = (size_t)t->n_vocab;
    for (size_t i = 0; i < j->n_tokens; i++) n_chars += j->tokens[i].text.n;
    size_t cap = 256;
    while (cap < n_chars && cap < 1 << 21) cap *= 2; // there are 1.1 million code points
    TRY(mem_zalloc(&c->by_cp, cap, sizeof *c->by_cp, e));
    c->cp_mask = cap - 1;
    for (size_t i = 0; i < cap; i++) c->by_cp[i].symbol = -1;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < j->n_tokens; i++) {
            const struct tokjson_token *k = &j->tokens[i];
            const struct tok_piece p = t->pieces[k->id];
            if (!usable(t, k)) continue;
            bool cut;
            if (utf8_valid_prefix(t->arena + p.at, p.n, &cut) < p.n) {
                FAIL(e, E_FORMAT, "token %d is not UTF-8", k->id);
            }
            const bool one = is_one_char(t, &p);
            if (p.n > c->max_piece) c->max_piece = p.n;
            uint32_t cp;
            for (size_t at = 0, len; at < p.n && one == (pass == 0); at += len) {
                len = first_char(t, &p, at, &cp);
                const bool there = c->by_cp[char_slot(c, cp)].symbol >= 0;
                put_char(c, cp, one ? k->id : t->n_symbols);
                if (one || there) continue;
                TRY(mem_grow(&t->pieces, &pieces_cap, (size_t)t->n_symbols + 2, sizeof *t->pieces,
                             e));
                t->pieces[t->n_symbols++] = (struct tok_piece){p.at + (uint32_t)at, (uint32_t)len};
            }
        }
    }
    c->unknown = t->n_symbols;
    for (uint32_t cp = 0; cp < 0x80; cp++) {
        const int32_t symbol = c->by_cp[char_slot(c, cp)].symbol;
        c->ascii[cp] = symbol >= 0 ? symbol : c->unknown;
    }
done:
    return st;
}

/* ---- joins ---- */

static enum status init_joined(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    struct tok_chars *c = &t->chars;
    uint8_t *made = NULL;
    size_t pairs = 0, cap = 64;
    TRY(mem_zalloc(&made, (size_t)t->n_vocab, 1, e));
    for (size_t i = 0; i < j->n_merges; i++) made[j->merges[i].made] = 1;
    for (size_t i = 0; i < j->n_tokens; i++) pairs += j->tokens[i].text.n;
    while (cap < pairs * 2 && cap < 1 << 22) cap *= 2;
    for (;;) { // distinct pairs are far fewer than characters; grow when they are not
        size_t used = 0;
        mem_free(c->joined);
        TRY(mem_zalloc(&c->joined, cap, sizeof *c->joined, e));
        c->joined_mask = cap - 1;
        for (size_t i = 0; i < j->n_tokens && used < cap / 2; i++) {
            const struct tokjson_token *k = &j->tokens[i];
            const struct tok_piece *p = &t->pieces[k->id];
            if (!usable(t, k) || (j->model == TOKJSON_CHARS && !made[k->id])) continue;
            uint32_t a, b;
            size_t at = first_char(t, p, 0, &a);
            for (size_t len; at < p->n && used < cap / 2; at += len, a = b) {
                len = first_char(t, p, at, &b);
                used += (a | b) >= 0x80 && tok_chars_cut(c, a, b);
                join(c, a, b);
            }
        }
        if (used < cap / 2) break;
        cap *= 2;
    }
done:
    mem_free(made);
    return st;
}

struct ranked {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

// Ranks of the tokens of several characters; equal scores share one. UINT32_MAX for others.
static enum status rank_tokens(const struct tok *t, uint32_t *rank, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    struct ranked *r = NULL;
    size_t n = 0;
    TRY(mem_zalloc(&r, j->n_tokens, sizeof *r, e));
    for (size_t i = 0; i < (size_t)t->n_vocab; i++) rank[i] = UINT32_MAX;
    for (size_t i = 0; i < j->n_tokens; i++) {
        const struct tokjson_token *k = &j->tokens[i];
        if (!usable(t, k) || is_one_char(t, &t->pieces[k->id])) continue;
        r[n++] = (struct ranked){k->score, k->id};
    }
    qsort(r, n, sizeof *r, by_score);
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && r[i].score < r[i - 1].score) at++;
        rank[r[i].id] = at;
    }
done:
    mem_free(r);
    return st;
}

static int32_t symbol_of_text(const struct tok *t, const char *s, size_t n) {
    uint32_t cp;
    if (utf8_decode(s, n, &cp) == n) return symbol_of(&t->chars, cp);
    return tok_words_get(t, s, n);
}

// Every way to make the token of two symbols: what the joining of neighbours by text comes to.
static size_t put_splits(struct tok *t, int32_t id, uint32_t rank, bool put) {
    const struct tok_piece *p = &t->pieces[id];
    const char *s = t->arena + p->at;
    size_t n = 0;
    uint32_t cp;
    for (size_t at = first_char(t, p, 0, &cp); at < p->n; at += first_char(t, p, at, &cp)) {
        const int32_t left = symbol_of_text(t, s, at);
        const int32_t right = left >= 0 ? symbol_of_text(t, s + at, p->n - at) : -1;
        if (right < 0) continue;
        n++;
        if (put) tok_pairs_put(t, (struct tok_pair){left, right, rank, id});
    }
    return n;
}

static enum status init_score_pairs(struct tok *t, struct err *e) {
    enum status st = OK;
    uint32_t *rank = NULL;
    size_t n = 0;
    TRY(mem_zalloc(&rank, (size_t)t->n_vocab, sizeof *rank, e));
    TRY(rank_tokens(t, rank, e));
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (rank[id] != UINT32_MAX) n += put_splits(t, id, rank[id], false);
    }
    TRY(tok_pairs_init(t, n, e));
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (rank[id] != UINT32_MAX) (void)put_splits(t, id, rank[id], true);
    }
done:
    mem_free(rank);
    return st;
}

static enum status init_merge_pairs(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    TRY(tok_pairs_init(t, j->n_merges, e));
    for (size_t i = 0; i < j->n_merges; i++) {
        const struct tokjson_merge *m = &j->merges[i];
        tok_pairs_put(t, (struct tok_pair){m->left, m->right, (uint32_t)i, m->made});
    }
done:
    return st;
}

/* ---- tokens by text, by byte; tokens found wherever they stand ---- */

static enum status init_words(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    TRY(tok_words_init(t, j->n_tokens, e));
    for (size_t i = 0; i < j->n_tokens; i++) {
        const struct tokjson_token *k = &j->tokens[i];
        if (!usable(t, k)) continue;
        const struct tok_piece *p = &t->pieces[k->id];
        const int32_t other = tok_words_get(t, t->arena + p->at, p->n);
        if (other >= 0) FAIL(e, E_FORMAT, "tokens %d and %d are the same text", other, k->id);
        tok_words_put(t, k->id);
    }
done:
    return st;
}

static enum status init_bytes(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    struct tok_chars *c = &t->chars;
    for (int i = 0; i < 256; i++) c->byte_token[i] = -1;
    for (size_t i = 0; i < j->n_tokens; i++) {
        const struct tokjson_token *k = &j->tokens[i];
        if (k->kind != TOKJSON_BYTE) continue;
        const int byte = tokjson_byte_of(k->text);
        if (byte < 0) FAIL(e, E_FORMAT, "byte token %d is \"%.60s\"", k->id, k->text.s);
        if (c->byte_token[byte] >= 0) {
            FAIL(e, E_FORMAT, "tokens %d and %d are the same byte", c->byte_token[byte], k->id);
        }
        c->byte_token[byte] = k->id;
    }
done:
    return st;
}

static enum status init_user(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    size_t n = 0;
    for (size_t i = 0; i < j->n_tokens; i++) n += j->tokens[i].kind == TOKJSON_USER;
    if (n == 0) goto done;
    TRY(tok_added_init(&t->chars.user, n, e));
    for (size_t i = 0; i < j->n_tokens; i++) {
        const struct tokjson_token *k = &j->tokens[i];
        const struct tokjson_added as = {.text = k->text, .id = k->id};
        if (k->kind != TOKJSON_USER || k->text.n == 0) continue;
        const struct tok_piece *p = &t->pieces[k->id];
        TRY(tok_added_put(&t->chars.user, &as, t->arena + p->at, p->n, e));
    }
done:
    return st;
}

enum status tok_chars_init(struct tok *t, struct err *e) {
    enum status st = OK;
    TRY(init_bytes(t, e));
    TRY(init_chars(t, e));
    TRY(init_joined(t, e));
    TRY(init_words(t, e));
    TRY(init_user(t, e));
    if (t->json->model == TOKJSON_UNIGRAM) {
        TRY(tok_unigram_init(t, e));
    } else if (t->json->model == TOKJSON_SCORES) {
        TRY(init_score_pairs(t, e));
    } else {
        TRY(init_merge_pairs(t, e));
    }
done:
    return st;
}

void tok_chars_fini(struct tok_chars *c) {
    mem_free(c->by_cp);
    mem_free(c->joined);
    tok_added_fini(&c->user);
}

size_t tok_chars_piece(const char *s, size_t n, bool spaced, char *out) {
    size_t k = 0;
    for (size_t i = 0; i < n; k++) {
        const bool bar = spaced && n - i >= 3 && memcmp(s + i, LOW_BAR, 3) == 0;
        out[k] = bar ? ' ' : s[i];
        i += bar ? 3 : 1;
    }
    return k;
}
