/* The tokenizer: parity with recorded ids of the libraries, streaming laws, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/alloc_fail.h"
#include "tests/support_tok.h"

#include <stdio.h>
#include <string.h>

static const char DATA[] = "tests/data/tok";
static const char INVALID[] = "tests/data/invalid/tokenizer";
static const char DEMO[] = "examples/demo/model";

/* ---- (a, b) recorded ids, whatever the chunks; places ---- */

static void test_recorded(void **state) {
    (void)state;
    assert_true(stok_each(DATA, stok_check_recorded) >= 35);
}

/* ---- (c) decoding ---- */

static void check_decode(const struct stok_case *c) {
    // The others do not keep the text.
    static const char *const keep[] = {"deepseek",   "deepseek3",  "falcon", "ggufdeepseek",
                                       "ggufllama3", "ggufsmollm", "gpt2",   "llama3",
                                       "o200k",      "phi",        "smollm", "whole"};
    struct stok_ids x = {0};
    struct sbuf back;
    bool kept = false;
    for (size_t i = 0; i < COUNTOF(keep); i++) kept = kept || strcmp(c->name, keep[i]) == 0;
    if (!kept) return;
    sbuf_init(&back);
    stok_encode(c->s, c->text->s, c->text->n, 64, &x);
    for (size_t i = 0, at = 0, len; i < x.n; i++) {
        (void)tok_borrow_piece(c->t, x.id[i], &len);
        assert_int_equal(at += len, x.end[i]);
    }
    stok_decode(c->t, x.id, x.n, &back);
    if (back.n != c->text->n || (back.n > 0 && memcmp(back.s, c->text->s, back.n) != 0))
        fail_msg("%s text %zu", c->name, c->index);
    sbuf_fini(&back);
    stok_fini(&x);
}

static void test_decode(void **state) {
    (void)state;
    (void)stok_each(DATA, check_decode);
}

/* ---- (d) linear time, bounded memory ---- */

static void test_linear(void **state) {
    static const char *const units[] = {"a", " ", "\n", "7", "!", "😀", "e\u0301", "ab ", "\u00e9"};
    static const char *const dirs[] = {"tests/data/tok/gpt2", "tests/data/tok/llama3",
                                       "tests/data/tok/qwen2"};
    (void)state;
    for (size_t d = 0; d < COUNTOF(dirs); d++) {
        struct tok *t = stok_open(dirs[d]);
        struct tok_stream *s = stok_stream(t);
        for (size_t u = d == 0 ? 0 : 5; u < COUNTOF(units); u++) {
            const struct stok_cost one = stok_cost_of(s, units[u], 1000000),
                                   ten = stok_cost_of(s, units[u], 10000000);
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
    struct tok *t = stok_open(DEMO);
    struct tok_stream *s = stok_stream(t);
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
    struct tok *t = stok_open(DEMO);
    struct tok_stream *s = stok_stream(t);
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
    struct tok *t = stok_open(DEMO);
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
    t = stok_open("tests/data/tok/llama3"); // the template of its post-processor
    assert_true(tok_adds_bos(t));
    const char *bos = tok_borrow_piece(t, tok_bos(t), &n);
    assert_memory_equal(bos, "<|begin_of_text|>", n);
    assert_int_equal(tok_eos(t), -1);
    tok_close(t);
    t = stok_open("tests/data/tok/gpt2");
    assert_false(tok_adds_bos(t));
    assert_int_equal(tok_bos(t), -1);
    tok_close(t);
}

// vocab.json and merges.txt: what OPT's configuration says of special tokens (tools/mktok.py --pair).
static void test_pair(void **state) {
    static const char text[] = "</s> a </s>b <pad>.";
    static const int32_t want[] = {0, 259, 221, 0, 66, 221, 1000, 14};
    struct stok_ids x = {0};
    (void)state;
    struct tok *t = stok_open("tests/data/tok/pair");
    struct tok_stream *s = stok_stream(t);
    assert_true(tok_adds_bos(t));
    assert_int_equal(tok_bos(t), 0);
    assert_int_equal(tok_eos(t), 0);
    assert_true(tok_is_special(t, 1000));
    assert_int_equal(tok_n_vocab(t), 1001);
    stok_encode(s, text, sizeof text - 1, 1 << 20, &x);
    assert_int_equal(x.n, COUNTOF(want));
    assert_memory_equal(x.id, want, sizeof want);
    stok_fini(&x);
    tok_stream_close(s);
    tok_close(t);
}

/* ---- (e) refusals ---- */

static void test_invalid(void **state) {
    (void)state;
    assert_true(stok_refusals(INVALID, NULL) >= 30);
    assert_true(stok_refusals("tests/data/invalid/tiktoken", NULL) >= 18);
}

static void test_missing(void **state) {
    struct err e = {0};
    struct tok *t = NULL;
    (void)state;
    assert_int_equal(tok_open(&t, "tests/data/no-such-directory", &e), E_NOINPUT);
    assert_null(t);
}

/* ---- (g) the k-th allocation fails ---- */

static void test_no_memory(void **state) {
    static const char *const dirs[] = {"tests/data/tok/llama3", "tests/data/tok/flags",
                                       "tests/data/tok/nfkc",   "tests/data/tok/qwen",
                                       "tests/data/tok/gaps",   "tests/data/tok/pair"};
    (void)state;
    for (size_t d = 0; d < COUNTOF(dirs); d++) {
        enum status st = E_NOMEM;
        int64_t k = 0;
        for (; st != OK && k < 4000; k++) {
            struct err e = {0};
            g_fail_at = (long)k;
            st = stok_run(dirs[d], "Yesterday e\u0301 word <mask> 123", 30, &e);
            g_fail_at = -1;
            if (st != OK) assert_int_equal(st, E_NOMEM);
        }
        assert_int_equal(st, OK);
        assert_true(k > 20);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded),  cmocka_unit_test(test_decode),
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_stretch),
        cmocka_unit_test(test_bad_utf8),  cmocka_unit_test(test_questions),
        cmocka_unit_test(test_invalid),   cmocka_unit_test(test_missing),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
