/* What the tests of kernels/ share: devices, buffers with guard rows, comparison under a budget. */
#ifndef BASIN_TESTS_SUPPORT_OPS_H
#define BASIN_TESTS_SUPPORT_OPS_H

#include "kernels/dev.h"

/* The devices under test are those of devs_cpu.c, tests/simt/devs.c or devs_gpu.c: the same programs are linked
 * with each of them. */

/* A case: which device, and its compute dtype. */
struct ops_dev {
    enum cpu_isa isa; /* of the CPU; on GPUs a number without meaning */
    enum dtype compute;
    enum dev_purpose purpose;
    bool int8;
};
int ops_list(struct ops_dev out[8]); /* all that this machine can run */
/* Opens one: with 1 and with 2 threads, or two devices of the kind, which must compute the same bits. */
struct dev *ops_open(const struct ops_dev *c, int n_thread);
/* Simulated: tests leave out what would take minutes. */
bool ops_slow(void);

struct dev *ops_open_ref(enum dtype compute);

/* Deterministic, explicit state. */
double ops_uniform(uint64_t *state); /* in [0, 1) */
float ops_normal(uint64_t *state);
float *ops_normals(uint64_t *state, int64_t n, float scale); /* owned by the caller: free() */
void ops_round_bf16(float *x, int64_t n);

/* A buffer of n_row + 2 rows: rows of x (NULL: NaN), then two guard rows. x is converted to the
 * element type of the buffer. */
struct buf *ops_buf(struct dev *d, enum buf_kind kind, int64_t n_row, int64_t n_col,
                    const float *x);
struct buf *ops_ids(struct dev *d, int64_t n_row, const int32_t *id);
struct buf *ops_pos(struct dev *d, int64_t n_row, const int64_t *pos);
struct buf *ops_segs(struct dev *d, int n, const struct dev_seg *seg);
/* Rows as double (free()), after dev_sync(); fails the test when the guard rows have changed. */
double *ops_get(struct dev *d, const struct buf *b, int64_t n_row, int64_t n_col);
/* Fails the test unless the buffer still holds x. */
void ops_unchanged(struct dev *d, const struct buf *b, int64_t n_row, int64_t n_col,
                   const float *x);
/* The bytes of rows (free()). */
unsigned char *ops_bytes(struct dev *d, const struct buf *b, int64_t row, int64_t n_row);

/* A prepared weight over floats stored as `type`. The copy of the data is leaked into *data:
 * free(). */
struct wt *ops_weight(struct dev *d, enum wt_use use, int64_t n_out, int64_t n_in, const float *x,
                      enum dtype type, void **data);

struct ops_budget {
    double atol, rtol; /* |a - ref| <= atol + rtol |ref| */
    double nmse;       /* sum (a - ref)^2 / sum ref^2 */
};
/* Prints and fails the test when `got` is over budget. */
void ops_compare(const char *what, const double *ref, const double *got, int64_t n,
                 struct ops_budget b);

/* A body runs once per device of ops_list(), opened with two threads. */
struct ops_run {
    struct dev *ref, *dev;
    struct ops_dev c;
    uint64_t seed;
};
void ops_each(void (*body)(struct ops_run *));
void ops_each_for(enum dev_purpose purpose, void (*body)(struct ops_run *));
/* With products of int8; on CPUs only. */
void ops_each_int8(void (*body)(struct ops_run *));
/* Normal numbers; bf16 values in a bf16 run, so that its products are exact. free() */
float *ops_inputs(struct ops_run *r, int64_t n, float scale);

void ops_same_bytes(const char *what, const unsigned char *a, const unsigned char *b, size_t n);
void ops_sync(struct dev *d); /* fails the test on an error */

#endif
