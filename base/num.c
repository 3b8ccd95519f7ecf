#include "base/num.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool num_shortest(double x, char text[NUM_TEXT]) {
    text[0] = '\0';
    if (!isfinite(x)) return false;
    static const int digits[] = {9, 15, 16,
                                 17}; // %g drops trailing zeros, so 9 covers every shorter form
    for (size_t i = 0; i < COUNTOF(digits); i++) {
        snprintf(text, NUM_TEXT, "%.*g", digits[i], x);
        if (strtod(text, NULL) == x) break;
    }
    return true;
}

double num_round_f32(double x) {
    const float f = (float)x;
    if (!isfinite(f)) return x;
    char text[NUM_TEXT];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f) break;
    }
    return strtod(text, NULL);
}

void num_sum_add(struct num_sum *s, double x) {
    const double t = s->sum + x;
    s->carry += fabs(s->sum) >= fabs(x) ? (s->sum - t) + x : (x - t) + s->sum;
    s->sum = t;
}

double num_sum_value(const struct num_sum *s) {
    return s->sum + s->carry;
}

size_t num_int(int64_t x, char text[NUM_TEXT]) {
    char back[NUM_TEXT];
    size_t n = 0, len = 0;
    uint64_t left = x < 0 ? 0 - (uint64_t)x : (uint64_t)x;
    do back[n++] = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (x < 0) text[len++] = '-';
    while (n > 0) text[len++] = back[--n];
    return len;
}

bool num_parse_int(const char *text, int64_t max, int64_t *out) {
    int64_t v = 0;
    if (*text == '\0') return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') return false;
        const int digit = *text - '0';
        if (digit > max || v > (max - digit) / 10) return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}
