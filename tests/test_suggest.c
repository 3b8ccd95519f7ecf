#include "base/suggest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void test_distance(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        size_t d;
    } rows[] = {{"", "", 0},          {"", "abc", 3},           {"abc", "", 3},
                {"abc", "abc", 0},    {"abc", "abd", 1},        {"abc", "acb", 1},
                {"ABC", "abc", 0},    {"kitten", "sitting", 3}, {"ca", "abc", 3},
                {"sink", "sinks", 1}, {"abcd", "badc", 2},      {"aa", "aa", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(suggest_distance(rows[i].a, rows[i].b), rows[i].d);
        assert_int_equal(suggest_distance(rows[i].b, rows[i].a), rows[i].d);
    }
    char a[66], b[65];
    memset(a, 'x', 65);
    memset(b, 'x', 64);
    a[65] = b[64] = '\0';
    assert_true(suggest_distance(a, "x") == SIZE_MAX);
    assert_true(suggest_distance("x", a) == SIZE_MAX);
    assert_int_equal(suggest_distance(b, "x"), 63);
    assert_int_equal(suggest_distance(b, b), 0);
}

static void test_closest(void **state) {
    (void)state;
    static const char *const words[] = {"run",           "score",  "plan",        "status",
                                        "stats",         "verify", "sink_tokens", "sink_tokens_max",
                                        "window_tokens", "mode",   NULL};
    static const char *const none[] = {NULL};
    assert_string_equal(suggest_closest("scroe", words), "score");
    assert_string_equal(suggest_closest("rnu", words), "run");
    assert_string_equal(suggest_closest("SINK_TOKEN", words), "sink_tokens");
    assert_string_equal(suggest_closest("sink-tokens", words), "sink_tokens");
    assert_string_equal(suggest_closest("statu", words), "status"); // status and stats: the first
    assert_string_equal(suggest_closest("window", words), "window_tokens");
    assert_null(suggest_closest("sin", words)); // begins two words, near neither
    assert_null(suggest_closest("banana", words));
    assert_null(suggest_closest("x", words));
    assert_null(suggest_closest("", words));
    assert_null(suggest_closest("run", none));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_closest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
