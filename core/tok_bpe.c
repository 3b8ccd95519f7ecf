/* Byte pair encoding: of all neighbours that form a token, the pair of lowest rank is joined, the
 * leftmost first, until none is left.
 *
 * Short words scan for the lowest rank; longer ones use a heap; very long ones are cut into blocks.
 * Blocks are exact because of this: a sequence of tokens is the encoding of its text if and only if
 * every two neighbours are the encoding of theirs. (Follow the joins of the whole text up to the
 * first one across a token's border: inside the two tokens at that border they are the joins of
 * those two alone, which never cross it.) So encodings of two overlapping stretches may be spliced
 * at any token that both contain. */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <string.h>

enum { SHORT_WORD = 64, BLOCK = 4096, OVERLAP = 256 };
#define NO_RANK UINT32_MAX

struct tok_symbol {
    int32_t id; /* -1: joined into one before */
    int32_t prev, next;
    uint32_t rank; /* of the pair with the next symbol, ... */
    int32_t made;  /* ... and what the two become: pairs of one rank need not become the same */
};

/* ---- tables ---- */

static inline size_t pair_slot(const struct tok *t, int32_t left, int32_t right) {
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15ull >> t->pair_shift);
    while (t->pairs[i].left >= 0 && (t->pairs[i].left != left || t->pairs[i].right != right)) {
        i = (i + 1) & t->pair_mask;
    }
    return i;
}

// The pair's entry; one of rank NO_RANK when the two do not join.
static inline const struct tok_pair *pair_of(const struct tok *t, int32_t left, int32_t right) {
    return &t->pairs[pair_slot(t, left, right)];
}

enum status tok_pairs_init(struct tok *t, size_t n, struct err *e) {
    enum status st = OK;
    size_t cap = 16;
    int bits = 4;
    for (; cap < n * 2; cap *= 2) bits++;
    TRY(mem_alloc64(&t->pairs, cap, sizeof *t->pairs, e));
    t->pair_mask = cap - 1;
    t->pair_shift = 64 - bits;
    for (size_t i = 0; i < cap; i++) t->pairs[i] = (struct tok_pair){-1, -1, NO_RANK, -1};
done:
    return st;
}

void tok_pairs_put(struct tok *t, struct tok_pair pair) {
    t->pairs[pair_slot(t, pair.left, pair.right)] = pair;
}

static size_t word_slot(const struct tok *t, const char *s, size_t n) {
    size_t i = (size_t)hash_64(s, n) & t->word_mask;
    for (; t->words[i] >= 0; i = (i + 1) & t->word_mask) {
        const struct tok_piece *p = &t->pieces[t->words[i]];
        if (p->n == n && memcmp(t->arena + p->at, s, n) == 0) break;
    }
    return i;
}

enum status tok_words_init(struct tok *t, size_t n, struct err *e) {
    enum status st = OK;
    size_t cap = 16;
    while (cap < n * 2) cap *= 2;
    TRY(mem_alloc64(&t->words, cap, sizeof *t->words, e));
    t->word_mask = cap - 1;
    for (size_t i = 0; i < cap; i++) t->words[i] = -1;
done:
    return st;
}

void tok_words_put(struct tok *t, int32_t id) {
    const struct tok_piece *p = &t->pieces[id];
    t->words[word_slot(t, t->arena + p->at, p->n)] = id;
}

int32_t tok_words_get(const struct tok *t, const char *s, size_t n) {
    return t->words[word_slot(t, s, n)];
}

// A name with characters that stand for no byte (kept as it is) can never be met in a text.
static bool reachable(struct tokjson_str text) {
    for (size_t c = 0, len; c < text.n; c += len) {
        uint32_t cp = 0;
        len = utf8_decode(text.s + c, text.n - c, &cp);
        if (len == 0 || len > 2 || tok_char_byte(cp) < 0) return false;
    }
    return text.n > 0;
}

enum status tok_bpe_init(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    TRY(tok_pairs_init(t, j->n_merges, e));
    for (size_t i = 0; i < j->n_merges; i++) {
        const struct tokjson_merge *m = &j->merges[i];
        const uint32_t rank = j->rank_by_token ? (uint32_t)m->made : (uint32_t)i;
        tok_pairs_put(t, (struct tok_pair){m->left, m->right, rank, m->made});
    }
    TRY(tok_words_init(t, j->ignore_merges ? j->n_tokens : 0, e));
    for (size_t i = 0; i < j->n_tokens; i++) {
        const struct tokjson_token *k = &j->tokens[i];
        const struct tok_piece *p = &t->pieces[k->id];
        if (!reachable(k->text)) continue;
        if (p->n == 1) t->byte_id[(unsigned char)t->arena[p->at]] = k->id;
        if (j->ignore_merges) tok_words_put(t, k->id);
    }
    for (int i = 0; i < 256; i++) {
        const bool in_utf8 = i < 0xF5 && i != 0xC0 && i != 0xC1;
        if (t->byte_id[i] >= 0) continue;
        t->byte_id[i] = t->n_vocab; // a symbol of one byte that joins nothing and is no token
        t->drops |= in_utf8 && j->byte_drops;
        if (in_utf8 && !j->byte_gaps && !j->byte_drops) {
            FAIL(e, E_FORMAT, "the vocabulary has no token for byte 0x%02X", (unsigned)i);
        }
    }
done:
    return st;
}

/* ---- work space ---- */

enum status tok_bpe_stage_init(struct tok_bpe *b, struct err *e) {
    return mem_zalloc(&b->cache, TOK_CACHE, sizeof *b->cache, e);
}

void tok_bpe_stage_fini(struct tok_bpe *b) {
    mem_free(b->cache);
    mem_free(b->block);
    mem_free(b->block_text);
    mem_free(b->heap);
    mem_free(b->symbols);
    mem_free(b->spare);
    mem_free(b->best);
    mem_free(b->back);
}

// What the stretch of one document took must not stay for all that follow.
void tok_bpe_stage_reset(struct tok_bpe *b) {
    if (b->spare_cap > 1 << 18) {
        mem_free(b->spare);
        b->spare = NULL;
        b->spare_cap = 0;
    }
    if (b->back_cap > 1 << 18) {
        mem_free(b->back);
        b->back = NULL;
        b->back_cap = 0;
    }
}

size_t tok_bpe_bytes(const struct tok_bpe *b) {
    return TOK_CACHE * sizeof *b->cache + b->block_cap * 4 + b->block_text_cap + b->heap_cap * 8 +
           b->symbols_cap * sizeof *b->symbols + b->spare_cap * 4 + b->best_cap * 8 +
           b->back_cap * 2;
}

/* ---- one word ---- */

static size_t first_symbols(const struct tok *t, const char *s, size_t n, int32_t *out) {
    if (t->json->model != TOKJSON_BYTES) return tok_chars_symbols(&t->chars, s, n, out);
    for (size_t i = 0; i < n; i++) out[i] = t->byte_id[(unsigned char)s[i]];
    return n;
}

// At most SHORT_WORD bytes. Returns the number of symbols.
static size_t encode_short(const struct tok *t, const char *s, size_t n, int32_t *ids) {
    const struct tok_pair *pair[SHORT_WORD];
    n = first_symbols(t, s, n, ids);
    for (size_t i = 0; i + 1 < n; i++) pair[i] = pair_of(t, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t at = 0;
        uint32_t best = pair[0]->rank;
        for (size_t i = 1; i + 1 < n; i++) {
            if (pair[i]->rank < best) {
                best = pair[i]->rank;
                at = i;
            }
        }
        if (best == NO_RANK) break;
        ids[at] = pair[at]->made;
        n--;
        for (size_t i = at + 1; i < n; i++) ids[i] = ids[i + 1];
        for (size_t i = at; i + 1 < n; i++) pair[i] = pair[i + 1];
        if (at + 1 < n) pair[at] = pair_of(t, ids[at], ids[at + 1]);
        if (at > 0) pair[at - 1] = pair_of(t, ids[at - 1], ids[at]);
    }
    return n;
}

static void heap_down(uint64_t *h, size_t n, size_t i) {
    const uint64_t x = h[i];
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && h[c + 1] < h[c]) c++;
        if (h[c] >= x) break;
        h[i] = h[c];
    }
    h[i] = x;
}

static void heap_push(uint64_t *h, size_t *n, uint64_t x) {
    size_t i = (*n)++;
    for (size_t up; i > 0 && h[up = (i - 1) / 2] > x; i = up) h[i] = h[up];
    h[i] = x;
}

// Sets the rank of the pair that begins at symbol i and queues it.
static void rate(const struct tok *t, struct tok_symbol *sym, int32_t i, uint64_t *heap,
                 size_t *n) {
    const struct tok_pair *p = sym[i].next < 0 ? NULL : pair_of(t, sym[i].id, sym[sym[i].next].id);
    sym[i].rank = p != NULL ? p->rank : NO_RANK;
    sym[i].made = p != NULL ? p->made : -1;
    if (sym[i].rank != NO_RANK) heap_push(heap, n, (uint64_t)sym[i].rank << 32 | (uint32_t)i);
}

// Any number of symbols; the ids go to b->block.
static enum status encode_heap(const struct tok *t, struct tok_bpe *b, const char *s, size_t n,
                               struct err *e) {
    enum status st = OK;
    size_t left = 0;
    // A join takes one entry out and puts two in, and there are at most n - 1 joins.
    TRY(mem_grow(&b->heap, &b->heap_cap, 2 * n + 2, sizeof *b->heap, e));
    TRY(mem_grow(&b->symbols, &b->symbols_cap, n, sizeof *b->symbols, e));
    TRY(mem_grow(&b->block, &b->block_cap, n, sizeof *b->block, e));
    struct tok_symbol *sym = b->symbols;
    n = first_symbols(t, s, n, b->block);
    for (size_t i = 0; i < n; i++) {
        sym[i] = (struct tok_symbol){b->block[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1,
                                     NO_RANK, -1};
    }
    for (size_t i = 0; i + 1 < n; i++) {
        const struct tok_pair *p = pair_of(t, sym[i].id, sym[i + 1].id);
        sym[i].rank = p->rank;
        sym[i].made = p->made;
        if (p->rank != NO_RANK) b->heap[left++] = (uint64_t)p->rank << 32 | i;
    }
    for (size_t i = left / 2; i-- > 0;) heap_down(b->heap, left, i);
    while (left > 0) {
        const int32_t at = (int32_t)(b->heap[0] & 0xFFFFFFFFu);
        const uint32_t rank = (uint32_t)(b->heap[0] >> 32);
        b->heap[0] = b->heap[--left];
        if (left > 0) heap_down(b->heap, left, 0);
        if (sym[at].id < 0 || sym[at].rank != rank) continue; // a pair that is no more
        const int32_t gone = sym[at].next;
        sym[at].id = sym[at].made;
        sym[at].next = sym[gone].next;
        sym[gone].id = -1;
        if (sym[at].next >= 0) sym[sym[at].next].prev = at;
        rate(t, sym, at, b->heap, &left);
        if (sym[at].prev >= 0) rate(t, sym, sym[at].prev, b->heap, &left);
    }
    b->n_block = 0;
    for (int32_t i = 0; i >= 0; i = sym[i].next) b->block[b->n_block++] = sym[i].id;
done:
    return st;
}

// encode_heap with the last block remembered: runs of one character come as equal blocks.
static enum status encode_block(struct tok_stream *s, const char *text, size_t n, struct err *e) {
    enum status st = OK;
    struct tok_bpe *b = &s->bpe;
    if (n == b->block_n && memcmp(text, b->block_text, n) == 0) goto done;
    b->block_n = 0;
    s->work += (int64_t)n;
    TRY(encode_heap(s->t, b, text, n, e));
    TRY(mem_grow(&b->block_text, &b->block_text_cap, n, 1, e));
    memcpy(b->block_text, text, n);
    b->block_n = n;
done:
    return st;
}

// Splices the block, which covers text[from, ..), onto the *n_ids ids behind s->out_tail, which
// cover [0, end) and of which the first k cover [0, from). *joined: they share a token.
static enum status splice(struct tok_stream *s, size_t k, size_t *n_ids, bool *joined,
                          struct err *e) {
    enum status st = OK;
    const struct tok *t = s->t;
    const struct tok_bpe *b = &s->bpe;
    const int32_t *ids = s->ids + s->out_tail;
    size_t i = k, j = 0, at_i = 0, at_j = 0;
    *joined = k == 0; // then the block is the encoding of everything so far
    while (!*joined && i < *n_ids && j < b->n_block) {
        if (at_i == at_j && ids[i] == b->block[j]) {
            *joined = true;
        } else if (at_i <= at_j) {
            at_i += t->pieces[ids[i++]].n;
        } else {
            at_j += t->pieces[b->block[j++]].n;
        }
    }
    if (!*joined) goto done;
    *n_ids = i + b->n_block - j;
    TRY(mem_grow(&s->ids, &s->ids_cap, s->out_tail + *n_ids, sizeof *s->ids, e));
    memcpy(s->ids + s->out_tail + i, b->block + j, (b->n_block - j) * sizeof *ids);
done:
    return st;
}

// The last place by `at` where a character begins, if the model is one of characters.
static size_t whole_chars(const struct tok *t, const char *text, size_t n, size_t at) {
    if (at >= n) return n;
    while (t->json->model != TOKJSON_BYTES && ((unsigned char)text[at] & 0xC0) == 0x80) at--;
    return at;
}

// The ids are left behind s->out_tail, where the stream wants them: a long word has many.
static enum status encode_long(struct tok_stream *s, const char *text, size_t n, size_t *n_ids,
                               struct err *e) {
    enum status st = OK;
    size_t end = whole_chars(s->t, text, n, BLOCK);
    bool joined;
    *n_ids = 0;
    TRY(encode_block(s, text, end, e));
    TRY(splice(s, 0, n_ids, &joined, e));
    while (end < n) {
        for (size_t overlap = OVERLAP;; overlap *= 2) {
            size_t k = *n_ids, from = end;
            while (k > 0 && end - from < overlap) from -= s->t->pieces[s->ids[s->out_tail + --k]].n;
            const size_t size = end - from + BLOCK - OVERLAP;
            const size_t to = whole_chars(s->t, text, n, from + size);
            TRY(encode_block(s, text + from, to - from, e));
            TRY(splice(s, k, n_ids, &joined, e));
            if (!joined) continue; // look further back; from the start it always joins
            end = to;
            break;
        }
    }
done:
    return st;
}

static uint64_t load8(const char *s) {
    uint64_t w;
    memcpy(&w, s, 8);
    return w;
}

static uint64_t load4(const char *s) {
    uint32_t w;
    memcpy(&w, s, 4);
    return w;
}

// Fixed-size loads that overlap, so that no byte behind the word is read.
static size_t cache_slot(const char *s, size_t n) {
    const uint64_t k = 0x9E3779B97F4A7C15ull;
    uint64_t h = n;
    if (n >= 8) {
        for (size_t i = 8; i < n; i += 8) {
            h = (h ^ load8(s + i - 8)) * k;
            h ^= h >> 29;
        }
        h ^= load8(s + n - 8);
    } else if (n >= 4) {
        h ^= load4(s) << 32 | load4(s + n - 4);
    } else {
        h ^= (uint64_t)(unsigned char)s[0] << 24 | (uint64_t)(unsigned char)s[n / 2] << 16 |
             (uint64_t)(unsigned char)s[n - 1] << 8;
    }
    h *= k;
    return (size_t)((h ^ h >> 32) * k >> 50);
}
_Static_assert(TOK_CACHE == 1 << (64 - 50), "cache_slot gives as many bits as the cache has");

static void remember(struct tok_cached *c, const char *text, size_t n, const int32_t *ids,
                     size_t n_ids) {
    if (n_ids > COUNTOF(c->ids)) return;
    c->n = (uint8_t)n;
    c->n_ids = (uint8_t)n_ids;
    memcpy(c->key, text, n);
    memcpy(c->ids, ids, n_ids * sizeof *ids);
}

enum status tok_encode(struct tok_stream *s, const char *text, size_t n, const int32_t **symbols,
                       size_t *n_symbols, struct err *e) {
    enum status st = OK;
    const struct tok *t = s->t;
    struct tok_cached *c = NULL;
    if (n <= sizeof c->key) {
        c = &s->bpe.cache[cache_slot(text, n)];
        if (c->n == n && memcmp(c->key, text, n) == 0) {
            *symbols = c->ids;
            *n_symbols = c->n_ids;
            goto done;
        }
    }
    const size_t room = s->out_tail + SHORT_WORD;
    TRY(mem_grow(&s->ids, &s->ids_cap, room, sizeof *s->ids, e));
    const int32_t whole =
        t->json->ignore_merges && t->json->model == TOKJSON_BYTES ? tok_words_get(t, text, n) : -1;
    if (whole >= 0) {
        s->ids[s->out_tail] = whole;
        *n_symbols = 1;
    } else if (t->json->model == TOKJSON_UNIGRAM) {
        TRY(tok_unigram_encode(s, text, n, n_symbols, e));
    } else if (n <= SHORT_WORD) {
        s->work += (int64_t)n;
        *n_symbols = encode_short(t, text, n, s->ids + s->out_tail);
    } else {
        TRY(encode_long(s, text, n, n_symbols, e));
    }
    *symbols = s->ids + s->out_tail;
    if (c != NULL) remember(c, text, n, *symbols, *n_symbols);
done:
    return st;
}

/* ---- the last stage ---- */

// Ids of a word of which some bytes have no token, or its ids one by one: reading stays ahead of
// writing, so they may lie where they are put.
static enum status emit_slowly(struct tok_stage *g, size_t size, const int32_t *ids, size_t n,
                               struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    size_t at = 0;
    bool exact;
    for (size_t i = 0; i < n; i++) {
        const int32_t id = ids[i];
        at += s->t->pieces[id].n;
        const int64_t raw = tok_text_raw(&g->text, at, &exact);
        if (id < s->t->n_vocab) TRY(tok_emit(s, id, raw, e));
    }
    CHECK(at == size);
done:
    return st;
}

static bool all_tokens(const struct tok *t, const int32_t *ids, size_t n) {
    for (size_t i = 0; t->json->byte_gaps && i < n; i++) {
        if (ids[i] >= t->n_vocab) return false;
    }
    return true;
}

// A word that lies in the document byte for byte: places follow from the lengths of the tokens.
static enum status bpe_whole(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    const int32_t *ids;
    size_t n;
    if (tok_text_n(&g->text) > 0 || v.place != TOK_LINEAR) {
        st = tok_stage_whole(g, v, e);
        goto done;
    }
    TRY(tok_encode(s, v.s, v.n, &ids, &n, e));
    if (!all_tokens(s->t, ids, n)) {
        st = tok_stage_whole(g, v, e);
        goto done;
    }
    TRY(tok_emit_word(s, ids, n, v.raw - (int64_t)v.n, v.raw, e));
done:
    return st;
}

static enum status bpe_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    return tok_text_add(&g->text, v, e);
}

static enum status bpe_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    const size_t size = tok_text_n(&g->text);
    const int32_t *ids;
    size_t n;
    if (size == 0) goto done;
    if (size > TOK_MAX_STRETCH) {
        bool unused;
        st = tok_too_long(tok_text_raw(&g->text, 0, &unused), e);
        goto done;
    }
    TRY(tok_encode(s, tok_text_at(&g->text), size, &ids, &n, e));
    const struct tok_span all = tok_text_span(&g->text, 0, size);
    if (all.n == size && all.place == TOK_LINEAR && all_tokens(s->t, ids, n)) {
        TRY(tok_emit_word(s, ids, n, all.raw - (int64_t)size, all.raw, e));
    } else {
        TRY(emit_slowly(g, size, ids, n, e));
    }
    tok_text_drop(&g->text, size);
done:
    return st;
}

const struct tok_stage_ops tok_bpe_ops = {bpe_push, bpe_whole, bpe_end};
