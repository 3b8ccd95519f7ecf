/* Numbers as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void test_int(void **state) {
    static const int64_t some[] = {0,   7,         -7,        10,        99,
                                   100, 123456789, INT32_MAX, INT64_MAX, INT64_MIN};
    (void)state;
    for (size_t i = 0; i < COUNTOF(some); i++) {
        char text[NUM_TEXT], want[NUM_TEXT];
        const size_t n = num_int(some[i], text);
        snprintf(want, sizeof want, "%" PRId64, some[i]);
        assert_int_equal(n, strlen(want));
        assert_memory_equal(text, want, n);
    }
}

static void test_parse(void **state) {
    int64_t x = -1;
    (void)state;
    assert_true(num_parse_int("0", 5, &x) && x == 0);
    assert_true(num_parse_int("9223372036854775807", INT64_MAX, &x) && x == INT64_MAX);
    assert_false(num_parse_int("9223372036854775808", INT64_MAX, &x));
    assert_false(num_parse_int("6", 5, &x));
    assert_false(num_parse_int("", 5, &x) || num_parse_int("-1", 5, &x) ||
                 num_parse_int("1 ", 5, &x));
}

static void test_shortest(void **state) {
    char text[NUM_TEXT];
    (void)state;
    assert_true(num_shortest(0.1, text));
    assert_string_equal(text, "0.1");
    assert_false(num_shortest(1.0 / 0.0, text));
    assert_string_equal(text, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_int), cmocka_unit_test(test_parse),
                                       cmocka_unit_test(test_shortest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
