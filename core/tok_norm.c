/* Normalizers, as stages. */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { N_CODE_POINTS = 0x110000, BITS_BYTES = N_CODE_POINTS / 8 };

static bool bit(const uint8_t *bits, uint32_t cp) {
    return bits[cp >> 3] >> (cp & 7) & 1;
}

static void set_bit(uint8_t *bits, uint32_t cp, bool on) {
    if (on)
        bits[cp >> 3] = (uint8_t)(bits[cp >> 3] | 1u << (cp & 7));
    else
        bits[cp >> 3] = (uint8_t)(bits[cp >> 3] & ~(1u << (cp & 7)));
}

/* ---- Unicode forms ---- */

enum { MAX_ONE = 32 }; // code points one code point can become (18 is the longest)

// The library's tables are those of Unicode 12: it leaves these as they are.
static bool is_younger(uint32_t cp) {
    static const struct tok_range r[] = {{0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xAB69, 0xAB69},
                                         {0x10781, 0x107BA}, {0x11938, 0x11938}, {0x1E030, 0x1E06D},
                                         {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};
    for (size_t i = 0; i < COUNTOF(r); i++) {
        if (cp >= r[i].first && cp <= r[i].last) return true;
    }
    return false;
}

static size_t decompose_one(uint32_t cp, int options, int32_t out[MAX_ONE]) {
    const bool hangul = cp >= 0xAC00 && cp <= 0xD7A3; // decomposed by rule, not by table
    const uint16_t seq = utf8proc_get_property((utf8proc_int32_t)cp)->decomp_seqindex;
    if ((!hangul && seq == UINT16_MAX) || is_younger(cp)) {
        out[0] = (int32_t)cp;
        return 1;
    }
    int last_boundclass = 0;
    const utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)cp, out, MAX_ONE,
                                (utf8proc_option_t)(options & ~UTF8PROC_COMPOSE), &last_boundclass);
    return n > 0 && n <= MAX_ONE ? (size_t)n : 0;
}

// UTF8PROC_STABLE: without it code points that Unicode excludes from composition are composed too.
static size_t compose(int32_t *d, size_t n) {
    return (size_t)utf8proc_normalize_utf32(
        d, (utf8proc_ssize_t)n, (utf8proc_option_t)(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
}

static int ccc(int32_t cp) {
    return utf8proc_get_property(cp)->combining_class;
}

// A code point starts a piece when its decomposition begins with a starter that is never the second
// of a composition: normalization then neither moves nor joins anything across its front. The
// seconds are found as the code points behind the first in canonical decompositions.
enum status tok_form_init(struct tok_form *f, enum tokjson_norm_kind kind, struct err *e) {
    static const int options[] = {
        [TOKJSON_NFC] = UTF8PROC_COMPOSE,
        [TOKJSON_NFD] = UTF8PROC_DECOMPOSE,
        [TOKJSON_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [TOKJSON_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    enum status st = OK;
    uint8_t *second = NULL;
    int32_t d[MAX_ONE];
    f->options = options[kind] | UTF8PROC_DECOMPOSE;
    TRY(mem_zalloc(&second, BITS_BYTES, 1, e));
    TRY(mem_zalloc(&f->starts, BITS_BYTES, 1, e));
    TRY(mem_zalloc(&f->inert, BITS_BYTES, 1, e));
    for (uint32_t cp = 0; cp < N_CODE_POINTS; cp++) {
        const size_t n = decompose_one(cp, UTF8PROC_DECOMPOSE, d);
        for (size_t i = 1; i < n; i++) set_bit(second, (uint32_t)d[i], true);
    }
    for (uint32_t cp = 0; cp < N_CODE_POINTS; cp++) {
        size_t n = decompose_one(cp, f->options, d);
        if (n == 0) continue;
        set_bit(f->starts, cp, ccc(d[0]) == 0 && !bit(second, (uint32_t)d[0]));
        if (options[kind] & UTF8PROC_COMPOSE && n > 1) {
            n = compose(d, n);
        }
        set_bit(f->inert, cp, n == 1 && d[0] == (int32_t)cp);
    }
done:
    mem_free(second);
    return st;
}

void tok_form_fini(struct tok_form *f) {
    mem_free(f->starts);
    mem_free(f->inert);
}

// Canonical ordering: runs of marks sorted by class, equal ones kept in order. Counting, because a
// document may hold a run of millions.
static enum status order_marks(int32_t *d, size_t n, struct err *e) {
    enum status st = OK;
    int32_t *copy = NULL;
    for (size_t i = 0, j; i < n; i = j + (j == i)) {
        bool sorted = true;
        for (j = i; j < n && ccc(d[j]) != 0; j++)
            sorted = sorted && (j == i || ccc(d[j - 1]) <= ccc(d[j]));
        if (sorted) continue;
        size_t at[257] = {0};
        mem_free(copy);
        TRY(mem_zalloc(&copy, j - i, sizeof *copy, e));
        memcpy(copy, d + i, (j - i) * sizeof *copy);
        for (size_t k = i; k < j; k++) at[ccc(d[k]) + 1]++;
        for (int k = 0; k < 256; k++) at[k + 1] += at[k];
        for (size_t k = 0; k < j - i; k++) d[i + at[ccc(copy[k])]++] = copy[k];
    }
done:
    mem_free(copy);
    return st;
}

// Normalizes s[0..n), one piece, and passes it on.
static enum status form_piece(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    const struct tok_form *f = g->conf;
    int32_t *d = NULL;
    char *out = NULL;
    size_t cap = 0, k = 0, size = 0;
    for (size_t i = 0, len; i < v.n; i += len) {
        uint32_t cp;
        len = utf8_decode(v.s + i, v.n - i, &cp);
        CHECK(len > 0); // tok_feed lets only UTF-8 in
        TRY(mem_grow(&d, &cap, k + MAX_ONE, sizeof *d, e));
        k += decompose_one(cp, f->options, d + k);
    }
    TRY(order_marks(d, k, e));
    if (f->options & UTF8PROC_COMPOSE) {
        k = compose(d, k);
    }
    TRY(mem_zalloc(&out, k + 1, 4, e));
    for (size_t i = 0; i < k; i++) size += utf8_encode((uint32_t)d[i], out + size);
    if (size != v.n || memcmp(out, v.s, size) != 0) {
        v.s = out;
        v.n = size;
        v.place = v.place == TOK_LINEAR ? TOK_BLOCK : v.place;
    }
    TRY(g->next->ops->push(g->next, v, e));
done:
    mem_free(d);
    mem_free(out);
    return st;
}

// Where the next piece that begins behind `i` begins, or n. *plain: s[i..) up to there is one code
// point that stays as it is.
static size_t next_start(const struct tok_form *f, const char *s, size_t n, size_t i, bool *plain) {
    uint32_t cp = 0;
    size_t at = i + utf8_decode(s + i, n - i, &cp);
    *plain = bit(f->inert, cp);
    while (at < n) {
        const size_t len = utf8_decode(s + at, n - at, &cp);
        if (bit(f->starts, cp)) break;
        *plain = false;
        at += len;
    }
    return at;
}

// Passes on text[0, to), which ends where a piece ends.
static enum status form_run(struct tok_stage *g, size_t to, struct err *e) {
    enum status st = OK;
    const struct tok_form *f = g->conf;
    const char *s = tok_text_at(&g->text);
    size_t from = 0;
    g->stream->work += (int64_t)to;
    for (size_t i = 0, next; i < to; i = next) {
        bool plain = true;
        if (i + 1 < to && (unsigned char)s[i] < 0x80 && (unsigned char)s[i + 1] < 0x80) {
            next = i + 1;
        } else {
            next = next_start(f, s, to, i, &plain);
        }
        if (plain) continue;
        TRY(tok_stage_send(g, from, i, e));
        TRY(form_piece(g, tok_text_joined(&g->text, i, next), e));
        from = next;
    }
    TRY(tok_stage_send(g, from, to, e));
    tok_text_drop(&g->text, to);
    g->look = 0;
done:
    return st;
}

static enum status form_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    const struct tok_form *f = g->conf;
    TRY(tok_text_add(&g->text, v, e));
    const char *s = tok_text_at(&g->text);
    const size_t n = tok_text_n(&g->text);
    for (size_t i = n; i-- > g->look && i > 0;) { // g->look: no piece starts between 1 and there
        uint32_t cp;
        if (((unsigned char)s[i] & 0xC0) == 0x80 || utf8_decode(s + i, n - i, &cp) == 0) continue;
        if (!bit(f->starts, cp)) continue;
        TRY(form_run(g, i, e));
        break;
    }
    g->look = tok_text_n(&g->text);
    if (g->look > TOK_MAX_STRETCH) {
        bool unused;
        st = tok_too_long(tok_text_raw(&g->text, 0, &unused), e);
    }
done:
    return st;
}

static enum status form_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    if (tok_text_n(&g->text) > 0) TRY(form_run(g, tok_text_n(&g->text), e));
    TRY(g->next->ops->end(g->next, e));
done:
    return st;
}

const struct tok_stage_ops tok_form_ops = {form_push, tok_stage_whole, form_end};

/* ---- Lowercase ---- */

// Pairs that Unicode 16 added, which utf8proc may not know yet; 0 for all others.
static uint32_t newer_lower(uint32_t cp) {
    switch (cp) {
    case 0x1C89: return 0x1C8A;
    case 0xA7CB: return 0x264;
    case 0xA7CC: return 0xA7CD;
    case 0xA7DA: return 0xA7DB;
    case 0xA7DC: return 0x19B;
    default: return cp >= 0x10D50 && cp <= 0x10D65 ? cp + 0x20 : 0;
    }
}

// Rust's char::to_lowercase: the simple mapping, but for U+0130, which becomes two characters.
static size_t lower_one(uint32_t cp, char out[8]) {
    if (newer_lower(cp) != 0) return utf8_encode(newer_lower(cp), out);
    if (cp != 0x130) return utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), out);
    memcpy(out, "i\xCC\x87", 3);
    return 3;
}

static enum status lower_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    char out[4096];
    const int64_t start = v.raw - (int64_t)v.n;
    size_t n = 0, from = 0;
    for (size_t i = 0, len; i < v.n; i += len) {
        uint32_t cp = 0;
        char low[8];
        len = utf8_decode(v.s + i, v.n - i, &cp);
        const size_t k = cp >= 'A' && cp <= 'Z' ? 1 : cp < 0x80 ? 1 : lower_one(cp, low);
        if (cp < 0x80) low[0] = (char)(cp >= 'A' && cp <= 'Z' ? cp + 32 : cp);
        const bool last = i + len == v.n;
        // Places survive as long as lengths do; one that changes is a block of its own.
        if (k != len || n + k > sizeof out) {
            struct tok_span w = {out, n, start + (int64_t)i, v.place};
            if (v.place != TOK_LINEAR) w.raw = v.raw, w.place = TOK_LOOSE;
            if (n > 0) TRY(g->next->ops->push(g->next, w, e));
            n = 0;
            from = i;
        }
        memcpy(out + n, low, k);
        n += k;
        if (k == len && !last) continue;
        struct tok_span w = {out, n, start + (int64_t)(i + len), v.place};
        if (v.place == TOK_LINEAR && n != i + len - from) w.place = TOK_BLOCK;
        if (v.place != TOK_LINEAR) w.raw = v.raw, w.place = last ? v.place : TOK_LOOSE;
        TRY(g->next->ops->push(g->next, w, e));
        n = 0;
        from = i + len;
    }
done:
    return st;
}

const struct tok_stage_ops tok_lower_ops = {lower_push, tok_stage_whole, tok_stage_pass_end};

/* ---- text in front of a piece: Prepend, and ByteLevel's add_prefix_space ---- */

static enum status prefix_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    const struct tok_prefix *p = g->conf;
    if (!g->begun && v.n > 0) {
        g->begun = true;
        const bool there = (p->unless_there && v.n >= p->n && memcmp(v.s, p->s, p->n) == 0) ||
                           (p->first && g->past);
        const int64_t raw = v.place == TOK_LINEAR ? v.raw - (int64_t)v.n + 1 : v.raw;
        if (!there)
            TRY(g->next->ops->push(g->next, (struct tok_span){p->s, p->n, raw, TOK_LOOSE}, e));
    }
    TRY(g->next->ops->push(g->next, v, e));
done:
    return st;
}

static enum status prefix_end(struct tok_stage *g, struct err *e) {
    g->begun = false;
    g->past = true;
    return g->next->ops->end(g->next, e);
}

const struct tok_stage_ops tok_prefix_ops = {prefix_push, tok_stage_whole, prefix_end};

/* ---- Replace of a plain string ---- */

static enum status replace_run(struct tok_stage *g, bool last, struct err *e) {
    enum status st = OK;
    const struct tokjson_norm *r = g->conf;
    const size_t n = tok_text_n(&g->text), k = r->pattern.n;
    size_t at = 0;
    g->stream->work += (int64_t)n;
    while (n - at >= k) {
        const char *s = tok_text_at(&g->text);
        const char *hit = memmem(s + at, n - at, r->pattern.s, k);
        if (hit == NULL) break;
        const size_t i = (size_t)(hit - s);
        TRY(tok_stage_send(g, at, i, e));
        TRY(tok_stage_replace(g, i, i + k, r->content, e));
        at = i + k;
    }
    const size_t keep = last ? 0 : n - at < k - 1 ? n - at : k - 1;
    size_t to = n - keep;
    const char *s = tok_text_at(&g->text);
    while (to > at && to < n && ((unsigned char)s[to] & 0xC0) == 0x80) to--; // whole code points
    TRY(tok_stage_send(g, at, to, e));
    tok_text_drop(&g->text, to);
done:
    return st;
}

static enum status replace_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    TRY(tok_text_add(&g->text, v, e));
    TRY(replace_run(g, false, e));
done:
    return st;
}

static enum status replace_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    TRY(replace_run(g, true, e));
    TRY(g->next->ops->end(g->next, e));
done:
    return st;
}

const struct tok_stage_ops tok_replace_ops = {replace_push, tok_stage_whole, replace_end};
