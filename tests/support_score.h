/* Scores one document with a model: what tests of whole models share. */
#ifndef BASIN_TESTS_SUPPORT_SCORE_H
#define BASIN_TESTS_SUPPORT_SCORE_H

#include "core/span.h"

struct score_on {
    const char *device; /* "ref" or "cpu" */
    enum cpu_isa isa;
    enum dtype dtype;
    enum dev_purpose purpose;
    bool int8;
};

/* nll[t], t = 0..n-2, of ids[0..n-1] in spans of at most n_span rows. Fails the test on an error. */
void support_score(const char *model, const struct score_on *on, const struct vis_rule *rule,
                   const int32_t *ids, int64_t n, int64_t n_span, double *nll);

/* Calls f for every model of tests/data/fixtures, in order of their names. Returns how many. */
int support_fixtures(void (*f)(const char *dir, void *ctx), void *ctx);

/* The largest |a - b|; infinite when one of them is NaN. */
double support_worst(const double *a, const double *b, int64_t n);

#endif
