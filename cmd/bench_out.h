/* What `basin bench` has measured, and how it is printed. Private to cmd/bench*.c. */
#ifndef BASIN_CMD_BENCH_OUT_H
#define BASIN_CMD_BENCH_OUT_H

#include "base/sbuf.h"
#include "jobs/bench.h"

enum { BENCH_SINKS = 4, BENCH_PEAKS = 6, BENCH_SIZES = 3 };

static const int64_t bench_sizes[BENCH_SIZES] = {256, 1024, 4096}; /* of caches */
static const int bench_streams[BENCH_SIZES] = {1, 8, 32};          /* under the second size */
static const int64_t bench_lengths[BENCH_SIZES] = {64, 512,
                                                   2048}; /* of documents, under the second size */

struct cmd_bench {
    const char *path, *shape; /* of the model; NULL without one */
    const char *devices;
    struct bench_on on;
    struct bench_peak peaks[BENCH_PEAKS];
    int n_peak;
    struct bench *bench; /* owned; NULL without a model */
    struct bench_speed speeds[BENCH_SIZES];
    int n_speed;
    struct bench_speed documents[BENCH_SIZES];
    struct bench_steps steps[BENCH_SIZES];
    struct err no_steps; /* why they are not measured; OK when they are */
    struct bench_text text;
};

void cmd_bench_json(struct sbuf *b, const struct cmd_bench *r);
void cmd_bench_people(struct sbuf *b, const struct cmd_bench *r);

#endif
