/* The micro-kernels: one table per instruction set, chosen when a handle opens. Everything above it
 * (linear.c, head.c, attend.c, rows.c) is written once. Private to kernels/cpu/.
 *
 * Matrix operands come in packed slices. `nr` columns make a panel; for products in f32
 *     A: k-major, slice[k * m + i]          B: k-major, slice[k * nr + j]
 * and for products of bf16 pairs (kk = k / 2, two bf16 in one 32-bit word, the lower k in the lower
 * half) the same with kk in the place of k. So a "step" is a k or a pair of them, a word is 32 bits
 * either way, and the layouts are equal. (Only A differs for AMX: kern_amx.inc.h.) The part of a
 * slice that begins at step s begins s * m, or s * nr, words into it.
 *
 * Every element of C is one chain of multiply-adds in ascending k, whatever the tile it is in: rows
 * and columns beside it cannot change it. */
#ifndef BASIN_KERNELS_CPU_KERN_H
#define BASIN_KERNELS_CPU_KERN_H

#include "base/cpu.h"
#include "kernels/dev_impl.h"

enum {
    CPU_KEYS = 64,  /* keys in a tile of attention, cut at absolute positions */
    CPU_MR_MAX = 32 /* the largest mr */
};

/* What attention does to one row of scores of a tile. */
struct cpu_soft_row {
    int lo, hi;         /* visible keys of the tile: lo <= i < hi, not empty */
    float slope;        /* 0: no ALiBi */
    float dist;         /* distance of the query to key 0 of the tile */
    float cap, inv_cap; /* softcap and 1 / softcap; 0: none */
};

struct cpu_kernels {
    enum cpu_isa isa;
    int mr, nr;        /* the largest register tile */
    bool bf16_pairs;   /* products of bf16 pairs are native; else bf16 values ride in f32 */
    int step_multiple; /* steps are padded to a multiple of this with zeros */
    int64_t kc;        /* steps of a slice of A and B that stay in L1 together */

    /* Around the products that a thread does within a parallel region. */
    void (*thread_begin)(void);
    void (*thread_end)(void);

    /* The number of rows of the packed A slice that holds m <= mr rows: a few sizes have code. */
    int (*tile_rows)(int m);

    /* C [m, nr] += A B over `steps`; m is a tile_rows() size. C starts from `first` [nr] (the same
     * for every row) instead of its old contents when first is not NULL. */
    void (*tile)(bool pairs, int m, int64_t steps, const void *a, const void *b, float *c,
                 int64_t ldc, const float *first);

    /* C = A B over the steps from..to-1 of a whole tile of keys; A is row-major, [m, CPU_KEYS]
     * floats or [m, CPU_KEYS / 2] pairs. */
    void (*tile_p)(bool pairs, int m, int64_t from, int64_t to, const void *p, const void *b,
                   float *c, int64_t ldc);

    /* n rounds of products that touch registers only: what the machine can do, for benchmarks.
     * Returns the number of floating-point operations. */
    double (*peak)(bool pairs, int64_t n);

    /* dst[k * ldd + i] = src[i * lds + k] for i < n_i, 0 for n_i <= i < n_dst; k < n_k: words. */
    void (*transpose)(uint32_t *dst, int64_t ldd, int n_dst, const uint32_t *src, int64_t lds,
                      int n_i, int64_t n_k);
    /* Packs n_i rows of n_k words (a multiple of step_multiple) as an A slice of m rows; the others
     * are zeros. */
    void (*pack_a)(uint32_t *dst, int m, const uint32_t *src, int64_t lds, int n_i, int64_t n_k);
    /* dst[i] = a[i] | b[i] << 16: two rows of bf16 as pairs. */
    void (*zip)(uint32_t *dst, const bf16_t *a, const bf16_t *b, int64_t n);
    /* n stored elements (any alignment) as floats; false when one of them is not finite. */
    bool (*floats)(float *out, const unsigned char *p, enum dtype type, int64_t n);

    /* Scores of a row, in place: softcap, ALiBi. Returns the largest visible one. */
    float (*soft_max)(float s[CPU_KEYS], const struct cpu_soft_row *r);
    /* p = exp(s - max) where visible, 0 elsewhere, as f32, as f32 rounded to bf16, or as bf16
     * pairs; returns the sum of the unrounded p. */
    float (*soft_exp)(void *p, const float s[CPU_KEYS], const struct cpu_soft_row *r, float max,
                      bool pairs, bool round);
    /* y = y * scale + x; y = x * scale + 0, which leaves no negative zero. */
    void (*scale_add)(float *y, const float *x, float scale, int64_t n);
    void (*scale_out)(float *y, const float *x, float scale, int64_t n);
    void (*exp_small)(float x[CPU_MR_MAX]); /* in place */

    /* Logits of a row, in place: times scale, softcapped. Returns the maximum and whether all are
     * finite. The row is padded to a multiple of nr; n counts the real logits. */
    float (*logit_max)(float *l, int64_t n, float scale, float cap, bool *finite);
    float (*logit_sum)(const float *l, int64_t n, float max); /* sum of exp(l - max) */

    float (*dot)(const float *a, const float *b, int64_t n);

    void (*norm)(float *y, const float *x, const float *w, const float *b, int64_t n, bool layer,
                 float eps, float weight_offset);
    void (*rope)(float *y, const float *x, const float *cs, const struct dev_rope *p);
    void (*act)(float *y, const float *g, const float *u, int64_t n, enum act_kind kind);
    void (*add)(float *y, const float *x, float scale, int64_t n);
    void (*to_bf16)(bf16_t *y, const float *x, int64_t n);
    void (*round_bf16)(float *y, const float *x, int64_t n); /* y may be x */
};

extern const struct cpu_kernels cpu_kernels_portable;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avx512;
extern const struct cpu_kernels cpu_kernels_amx; /* avx512 with bf16 products in tile registers */
#endif

#endif
