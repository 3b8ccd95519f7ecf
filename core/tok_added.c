/* Added tokens: found in the text before anything else, the leftmost and of those the longest. */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <string.h>

struct tok_trie_node {
    int32_t child; /* first child, siblings follow by `next`; -1: none */
    int32_t next;
    int32_t token; /* index into tokens; -1: none ends here */
    unsigned char byte;
};

/* ---- the set ---- */

static enum status new_node(struct tok_added *a, unsigned char byte, int32_t *out, struct err *e) {
    enum status st = OK;
    TRY(mem_grow(&a->nodes, &a->nodes_cap, a->n_nodes + 1, sizeof *a->nodes, e));
    a->nodes[a->n_nodes] = (struct tok_trie_node){-1, -1, -1, byte};
    *out = (int32_t)a->n_nodes++;
done:
    return st;
}

enum status tok_added_init(struct tok_added *a, size_t n_max, struct err *e) {
    enum status st = OK;
    int32_t root;
    TRY(mem_zalloc(&a->tokens, n_max, sizeof *a->tokens, e));
    TRY(new_node(a, 0, &root, e));
done:
    return st;
}

void tok_added_fini(struct tok_added *a) {
    mem_free(a->nodes);
    mem_free(a->tokens);
}

static int32_t child_of(const struct tok_added *a, int32_t node, unsigned char byte) {
    int32_t c = a->nodes[node].child;
    while (c >= 0 && a->nodes[c].byte != byte) c = a->nodes[c].next;
    return c;
}

enum status tok_added_put(struct tok_added *a, const struct tokjson_added *token, const char *text,
                          size_t n, struct err *e) {
    enum status st = OK;
    int32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char byte = (unsigned char)text[i];
        int32_t c = child_of(a, node, byte);
        if (c < 0) {
            TRY(new_node(a, byte, &c, e));
            a->nodes[c].next = a->nodes[node].child;
            a->nodes[node].child = c;
        }
        node = c;
    }
    if (a->nodes[node].token >= 0) goto done;
    a->nodes[node].token = (int32_t)a->n_tokens;
    a->tokens[a->n_tokens++] = *token;
    a->first[(unsigned char)text[0]] = true;
    a->any_lstrip |= token->lstrip;
    a->any_single_word |= token->single_word;
done:
    return st;
}

/* ---- the stage ---- */

int32_t tok_added_longest(const struct tok_added *a, const char *s, size_t n, bool last,
                          size_t *len) {
    int32_t node = 0, found = TOK_ADDED_NONE;
    for (size_t i = 0;; i++) {
        if (a->nodes[node].token >= 0) {
            found = a->nodes[node].token;
            *len = i;
        }
        if (a->nodes[node].child < 0) return found;
        if (i == n) return last ? found : TOK_ADDED_MORE;
        node = child_of(a, node, (unsigned char)s[i]);
        if (node < 0) return found;
    }
}

// The code point that ends at s[i], i > 0; where it begins goes to *from.
static uint32_t before(const char *s, size_t i, size_t *from) {
    uint32_t cp = 0;
    *from = i - 1;
    while (*from > 0 && ((unsigned char)s[*from] & 0xC0) == 0x80) (*from)--;
    (void)utf8_decode(s + *from, i - *from, &cp);
    return cp;
}

static bool word_before(const struct tok_stage *g, const char *s, size_t i) {
    size_t from;
    return i == 0 ? g->was_word : tok_is_word(before(s, i, &from));
}

static void drop(struct tok_stage *g, size_t n) {
    const struct tok_added *a = g->conf;
    if (n == 0) return;
    if (a->any_single_word) g->was_word = word_before(g, tok_text_at(&g->text), n);
    tok_text_drop(&g->text, n);
    g->pos -= n;
    g->look -= n;
    g->want = g->want > n ? g->want - n : 0;
}

// The token at [at, at + len): what stands before it is passed on and ended, then its id goes out.
static enum status take_token(struct tok_stage *g, const struct tokjson_added *k, size_t at,
                              size_t len, struct err *e) {
    enum status st = OK;
    struct tok_stream *s = g->stream;
    size_t stop = at;
    if (k->lstrip) {
        size_t from;
        while (stop > g->pos && tok_is_space(before(tok_text_at(&g->text), stop, &from)))
            stop = from;
    }
    if (g->pos < stop) TRY(tok_stage_send(g, g->pos, stop, e));
    TRY(g->next->ops->end(g->next, e));
    bool exact;
    const int64_t raw = tok_text_raw(&g->text, at + len, &exact);
    TRY(tok_emit(s, k->id, raw, e));
    g->pos = g->look = g->want = at + len;
    g->swallow = k->rstrip;
done:
    return st;
}

// White space at g->look belongs to the token before (rstrip): skips it, false at anything else.
static bool swallow_space(struct tok_stage *g, const char *s, size_t n) {
    uint32_t cp = 0;
    const size_t len = utf8_decode(s + g->look, n - g->look, &cp);
    if (len == 0 || !tok_is_space(cp)) return false;
    g->look += len;
    if (g->pos < g->look) g->pos = g->look;
    g->want = g->look;
    return true;
}

// Decides about as much text as can be decided.
static enum status scan(struct tok_stage *g, bool last, struct err *e) {
    enum status st = OK;
    const struct tok_added *a = g->conf;
    const char *s = tok_text_at(&g->text);
    const size_t n = tok_text_n(&g->text);
    while (g->look < n) {
        const unsigned char c = (unsigned char)s[g->look];
        if (!a->first[c] && !g->swallow) {
            g->look++;
            continue;
        }
        size_t len = 0;
        const int32_t hit = a->first[c] ? tok_added_longest(a, s + g->look, n - g->look, last, &len)
                                        : TOK_ADDED_NONE;
        if (hit == TOK_ADDED_MORE) break;
        if (hit == TOK_ADDED_NONE) {
            if (g->swallow && swallow_space(g, s, n)) continue;
            g->swallow = false;
            g->look++;
            continue;
        }
        const struct tokjson_added *k = &a->tokens[hit];
        const size_t end = g->look + len;
        if (k->single_word) {
            uint32_t cp = 0;
            if (end == n && !last) break;
            if (end < n) (void)utf8_decode(s + end, n - end, &cp);
            if (word_before(g, s, g->look) || (end < n && tok_is_word(cp))) {
                g->swallow = false;
                g->look = end; // the library goes on behind it
                continue;
            }
        }
        TRY(take_token(g, k, g->look, len, e));
    }
    g->stream->work += (int64_t)(g->look - g->pos < n ? g->look - g->pos : n);
done:
    return st;
}

// How much of the decided text may go: all but white space that an lstrip token may still claim.
// g->want is the index behind the last character known not to be white space.
static size_t sendable(struct tok_stage *g) {
    const struct tok_added *a = g->conf;
    if (!a->any_lstrip) return g->look;
    const char *s = tok_text_at(&g->text);
    size_t i = g->look, from;
    while (i > g->want && i > g->pos && tok_is_space(before(s, i, &from))) i = from;
    if (i > g->want) g->want = i;
    return g->want > g->pos ? g->want : g->pos;
}

static enum status added_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    TRY(tok_text_add(&g->text, v, e));
    TRY(scan(g, false, e));
    const size_t to = sendable(g);
    if (to > g->pos) {
        TRY(tok_stage_send(g, g->pos, to, e));
        g->pos = to;
    }
    drop(g, g->pos < g->look ? g->pos : g->look);
    if (tok_text_n(&g->text) > TOK_MAX_STRETCH) {
        bool unused;
        st = tok_too_long(tok_text_raw(&g->text, 0, &unused), e);
    }
done:
    return st;
}

static enum status added_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    TRY(scan(g, true, e));
    const size_t n = tok_text_n(&g->text);
    if (g->pos < n) TRY(tok_stage_send(g, g->pos, n, e));
    g->pos = g->look = n;
    drop(g, n);
    g->want = 0;
    g->was_word = g->swallow = false;
    TRY(g->next->ops->end(g->next, e));
done:
    return st;
}

const struct tok_stage_ops tok_added_ops = {added_push, tok_stage_whole, added_end};
