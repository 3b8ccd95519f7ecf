/* The streaming rule computed the other way round, in double: raw keys kept, rotated at every read.
 *
 * Token by token, a list of cached tokens per layer, eviction after each, positions counted in the list: what
 * attention_sinks does, written from DESIGN section 1. Who sees what, where it sits, rotation, bias, softmax and
 * eviction are written here; the rest of the model (norms, matrices, activations, head) is the ref device's. */
#ifndef BASIN_TESTS_SUPPORT_RAW_H
#define BASIN_TESTS_SUPPORT_RAW_H

#include <stdbool.h>
#include <stdint.h>

struct raw_rule {
    int64_t n_sink;
    int64_t n_win; /* negative: dense */
    /* ALiBi biases are slope * index in the list, the slope and the product rounded to bf16 each. */
    bool bf16_bias;
};

/* nll[t] = -log P(ids[t+1] | what token t sees), t = 0 .. n-2, for the model at `path`, whose positions are rotary
 * or ALiBi. Fails the test on an error. */
void raw_nll(const char *path, const struct raw_rule *rule, const int32_t *ids, int64_t n,
             double *nll);

#endif
