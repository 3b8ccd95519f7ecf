/* The tokenizer: parity with recorded ids of the `tokenizers` library, streaming laws, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/sbuf.h"
#include "core/tok.h"
#include "io/json.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char DATA[] = "tests/data/tok";
static const char INVALID[] = "tests/data/invalid/tokenizer";
static const char DEMO[] = "examples/demo/model";

/* ---- allocations that fail on order (linked with --wrap) ---- */

static int64_t allocs_left = -1; // -1: never fails
static bool deny(void) {
    if (allocs_left < 0) return false;
    if (allocs_left == 0) return true;
    allocs_left--;
    return false;
}
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_malloc(size_t n) {
    return deny() ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size) {
    return deny() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n) {
    return deny() ? NULL : __real_realloc(p, n);
}
int __wrap_posix_memalign(void **out, size_t align, size_t n) {
    return deny() ? 12 : __real_posix_memalign(out, align, n);
}

/* ---- helpers ---- */

struct ids {
    int32_t *id;
    int64_t *end;
    size_t n, cap, end_cap;
    int64_t safe_sum; // makes sure that safe offsets move at all
};

static void ids_fini(struct ids *x) {
    mem_free(x->id);
    mem_free(x->end);
}

static void take_all(struct tok_stream *s, struct ids *out) {
    for (;;) {
        assert_int_equal(mem_grow(&out->id, &out->cap, out->n + 1000, sizeof *out->id, NULL), OK);
        assert_int_equal(mem_grow(&out->end, &out->end_cap, out->n + 1000, sizeof *out->end, NULL),
                         OK);
        const size_t n = tok_take(s, out->id + out->n, out->end + out->n, 1000);
        out->n += n;
        if (n == 0) return;
    }
}

static struct tok *open_tok(const char *dir) {
    struct err e = {0};
    struct tok *t = NULL;
    if (tok_open(&t, dir, &e) != OK) fail_msg("%s", e.msg);
    return t;
}

static struct tok_stream *open_stream(const struct tok *t) {
    struct tok_stream *s = NULL;
    assert_int_equal(tok_stream_open(&s, t, NULL), OK);
    return s;
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

// Feeds text in chunks of `chunk` bytes (0: random sizes).
static void encode(struct tok_stream *s, const char *text, size_t n, size_t chunk,
                   struct ids *out) {
    struct err e = {0};
    uint32_t seed = (uint32_t)n + 7;
    out->n = 0;
    tok_stream_reset(s);
    for (size_t i = 0; i < n;) {
        size_t k = chunk > 0 ? chunk : next_random(&seed) % 40;
        if (k > n - i) k = n - i;
        if (tok_feed(s, text + i, k, &e) != OK) fail_msg("%s", e.msg);
        i += k;
        take_all(s, out);
        out->safe_sum += tok_safe_bytes(s) > 0;
    }
    if (tok_finish(s, &e) != OK) fail_msg("%s", e.msg);
    take_all(s, out);
}

static uint64_t fnv(const int32_t *id, size_t n) {
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++) {
        for (int b = 0; b < 4; b++) h = (h ^ ((uint32_t)id[i] >> (8 * b) & 0xFF)) * 0x100000001B3u;
    }
    return h;
}

// Whether ids equal what ids.json holds for them.
static bool as_recorded(const struct jnode *want, const int32_t *id, size_t n) {
    if (json_kind_of(want) == JSON_STR) {
        char text[64];
        snprintf(text, sizeof text, "%zu:%016llx", n, (unsigned long long)fnv(id, n));
        return strcmp(text, json_str(want, NULL)) == 0;
    }
    if (json_len(want) != n) return false;
    for (size_t i = 0; i < n; i++) {
        if (json_int(json_at(want, i)) != id[i]) return false;
    }
    return true;
}

// A text of texts.json: a string, or [[string, times], ...].
static void build_text(const struct jnode *v, struct sbuf *out) {
    size_t n;
    sbuf_clear(out);
    if (json_kind_of(v) == JSON_STR) {
        const char *s = json_str(v, &n);
        sbuf_add(out, s, n);
    }
    for (size_t i = 0; json_kind_of(v) == JSON_ARR && i < json_len(v); i++) {
        const struct jnode *part = json_at(v, i);
        const char *s = json_str(json_at(part, 0), &n);
        for (int64_t k = json_int(json_at(part, 1)); k > 0; k--) sbuf_add(out, s, n);
    }
    (void)sbuf_str(out);
    assert_int_equal(sbuf_status(out, NULL), OK);
}

static struct json *open_json(const char *dir, const char *name) {
    struct err e = {0};
    struct json *j = NULL;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (json_open(&j, path, 1 << 24, &e) != OK) fail_msg("%s", e.msg);
    return j;
}

// Calls one() for every directory under tests/data/tok and every text.
typedef void text_fn(const char *name, size_t index, const struct tok *t, struct tok_stream *s,
                     const struct sbuf *text, const struct jnode *want);

static void each_text(text_fn *one) {
    struct json *texts = open_json(DATA, "texts.json");
    struct sbuf text;
    int count = 0;
    sbuf_init(&text);
    DIR *d = opendir(DATA);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        if (strchr(f->d_name, '.') != NULL) continue;
        char dir[320];
        snprintf(dir, sizeof dir, "%s/%s", DATA, f->d_name);
        struct tok *t = open_tok(dir);
        struct json *ids = open_json(dir, "ids.json");
        struct tok_stream *s = open_stream(t);
        const size_t n = json_len(json_root(texts));
        assert_int_equal(n, json_len(json_root(ids)));
        for (size_t i = 0; i < n; i++) {
            build_text(json_at(json_root(texts), i), &text);
            one(f->d_name, i, t, s, &text, json_at(json_root(ids), i));
        }
        tok_stream_close(s);
        json_close(ids);
        tok_close(t);
        count++;
    }
    closedir(d);
    sbuf_fini(&text);
    json_close(texts);
    assert_true(count >= 15);
}

/* ---- (a, b) recorded ids, whatever the chunks; places ---- */

static void check_places(const char *name, size_t index, const struct ids *x, size_t n_bytes) {
    for (size_t i = 0; i < x->n; i++) {
        if (x->end[i] < (i > 0 ? x->end[i - 1] : 0) || x->end[i] > (int64_t)n_bytes) {
            fail_msg("%s text %zu: place %lld of id %zu", name, index, (long long)x->end[i], i);
        }
    }
    if (x->n > 0) assert_int_equal(x->end[x->n - 1], n_bytes);
}

static void check_recorded(const char *name, size_t index, const struct tok *t,
                           struct tok_stream *s, const struct sbuf *text,
                           const struct jnode *want) {
    static const size_t chunks[] = {1 << 20, 1, 2, 3, 7, 64, 4096, 0};
    struct ids x = {0};
    (void)t;
    for (size_t c = 0; c < COUNTOF(chunks); c++) {
        encode(s, text->s, text->n, chunks[c], &x);
        if (!as_recorded(want, x.id, x.n)) {
            fail_msg("%s text %zu in chunks of %zu: other ids than recorded", name, index,
                     chunks[c]);
        }
        check_places(name, index, &x, text->n);
    }
    ids_fini(&x);
}

static void test_recorded(void **state) {
    (void)state;
    each_text(check_recorded);
}

/* ---- (c) safe offsets ---- */

static int64_t safe_moves; // how often an offset behind the start was safe in mid-text

static void check_safe(const char *name, size_t index, const struct tok *t, struct tok_stream *s,
                       const struct sbuf *text, const struct jnode *want) {
    struct ids all = {0}, rest = {0};
    struct tok_stream *second = open_stream(t);
    (void)want;
    encode(s, text->s, text->n, 1 << 20, &all);
    tok_stream_reset(s);
    int64_t seen = 0;
    for (size_t i = 0; i < text->n; i++) { // byte by byte, so that every stop is met
        struct err e = {0};
        if (tok_feed(s, text->s + i, 1, &e) != OK) fail_msg("%s", e.msg);
        const int64_t safe = tok_safe_bytes(s);
        assert_true(safe >= seen && safe <= (int64_t)i + 1);
        if (safe == seen || (text->n > 300 && safe - seen < (int64_t)text->n / 20)) continue;
        seen = safe;
        safe_moves++;
        encode(second, text->s + safe, text->n - (size_t)safe, 4096, &rest);
        size_t k = 0;
        while (k < all.n && all.end[k] <= safe) k++;
        const bool same =
            all.n - k == rest.n && memcmp(all.id + k, rest.id, rest.n * sizeof *rest.id) == 0;
        if (!same)
            fail_msg("%s text %zu: a fresh stream from %lld differs", name, index, (long long)safe);
    }
    assert_int_equal(tok_finish(s, NULL), OK);
    assert_int_equal(tok_safe_bytes(s), text->n);
    tok_stream_close(second);
    ids_fini(&all);
    ids_fini(&rest);
}

static void test_safe(void **state) {
    (void)state;
    safe_moves = 0;
    each_text(check_safe);
    assert_true(safe_moves > 100);
}

/* ---- (e) decoding ---- */

static void check_decode(const char *name, size_t index, const struct tok *t, struct tok_stream *s,
                         const struct sbuf *text, const struct jnode *want) {
    static const char *const changed[] = {
        "flags",       "strips",    "nfkc",       "nfkd",        "words",     "qwen2",
        "splits",      "cl100k",    "inverted",   "llama2",      "metafirst", "metaalways",
        "metanever",   "gemma",     "fused",      "plainchars",  "spbpe",     "spbpenfkc",
        "spbpeacross", "spunigram", "spunibytes", "spuniacross", "ggufspm"};
    (void)want;
    for (size_t i = 0; i < COUNTOF(changed); i++) { // these do not keep the text
        if (strcmp(name, changed[i]) == 0) return;
    }
    struct ids x = {0};
    struct sbuf back;
    sbuf_init(&back);
    encode(s, text->s, text->n, 64, &x);
    for (size_t i = 0; i < x.n; i++) {
        size_t n;
        const char *piece = tok_borrow_piece(t, x.id[i], &n);
        assert_non_null(piece);
        sbuf_add(&back, piece, n);
        assert_int_equal(back.n, x.end[i]);
    }
    if (back.n != text->n || memcmp(sbuf_str(&back), text->s, back.n) != 0)
        fail_msg("%s text %zu", name, index);
    sbuf_fini(&back);
    ids_fini(&x);
}

static void test_decode(void **state) {
    (void)state;
    each_text(check_decode);
}

/* ---- (d) linear time, bounded memory ---- */

struct cost {
    int64_t work;
    size_t bytes;
};

static struct cost cost_of(struct tok_stream *s, const char *unit, size_t total) {
    struct err e = {0};
    static char piece[65520]; // a multiple of every unit's length
    static int32_t ids[4096];
    const size_t len = strlen(unit);
    struct cost c = {0, 0};
    for (size_t i = 0; i < sizeof piece; i++) piece[i] = unit[i % len];
    tok_stream_reset(s);
    for (size_t done = 0; done < total; done += sizeof piece) {
        if (tok_feed(s, piece, sizeof piece, &e) != OK) fail_msg("%s", e.msg);
        while (tok_take(s, ids, NULL, COUNTOF(ids)) > 0) continue;
        if (tok_stream_bytes(s) > c.bytes) c.bytes = tok_stream_bytes(s);
    }
    if (tok_finish(s, &e) != OK) fail_msg("%s", e.msg);
    if (tok_stream_bytes(s) > c.bytes) c.bytes = tok_stream_bytes(s); // the ids of one long word
    while (tok_take(s, ids, NULL, COUNTOF(ids)) > 0) continue;
    c.work = tok_work(s);
    return c;
}

static void test_linear(void **state) {
    static const char *const units[] = {"a", " ", "\n", "7", "!", "😀", "e\u0301", "ab ", "\u00e9"};
    static const char *const dirs[] = {"tests/data/tok/gpt2", "tests/data/tok/llama3",
                                       "tests/data/tok/qwen2"};
    (void)state;
    for (size_t d = 0; d < COUNTOF(dirs); d++) {
        struct tok *t = open_tok(dirs[d]);
        struct tok_stream *s = open_stream(t);
        for (size_t u = d == 0 ? 0 : 5; u < COUNTOF(units); u++) {
            const struct cost one = cost_of(s, units[u], 1000000),
                              ten = cost_of(s, units[u], 10000000);
            assert_true(ten.work <= 12 * one.work);
            assert_true(ten.work <= 100000000);
            assert_true(ten.bytes < (d == 2 && u == 6 ? 200u : 72u) << 20);
            if (u == 7) assert_true(ten.bytes < 4u << 20); // short words need little
        }
        tok_stream_close(s);
        tok_close(t);
    }
}

static void test_stretch(void **state) {
    static char piece[1 << 20];
    struct err e = {0};
    struct tok *t = open_tok(DEMO);
    struct tok_stream *s = open_stream(t);
    enum status st = OK;
    (void)state;
    memset(piece, 'a', sizeof piece);
    assert_int_equal(tok_feed(s, "one two ", 8, &e), OK);
    for (int i = 0; i < 40 && st == OK; i++) st = tok_feed(s, piece, sizeof piece, &e);
    assert_int_equal(st, E_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "byte 7:"));
    tok_stream_close(s);
    tok_close(t);
}

static void test_bad_utf8(void **state) {
    struct tok *t = open_tok(DEMO);
    struct tok_stream *s = open_stream(t);
    struct err e = {0};
    (void)state;
    assert_int_equal(tok_feed(s, "ab\xE4\xB8", 4, &e), OK);
    assert_int_equal(tok_feed(s, "x", 1, &e), E_FORMAT);
    assert_non_null(strstr(e.msg, "byte 2:"));
    tok_stream_reset(s);
    e = (struct err){0};
    assert_int_equal(tok_feed(s, "ab\xF0\x9F", 4, &e), OK);
    assert_int_equal(tok_finish(s, &e), E_FORMAT);
    tok_stream_close(s);
    tok_close(t);
}

/* ---- configuration ---- */

static void test_questions(void **state) {
    (void)state;
    struct tok *t = open_tok(DEMO);
    size_t n;
    assert_int_equal(tok_n_vocab(t), 2048);
    assert_int_equal(tok_bos(t), 0);
    assert_int_equal(tok_eos(t), 0);
    assert_true(tok_adds_bos(t));
    assert_true(tok_is_special(t, 0));
    assert_false(tok_is_special(t, 1));
    assert_null(tok_borrow_piece(t, 2048, &n));
    assert_null(tok_borrow_piece(t, -1, &n));
    assert_string_equal(tok_borrow_piece(t, 0, &n) != NULL ? "yes" : "no", "yes");
    assert_int_equal(n, strlen("<|endoftext|>"));
    assert_int_equal(strlen(tok_identity(t)), 32);
    tok_close(t);
    t = open_tok("tests/data/tok/llama3"); // the template of its post-processor
    assert_true(tok_adds_bos(t));
    const char *bos = tok_borrow_piece(t, tok_bos(t), &n);
    assert_memory_equal(bos, "<|begin_of_text|>", n);
    assert_int_equal(tok_eos(t), -1);
    tok_close(t);
    t = open_tok("tests/data/tok/gpt2");
    assert_false(tok_adds_bos(t));
    assert_int_equal(tok_bos(t), -1);
    tok_close(t);
}

/* ---- (f) refusals ---- */

static void test_invalid(void **state) {
    int count = 0;
    (void)state;
    DIR *d = opendir(INVALID);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        if (f->d_name[0] == '.') continue;
        char dir[320], path[400], code[64] = "", part[256] = "";
        snprintf(dir, sizeof dir, "%s/%s", INVALID, f->d_name);
        snprintf(path, sizeof path, "%s/error", dir);
        FILE *want = fopen(path, "r");
        assert_non_null(want);
        assert_non_null(fgets(code, sizeof code, want));
        assert_non_null(fgets(part, sizeof part, want));
        fclose(want);
        code[strcspn(code, "\n")] = '\0';
        part[strcspn(part, "\n")] = '\0';
        struct err e = {0};
        struct tok *t = NULL;
        const enum status st = tok_open(&t, dir, &e);
        if (strcmp(err_name(st), code) != 0 || strstr(e.msg, part) == NULL || t != NULL) {
            fail_msg("%s: %s: %s", f->d_name, err_name(st), e.msg);
        }
        count++;
    }
    closedir(d);
    assert_true(count >= 15);
}

static void test_missing(void **state) {
    struct err e = {0};
    struct tok *t = NULL;
    (void)state;
    assert_int_equal(tok_open(&t, "tests/data/no-such-directory", &e), E_NOINPUT);
    assert_null(t);
}

/* ---- (g) the k-th allocation fails ---- */

static enum status open_and_run(const char *dir) {
    enum status st = OK;
    struct tok *t = NULL;
    struct tok_stream *s = NULL;
    struct err e = {0};
    TRY(tok_open(&t, dir, &e));
    TRY(tok_stream_open(&s, t, &e));
    TRY(tok_feed(s, "Yesterday e\u0301 word <mask> 123", 30, &e));
    TRY(tok_finish(s, &e));
done:
    tok_stream_close(s);
    tok_close(t);
    return st;
}

static void test_no_memory(void **state) {
    static const char *const dirs[] = {"tests/data/tok/llama3", "tests/data/tok/flags",
                                       "tests/data/tok/nfkc"};
    (void)state;
    for (size_t d = 0; d < COUNTOF(dirs); d++) {
        enum status st = E_NOMEM;
        int64_t k = 0;
        for (; st != OK && k < 4000; k++) {
            allocs_left = k;
            st = open_and_run(dirs[d]);
            allocs_left = -1;
            if (st != OK) assert_int_equal(st, E_NOMEM);
        }
        assert_int_equal(st, OK);
        assert_true(k > 20);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded),  cmocka_unit_test(test_safe),
        cmocka_unit_test(test_decode),    cmocka_unit_test(test_linear),
        cmocka_unit_test(test_stretch),   cmocka_unit_test(test_bad_utf8),
        cmocka_unit_test(test_questions), cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_missing),   cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
