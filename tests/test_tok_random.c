/* Tokenizers on random Unicode: in chunks as in one piece, and back to the text where the tokenizer keeps it. And the
 * families' real tokenizers, where BASIN_FAMILY_TOKS names a folder that tools/mkfamtok.py made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/utf8.h"
#include "tests/support_tok.h"

#include <stdlib.h>
#include <string.h>

/* ---- random texts ---- */

static uint32_t next_random(uint32_t *state, uint32_t below) {
    *state = *state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(*state >> 4) * below >> 28);
}

// A code point of one of the kinds that tokenizers treat in their own way.
static uint32_t random_cp(uint32_t *state) {
    static const uint32_t odd[] = {0,      '\n',   '\r',   '\t',   0x0B,    0x1C,
                                   0x85,   0xA0,   0x301,  0x323,  0x338,   0x200B,
                                   0x200D, 0x2028, 0x2581, 0x3000, 0x1161,  0x11A8,
                                   0xAC00, 0xFE0F, 0xFEFF, 0xFFFD, 0x1F468, 0x10FFFF};
    switch (next_random(state, 8)) {
    case 0:
    case 1: return 'a' + next_random(state, 26);
    case 2: return ' ';
    case 3: return 0x20 + next_random(state, 0x5F);
    case 4: return odd[next_random(state, COUNTOF(odd))];
    case 5: return 0xA0 + next_random(state, 0x3000);
    case 6: return 0x1F300 + next_random(state, 0x400);
    default: break;
    }
    const uint32_t cp = next_random(state, 0x110000 - 0x800);
    return cp < 0xD800 ? cp : cp + 0x800;
}

// Now and then a code point comes many times.
static void random_text(struct sbuf *out, uint32_t *state) {
    sbuf_clear(out);
    for (uint32_t n = next_random(state, 120); n > 0; n--) {
        char s[4];
        const size_t len = utf8_encode(random_cp(state), s);
        const uint32_t times = next_random(state, 20) == 0 ? 1 + next_random(state, 100) : 1;
        for (uint32_t i = 0; i < times; i++) sbuf_add(out, s, len);
    }
    (void)sbuf_str(out);
    assert_int_equal(sbuf_status(out, NULL), OK);
}

/* ---- laws ---- */

// Those that give every text back: all bytes have tokens (Falcon lacks some), nothing is normalized.
static const char *const lossless[] = {"gpt2",       "llama3",     "smollm",      "deepseek",
                                       "deepseek3",  "o200k",      "phi",         "whole",
                                       "ggufllama3", "ggufsmollm", "ggufdeepseek"};

static bool is_lossless(const char *name) {
    for (size_t i = 0; i < COUNTOF(lossless); i++) {
        if (strcmp(name, lossless[i]) == 0) return true;
    }
    return false;
}

static void check_laws(const struct stok_case *c, const struct sbuf *text) {
    struct stok_ids whole = {0}, parts = {0};
    struct sbuf back;
    sbuf_init(&back);
    stok_encode(c->s, text->s, text->n, 1 << 20, &whole);
    for (size_t chunk = 0; chunk < 6; chunk++) {
        stok_encode(c->s, text->s, text->n, chunk, &parts);
        if (parts.n != whole.n ||
            (whole.n > 0 && memcmp(parts.id, whole.id, whole.n * sizeof *whole.id) != 0)) {
            fail_msg("%s: chunks of %zu give other ids of \"%s\"", c->name, chunk, text->s);
        }
    }
    if (is_lossless(c->name)) {
        stok_decode(c->t, whole.id, whole.n, &back);
        if (back.n != text->n || (back.n > 0 && memcmp(back.s, text->s, back.n) != 0)) {
            fail_msg("%s: \"%s\" came back as \"%s\"", c->name, text->s, back.s);
        }
    }
    sbuf_fini(&back);
    stok_fini(&whole);
    stok_fini(&parts);
}

static void check_random(const struct stok_case *c) {
    struct sbuf text;
    uint32_t state = 77;
    if (c->index > 0) return; // once for each tokenizer
    sbuf_init(&text);
    for (int i = 0; i < 300; i++) {
        random_text(&text, &state);
        check_laws(c, &text);
    }
    sbuf_fini(&text);
}

static void test_random(void **state) {
    (void)state;
    assert_true(stok_each("tests/data/tok", check_random) >= 40);
}

/* ---- real tokenizers ---- */

static void test_families(void **state) {
    const char *folder = getenv("BASIN_FAMILY_TOKS");
    (void)state;
    if (folder == NULL) skip();
    assert_true(stok_each(folder, stok_check_recorded) >= 11);
    assert_true(stok_each(folder, check_random) >= 11);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random),
                                       cmocka_unit_test(test_families)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
