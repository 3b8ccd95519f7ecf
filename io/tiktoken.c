#include "io/tiktoken.h"

#include "base/mem.h"
#include "io/fmap.h"

#include <string.h>

struct reading {
    struct tiktoken *t;
    const char *path;
    const char *s; /* borrowed [n]: the file */
    size_t n, at;
    size_t cap; /* room for tokens */
    size_t line;
};

static int digit_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// The bytes of s[0..n) in Base64; SIZE_MAX when it is not that.
static size_t decode(const char *s, size_t n, char *out) {
    size_t made = 0;
    if (n % 4 != 0) return SIZE_MAX;
    for (size_t i = 0; i < n; i += 4) {
        size_t pad = 0;
        uint32_t bits = 0;
        for (size_t k = 0; k < 4; k++) {
            const bool is_pad = s[i + k] == '=' && i + 4 == n && k >= 2;
            const int d = is_pad ? 0 : digit_of(s[i + k]);
            if (d < 0 || (pad > 0 && !is_pad)) return SIZE_MAX;
            pad += is_pad;
            bits = bits << 6 | (uint32_t)d;
        }
        if ((bits & ((1u << 8 * pad) - 1)) != 0) return SIZE_MAX; // bits that no byte takes
        for (size_t k = 0; k < 3 - pad; k++) out[made++] = (char)(bits >> (16 - 8 * k));
    }
    return made;
}

// A rank without signs or leading zeros; SIZE_MAX when it is none.
static size_t rank_of(const char *s, size_t n) {
    size_t rank = 0;
    if (n == 0 || n > 8 || (*s == '0' && n > 1)) return SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') return SIZE_MAX;
        rank = 10 * rank + (size_t)(s[i] - '0');
    }
    return rank;
}

static enum status read_line(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tiktoken *t = r->t;
    const char *line = r->s + r->at, *end = memchr(line, '\n', r->n - r->at);
    const size_t n = end != NULL ? (size_t)(end - line) : r->n - r->at;
    const char *space = memchr(line, ' ', n);
    const size_t n_code = space != NULL ? (size_t)(space - line) : 0;
    char *bytes = t->keep + t->n_bytes;
    const size_t len = n_code > 0 ? decode(line, n_code, bytes) : SIZE_MAX;
    r->at += n + (end != NULL ? 1 : 0);
    r->line++;
    if (len == SIZE_MAX) {
        FAIL(e, E_FORMAT, "%s:%zu: must be a token in Base64, a space and its rank", r->path,
             r->line);
    }
    if (len > TIKTOKEN_MAX_TOKEN) {
        FAIL(e, E_FORMAT, "%s:%zu: a token of %zu bytes; at most %d are read", r->path, r->line,
             len, TIKTOKEN_MAX_TOKEN);
    }
    if (rank_of(space + 1, n - n_code - 1) != t->n_tokens) {
        FAIL(e, E_FORMAT, "%s:%zu: rank \"%.*s\" where %zu comes next", r->path, r->line,
             (int)(n - n_code - 1 < 20 ? n - n_code - 1 : 20), space + 1, t->n_tokens);
    }
    TRY(mem_grow(&t->tokens, &r->cap, t->n_tokens + 1, sizeof *t->tokens, e));
    t->tokens[t->n_tokens++] = (struct tokjson_str){bytes, len};
    t->n_bytes += len;
done:
    return st;
}

static enum status index_tokens(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tiktoken *t = r->t;
    TRY(tokjson_map_init(&t->ids, t->n_tokens, e));
    for (size_t i = 0; i < t->n_tokens; i++) {
        const int32_t other = tokjson_map_get(&t->ids, t->tokens[i].s, t->tokens[i].n);
        if (other >= 0) {
            FAIL(e, E_FORMAT, "%s:%zu: the bytes of line %d again", r->path, i + 1, other + 1);
        }
        tokjson_map_put(&t->ids, t->tokens[i], (int32_t)i);
    }
done:
    return st;
}

enum status tiktoken_open(struct tiktoken **out, const char *path, struct hash *h, struct err *e) {
    enum status st = OK;
    struct fmap *m = NULL;
    struct reading r = {.path = path};
    *out = NULL;
    TRY(fmap_open(&m, path, e));
    r.n = fmap_bytes(m);
    if (r.n > TIKTOKEN_MAX_BYTES) {
        FAIL(e, E_FORMAT, "%s: %zu bytes; at most %d are read from such a file", path, r.n,
             TIKTOKEN_MAX_BYTES);
    }
    r.s = (const char *)fmap_borrow_data(m);
    TRY(mem_zalloc(&r.t, 1, sizeof *r.t, e));
    TRY(mem_zalloc(&r.t->keep, r.n + 1, 1, e)); // Base64 is longer than what it stands for
    if (r.n > 0) hash_add(h, r.s, r.n);
    while (r.at < r.n) TRY(read_line(&r, e));
    if (fmap_torn(m)) FAIL(e, E_IO, "%s: cut short while it was read", path);
    if (r.t->n_tokens == 0) FAIL(e, E_FORMAT, "%s: no tokens", path);
    TRY(index_tokens(&r, e));
    *out = r.t;
    r.t = NULL;
done:
    tiktoken_close(r.t);
    fmap_close(m);
    return st;
}

void tiktoken_close(struct tiktoken *t) {
    if (t == NULL) return;
    mem_free(t->tokens);
    mem_free(t->keep);
    tokjson_map_fini(&t->ids);
    mem_free(t);
}
