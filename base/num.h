/* Numbers as text. The decimal point is '.', whatever the process's locale says: the program never
 * calls setlocale(). */
#ifndef BASIN_BASE_NUM_H
#define BASIN_BASE_NUM_H

#include "base/err.h"

enum { NUM_TEXT = 32 };

/* Shortest decimal that strtod() reads back as exactly `x`. False (text is "") when x is NaN or
 * infinite. */
bool num_shortest(double x, char text[NUM_TEXT]);

/* `x` rounded to float32 and then to the shortest decimal that float32 can be read back from: the
 * value a reader of a printed log-probability holds. Not finite: returned as it is. */
double num_round_f32(double x);

/* Sum of doubles in the order given, with Neumaier's compensation. Zeroed is an empty sum. */
struct num_sum {
    double sum;
    double carry;
};
void num_sum_add(struct num_sum *s, double x);
double num_sum_value(const struct num_sum *s);

/* `x` in decimal, no NUL behind it; returns the length. */
size_t num_int(int64_t x, char text[NUM_TEXT]);

/* Non-negative decimal integer, the whole of `text`, at most `max`. False otherwise. */
bool num_parse_int(const char *text, int64_t max, int64_t *out);

#endif
