/* Unigram models: the sequence of tokens of the highest sum of scores (Viterbi). A character that
 * is no token by itself may stand as unknown, at a price.
 *
 * Ties go to the path whose last token is the longest, as in SentencePiece. Sums are taken from the
 * beginning of a word, in double: SentencePiece adds up a whole text in float, where differences
 * below the rounding of the sum so far are lost. */
#include "base/mem.h"
#include "core/tok_impl.h"

#include <float.h>
#include <string.h>

static const float UNKNOWN_PENALTY = 10.0f;

/* ---- the trie ---- */

static size_t edge_slot(const struct tok_unigram *u, uint64_t key) {
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15ull >> 20) & u->mask;
    while (u->edges[i].key != 0 && u->edges[i].key != key) i = (i + 1) & u->mask;
    return i;
}

static void put_token(struct tok_unigram *u, const char *s, size_t n, int32_t id) {
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t key = ((uint64_t)node << 8 | (unsigned char)s[i]) + 1;
        struct tok_trie_edge *edge = &u->edges[edge_slot(u, key)];
        if (edge->key == 0) {
            *edge = (struct tok_trie_edge){key, (uint32_t)u->n_nodes};
            u->token[u->n_nodes++] = -1;
        }
        node = edge->to;
    }
    u->token[node] = id;
}

static bool takes_part(const struct tokjson_token *k, const struct tok *t) {
    const bool reachable =
        !t->json->spaced || k->text.n == 0 || memchr(k->text.s, ' ', k->text.n) == NULL;
    return (k->kind == TOKJSON_NORMAL || k->kind == TOKJSON_USER) && k->text.n > 0 && reachable;
}

enum status tok_unigram_init(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    struct tok_unigram *u = &t->unigram;
    size_t bytes = 0, cap = 64;
    float low = FLT_MAX, high = FLT_MIN; // as SentencePiece begins
    for (size_t i = 0; i < j->n_tokens; i++) bytes += t->pieces[j->tokens[i].id].n;
    while (cap < bytes * 2) cap *= 2;
    TRY(mem_zalloc(&u->edges, cap, sizeof *u->edges, e));
    TRY(mem_zalloc(&u->token, bytes + 1, sizeof *u->token, e));
    TRY(mem_zalloc(&u->score, (size_t)t->n_vocab, sizeof *u->score, e));
    u->mask = cap - 1;
    u->token[0] = -1;
    u->n_nodes = 1;
    if (t->chars.max_piece > UINT16_MAX) FAIL(e, E_UNSUPPORTED, "a token of more than 65535 bytes");
    for (size_t i = 0; i < j->n_tokens; i++) {
        const struct tokjson_token *k = &j->tokens[i];
        const struct tok_piece *p = &t->pieces[k->id];
        if (k->kind == TOKJSON_NORMAL) {
            low = k->score < low ? k->score : low;
            high = k->score > high ? k->score : high;
        }
        if (takes_part(k, t)) put_token(u, t->arena + p->at, p->n, k->id);
        u->score[k->id] = k->score;
    }
    u->unknown = low - UNKNOWN_PENALTY;
    for (size_t i = 0; i < j->n_tokens; i++) { // a bonus, so that they are always taken
        const struct tokjson_token *k = &j->tokens[i];
        const float n = (float)k->text.n; // bytes as SentencePiece counts them: U+2581 has three
        if (k->kind == TOKJSON_USER) u->score[k->id] = (float)((double)(n * high) - 0.1);
    }
done:
    return st;
}

void tok_unigram_fini(struct tok_unigram *u) {
    mem_free(u->edges);
    mem_free(u->token);
    mem_free(u->score);
}

/* ---- the best path ---- */

static inline uint32_t step(const struct tok_unigram *u, uint32_t node, char byte) {
    return u->edges[edge_slot(u, ((uint64_t)node << 8 | (unsigned char)byte) + 1)].to;
}

struct path {
    double *best; // ring: the best sum to each place
    size_t ring;  // its size less one
    uint16_t *back;
};

static void offer(const struct path *p, size_t to, size_t len, double sum) {
    double *best = &p->best[to & p->ring];
    if (p->back[to] != 0 && sum <= *best) return;
    *best = sum;
    p->back[to] = (uint16_t)len;
}

static void forward(const struct tok_unigram *u, const struct path *p, const char *s, size_t n) {
    p->best[0] = 0.0;
    for (size_t at = 0, len; at < n; at += len) {
        const unsigned char lead = (unsigned char)s[at];
        const double sum = p->best[at & p->ring];
        bool single = false;
        len = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        for (size_t i = at, node = 0; i < n;) {
            node = step(u, (uint32_t)node, s[i++]);
            if (node == 0) break;
            const int32_t id = u->token[node];
            if (id < 0) continue;
            offer(p, i, i - at, sum + (double)u->score[id]);
            single = single || i - at == len;
        }
        if (!single) offer(p, at + len, len, sum + (double)u->unknown);
    }
}

// The token that is all of s[0..n), -1 when that is a character without one.
static int32_t token_at(const struct tok_unigram *u, const char *s, size_t n) {
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = step(u, node, s[i]);
        if (node == 0) return -1;
    }
    return u->token[node];
}

enum status tok_unigram_encode(struct tok_stream *s, const char *text, size_t n, size_t *n_ids,
                               struct err *e) {
    enum status st = OK;
    const struct tok *t = s->t;
    const struct tok_unigram *u = &t->unigram;
    struct tok_bpe *b = &s->bpe;
    size_t ring = 8, count = 0;
    while (ring <= t->chars.max_piece + 4) ring *= 2;
    TRY(mem_grow(&b->best, &b->best_cap, ring, sizeof *b->best, e));
    TRY(mem_grow(&b->back, &b->back_cap, n + 1, sizeof *b->back, e));
    memset(b->back, 0, (n + 1) * sizeof *b->back);
    const struct path p = {b->best, ring - 1, b->back};
    s->work += (int64_t)n;
    forward(u, &p, text, n);
    for (size_t at = n; at > 0; at -= b->back[at]) count++;
    TRY(mem_grow(&s->ids, &s->ids_cap, s->out_tail + count, sizeof *s->ids, e));
    *n_ids = count;
    for (size_t at = n; at > 0;) {
        const size_t len = b->back[at];
        at -= len;
        const int32_t id = token_at(u, text + at, len);
        s->ids[s->out_tail + --count] = id >= 0 ? id : t->chars.unknown;
    }
done:
    return st;
}
