/* The streaming rule computed the other way round, in double: raw keys kept, rotated at every read.
 *
 * Token by token, a list of cached tokens per layer, eviction after each, positions counted in the cache: what
 * attention_sinks does, written from DESIGN section 1 with none of the code under test. Llama family only. */
#ifndef BASIN_TESTS_SUPPORT_RAW_H
#define BASIN_TESTS_SUPPORT_RAW_H

#include <stdint.h>

/* nll[t] = -log P(ids[t+1] | what token t sees), t = 0 .. n-2, for the model in `dir` (F32 safetensors,
 * unscaled rope). n_win < 0: dense. Aborts on any failure. */
void raw_nll(const char *dir, const int32_t *ids, int n, int n_sink, int n_win, double *nll);

#endif
