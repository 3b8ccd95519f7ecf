/* Private to kernels/ref/: the oracle. Plain loops in double over host memory; no entry is clever.
 */
#ifndef BASIN_KERNELS_REF_IMPL_H
#define BASIN_KERNELS_REF_IMPL_H

#include "kernels/dev_impl.h"

/* Element [row, col] of a weight, exact in double, read where it lies in the file. */
double ref_weight(const struct wt *w, int64_t row, int64_t col);

/* Element i of the block at p, exact in double but for the one rounding of kernels/quant.h. Written
 * from the formulas there, an element at a time: the oracle of dev_quant_floats. ref_quant.c */
double ref_element(const unsigned char *p, enum dtype type, int i);

/* Row of an f64 buffer. */
static inline double *ref_row(const struct buf *b, int64_t row) {
    return dev_host_row(b, row);
}

void ref_embed(struct dev *d, struct buf *y, const struct wt *table, const struct buf *ids,
               double scale, int64_t n_row);
void ref_norm(struct dev *d, struct buf *y, const struct buf *x, const struct dev_norm *p,
              int64_t n_row);
void ref_linear(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                const struct wt *bias, int64_t n_row);
void ref_angles(struct dev *d, struct buf *ang, const struct buf *pos, const double *freq,
                int n_pair, double mscale, int64_t n_row);
void ref_rope(struct dev *d, struct buf *y, const struct buf *x, const struct buf *ang,
              const struct dev_rope *p, int64_t n_row);
void ref_kv_store(struct dev *d, struct buf *kv, const struct buf *x, const struct buf *seg,
                  int n_seg);
void ref_attend(struct dev *d, const struct dev_attend *a, int64_t n_row);
void ref_act(struct dev *d, struct buf *y, const struct buf *g, const struct buf *u,
             enum act_kind kind, int64_t n_row);
void ref_add(struct dev *d, struct buf *y, const struct buf *x, double scale, int64_t n_row);
void ref_head(struct dev *d, const struct dev_head *a, int64_t n_row);
void ref_sample(struct dev *d, const struct dev_sample *a, int64_t n_row);
void ref_similar(struct dev *d, const struct dev_similar *a, int64_t n_row);

#endif
