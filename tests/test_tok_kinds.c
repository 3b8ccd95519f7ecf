/* Tokenizers of characters, GGUF metadata and tokenizer.model: refusals, hostile files, decoding,
 * linear time. Parity with recorded ids is in test_tok.c, which runs over the same folders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/sbuf.h"
#include "core/tok.h"
#include "tests/alloc_fail.h"
#include "tests/support_tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char INVALID[] = "tests/data/invalid/ggufvocab";

static struct tok *open_tok(const char *name) {
    char path[300];
    snprintf(path, sizeof path, "tests/data/tok/%s", name);
    return stok_open(path);
}

/* ---- broken GGUF vocabularies ---- */

static void test_invalid_gguf(void **state) {
    (void)state;
    assert_true(stok_refusals(INVALID, "input.gguf") >= 30);
}

/* ---- each name of a pre-tokenizer that is known works ---- */

// The vocabulary with another name in its tokenizer.ggml.pre.
static void write_renamed(const char *path, const char *bytes, size_t n, const char *name) {
    static const char key[] = "tokenizer.ggml.pre";
    const char *at = memmem(bytes, n, key, sizeof key - 1);
    assert_non_null(at);
    at += sizeof key - 1 + 4; // behind the value's type
    uint64_t old = 0, len = strlen(name);
    memcpy(&old, at, 8);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(bytes, 1, (size_t)(at - bytes), f);
    fwrite(&len, 1, 8, f);
    fwrite(name, 1, len, f);
    fwrite(at + 8 + old, 1, n - (size_t)(at - bytes) - 8 - old, f);
    fclose(f);
}

static size_t count_ids(const char *path, const char *text) {
    struct tok *t = stok_open(path);
    struct tok_stream *s = stok_stream(t);
    struct stok_ids x = {0};
    struct sbuf back;
    sbuf_init(&back);
    stok_encode(s, text, strlen(text), 1 << 20, &x);
    stok_decode(t, x.id, x.n, &back);
    assert_string_equal(sbuf_str(&back), text);
    const size_t n = x.n;
    sbuf_fini(&back);
    stok_fini(&x);
    tok_stream_close(s);
    tok_close(t);
    return n;
}

static void test_every_pre(void **state) {
    static const char *const names[] = {
        "default",      "gpt-2",          "phi-2",       "mpt",       "olmo",      "starcoder",
        "refact",       "command-r",      "smollm",      "codeshell", "exaone",    "llama3",
        "llama-v3",     "llama-bpe",      "falcon3",     "pixtral",   "dbrx",      "smaug-bpe",
        "chatglm-bpe",  "glm4",           "qwen2",       "stablelm2", "hunyuan",   "qwen35",
        "seed-coder",   "bailingmoe",     "gpt-4o",      "o200k",     "llama4",    "tekken",
        "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon",    "poro-chat", "bloom",
        "viking",       "superbpe",       "minicpm5"};
    (void)state;
    char dir[] = "/tmp/basin-tok-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/vocab.gguf", dir);
    FILE *f = fopen("tests/data/tok/ggufsmollm/vocab.gguf", "rb");
    char *bytes = malloc(1 << 20);
    assert_non_null(f);
    assert_non_null(bytes);
    const size_t n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    for (size_t i = 0; i < COUNTOF(names); i++) {
        write_renamed(path, bytes, n, names[i]);
        assert_true(count_ids(path, "I'll say: \"It's 12345 \u4e2d\u6587  Wor\u0301ds!!\"\r\n\n  x"
                                    " \u0c15\u0c4d camelCase 3.14 \U0001F600  ") > 20);
    }
    free(bytes);
    unlink(path);
    rmdir(dir);
}

/* ---- tokenizer.model: every prefix, and bytes changed at random ---- */

struct scratch {
    char dir[64], path[128];
};

static void open_scratch(struct scratch *s) {
    snprintf(s->dir, sizeof s->dir, "/tmp/basin-tok-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof s->path, "%s/tokenizer.model", s->dir);
}

static void close_scratch(const struct scratch *s) {
    unlink(s->path);
    rmdir(s->dir);
}

static enum status open_bytes(const struct scratch *s, const char *bytes, size_t n, struct err *e) {
    FILE *f = fopen(s->path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    static const char text[] = "Zwei  \xEF\xAC\x81ne W\xC3\xB6rter\t\xF0\x9F\x98\x80";
    return stok_run(s->dir, text, sizeof text - 1, e);
}

static char *read_model(const char *name, size_t *n) {
    char path[300];
    snprintf(path, sizeof path, "tests/data/tok/%s/tokenizer.model", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *s = malloc(1 << 20);
    assert_non_null(s);
    *n = fread(s, 1, 1 << 20, f);
    fclose(f);
    return s;
}

static void test_hostile_model(void **state) {
    static const char *const names[] = {"spbpe", "spunigram"};
    (void)state;
    struct scratch s;
    open_scratch(&s);
    for (size_t k = 0; k < COUNTOF(names); k++) {
        size_t n;
        uint32_t seed = 99;
        char *model = read_model(names[k], &n);
        struct err e = {0};
        assert_int_equal(open_bytes(&s, model, n, &e), OK);
        for (size_t i = 0; i < n; i += 1 + n / 150) {
            e = (struct err){0};
            const enum status st = open_bytes(&s, model, i, &e);
            // A cut between two fields leaves a smaller model.
            if (st != E_FORMAT && st != E_UNSUPPORTED && st != OK) fail_msg("%zu: %s", i, e.msg);
        }
        for (int i = 0; i < 300; i++) {
            seed = seed * 1664525u + 1013904223u;
            const size_t at = (size_t)(seed >> 4) % n;
            const char old = model[at];
            e = (struct err){0};
            model[at] = (char)(seed >> 3);
            const enum status st = open_bytes(&s, model, n, &e);
            if (st != E_FORMAT && st != E_UNSUPPORTED && st != OK) fail_msg("%zu: %s", at, e.msg);
            model[at] = old;
        }
        free(model);
    }
    close_scratch(&s);
}

static void test_broken_model(void **state) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *message;
    } cases[] = {
        {"", 0, "byte 0: no pieces: not a SentencePiece model"},
        {"\x0A", 1, "byte 1: a number that is cut short"},
        {"\x0A\x05\x0A", 3, "byte 0: a field that reaches behind the end"},
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 12, "a number of more than 64 bits"},
        {"\x0B", 1, "byte 0: a field of unknown kind"},
        {"\x02\x00", 2, "byte 0: a field without a valid number"},
        {"\x08\x01", 2, "byte 0: a field of the wrong kind"},
        {"\x0A\x00", 2, "byte 2: a piece without text"},
        {"\x0A\x03\x0A\x01\xFF", 5, "byte 2: a piece that is not UTF-8"},
        {"\x0A\x05\x0A\x01\x61\x18\x09", 7, "byte 5: an unknown type of piece"},
        {"\x0A\x08\x0A\x01\x61\x15\x00\x00\x80\x7F", 10, "a piece whose score is not finite"},
        {"\x0A\x03\x0A\x01\x61", 5, "0 unknown pieces; a model has one"},
        {"\x0A\x05\x0A\x01\x61\x18\x02\x12\x02\x18\x07", 11, "an unknown type of model"},
        {"\x0A\x05\x0A\x01\x61\x18\x02\x12\x02\x18\x03", 11, "models of words are not supported"},
        {"\x0A\x05\x0A\x01\x61\x18\x02\x12\x03\xC8\x02\x07", 12, "the BOS id 7 is not one of 1"},
    };
    (void)state;
    struct scratch s;
    open_scratch(&s);
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        struct err e = {0};
        const enum status st = open_bytes(&s, cases[i].bytes, cases[i].n, &e);
        if (st == OK || strstr(e.msg, cases[i].message) == NULL) {
            fail_msg("case %zu: %s: %s", i, err_name(st), e.msg);
        }
    }
    close_scratch(&s);
}

/* ---- decoding gives the text back where the model keeps it ---- */

static void check_decode(const char *name, const char *text) {
    struct tok *t = open_tok(name);
    struct tok_stream *s = stok_stream(t);
    struct stok_ids x = {0};
    struct sbuf back;
    sbuf_init(&back);
    stok_encode(s, text, strlen(text), 1 << 20, &x);
    stok_decode(t, x.id, x.n, &back);
    if (strcmp(sbuf_str(&back), text) != 0) fail_msg("%s: \"%s\" of \"%s\"", name, back.s, text);
    sbuf_fini(&back);
    stok_fini(&x);
    tok_stream_close(s);
    tok_close(t);
}

static void test_decode(void **state) {
    static const char *const names[] = {"llama2", "spbpe", "spunibytes", "ggufspm", "gemma"};
    static const char *const texts[] = {"Hello world",
                                        " leading",
                                        "  two  spaces  ",
                                        "caf\u00e9 \u4e2d\u6587 \U0001F600\U0001F680",
                                        "a\r\nb\tc\n\n",
                                        "\u0915\u094d\u0937 e\u0301",
                                        "x",
                                        ""};
    (void)state;
    for (size_t i = 0; i < COUNTOF(names); i++) {
        for (size_t k = 0; k < COUNTOF(texts); k++) check_decode(names[i], texts[k]);
    }
}

/* ---- questions ---- */

static void test_questions(void **state) {
    (void)state;
    struct tok *t = open_tok("ggufspm");
    size_t n;
    assert_int_equal(tok_n_vocab(t), 1200);
    assert_int_equal(tok_bos(t), 1);
    assert_int_equal(tok_eos(t), 2);
    assert_true(tok_adds_bos(t));
    assert_true(tok_is_special(t, 1));
    assert_int_equal(tok_decode_skip(t), 1);
    assert_int_equal(strlen(tok_identity(t)), 32);
    assert_memory_equal(tok_borrow_piece(t, 3 + 'A', &n), "A", 1); // <0x41>
    assert_int_equal(n, 1);
    tok_close(t);
    t = open_tok("ggufllama3/vocab.gguf"); // the file itself will do as well
    assert_true(tok_adds_bos(t));
    assert_int_equal(tok_decode_skip(t), 0);
    tok_close(t);
    t = open_tok("spbpe");
    assert_false(tok_adds_bos(t));
    assert_int_equal(tok_bos(t), 1);
    tok_close(t);
}

static void test_special_in_text(void **state) {
    (void)state;
    struct tok *t = open_tok("ggufspm");
    struct tok_stream *s = stok_stream(t);
    int32_t ids[8];
    assert_int_equal(tok_feed(s, "[B]a[E]", 7, NULL), OK);
    assert_int_equal(tok_finish(s, NULL), OK);
    assert_int_equal(tok_take(s, ids, NULL, 8), 3);
    assert_int_equal(ids[0], 1);
    size_t n; // a space goes in front of each stretch of text
    assert_memory_equal(tok_borrow_piece(t, ids[1], &n), " a", 2);
    assert_int_equal(ids[2], 2);
    tok_stream_close(s);
    tok_close(t);
}

/* ---- linear time, bounded memory, a stretch without a cut ---- */

static void test_linear(void **state) {
    static const char *const units[] = {" ", "\n", "a", "ab ", "\u2581", "e\u0301", "\u4e2d"};
    static const char *const names[] = {"llama2", "spbpeacross", "spunigram", "spuniacross"};
    (void)state;
    for (size_t d = 0; d < COUNTOF(names); d++) {
        struct tok *t = open_tok(names[d]);
        struct tok_stream *s = stok_stream(t);
        for (size_t u = 0; u < COUNTOF(units); u++) {
            const struct stok_cost one = stok_cost_of(s, units[u], 1000000),
                                   five = stok_cost_of(s, units[u], 5000000);
            if (five.work > 6 * one.work) fail_msg("%s unit %zu", names[d], u);
            assert_true(five.work <= 60000000);
            assert_true(five.bytes < 100u << 20);
            // Words need little, where the vocabulary has none across them.
            if (u == 3 && d != 1 && d != 3) assert_true(five.bytes < 4u << 20);
        }
        tok_stream_close(s);
        tok_close(t);
    }
}

static void test_stretch(void **state) {
    static char piece[1 << 20];
    struct err e = {0};
    struct tok *t = open_tok("llama2");
    struct tok_stream *s = stok_stream(t);
    enum status st = OK;
    (void)state;
    memset(piece, ' ', sizeof piece); // pieces of several spaces: no cut between two is safe
    assert_int_equal(tok_feed(s, "two", 3, &e), OK);
    for (int i = 0; i < 40 && st == OK; i++) st = tok_feed(s, piece, sizeof piece, &e);
    assert_int_equal(st, E_UNSUPPORTED);
    if (strstr(e.msg, "byte 3:") == NULL) fail_msg("%s", e.msg);
    tok_stream_close(s);
    tok_close(t);
}

/* ---- the k-th allocation fails ---- */

static void test_no_memory(void **state) {
    static const char text[] = "Yesterday  e\u0301 \uFB01ne <s> \U0001F600 123";
    static const char *const names[] = {"llama2",    "metanever", "spbpenfkc",
                                        "spunigram", "ggufspm",   "ggufsmollm"};
    (void)state;
    for (size_t d = 0; d < COUNTOF(names); d++) {
        enum status st = E_NOMEM;
        char path[300];
        long k = 0;
        snprintf(path, sizeof path, "tests/data/tok/%s", names[d]);
        for (; st != OK && k < 20000; k += k < 200 ? 1 : 37) { // parsed JSON allocates by the value
            struct err e = {0};
            g_fail_at = k;
            st = stok_run(path, text, sizeof text - 1, &e);
            g_fail_at = -1;
            if (st != OK && st != E_NOMEM) fail_msg("%s: %s", names[d], err_name(st));
        }
        assert_int_equal(st, OK);
        assert_true(k > 20);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_invalid_gguf),    cmocka_unit_test(test_hostile_model),
        cmocka_unit_test(test_broken_model),    cmocka_unit_test(test_every_pre),
        cmocka_unit_test(test_decode),          cmocka_unit_test(test_questions),
        cmocka_unit_test(test_special_in_text), cmocka_unit_test(test_linear),
        cmocka_unit_test(test_stretch),         cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
