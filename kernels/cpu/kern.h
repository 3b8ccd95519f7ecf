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
 * For products of int8 a step is four k, a word their bytes, and CPU_INT8_STEPS steps make a block
 * (the last one may be shorter) that has scales of its own: x = scale * q, |q| <= 127. Behind the
 * steps of a block lie, as if they were steps, in A the integer at which a row's sums begin and its
 * scale, in B a column's scale. B's bytes are q + 128, and what that adds to a sum is where it begins.
 *
 * Every element of C is one chain of multiply-adds in ascending k (int8: exact sums of a block, one
 * multiply-add for each block), whatever the tile it is in: rows and columns beside it cannot change
 * it. */
#ifndef BASIN_KERNELS_CPU_KERN_H
#define BASIN_KERNELS_CPU_KERN_H

#include "base/cpu.h"
#include "kernels/dev_impl.h"

enum {
    CPU_KEYS_MAX = 128, /* the largest `keys` */
    CPU_KEYS = 64,      /* in a stretch of the scores of a single query */
    CPU_MR_MAX = 32,    /* the largest mr */
    CPU_NR_MAX = 32,    /* the largest nr */
    CPU_INT8_STEPS = 16 /* of a block with scales of its own */
};

/* What an operand word holds. */
enum cpu_word { WORD_F32, WORD_PAIRS, WORD_INT8 };

extern const float cpu_zeros[64];

/* What attention does to the scores of a tile of keys. Queries are lanes: s is [keys, nr], so that
 * nothing ever has to be summed across a vector, and p is at once the B operand of the product with
 * V. All arrays of floats are [nr]. */
struct cpu_soft {
    float *s;                 /* scores; p is written over them */
    int lo, hi;               /* keys to look at; a multiple of what p's steps need */
    bool whole;               /* every lane sees all of them */
    const float *first, *end; /* else lane l sees keys first[l] <= i < end[l] */
    bool pairs, round;        /* p as bf16 pairs, or as floats rounded to bf16 */
    float *max, *sum;         /* of each lane so far, read and written */
    float *scale;             /* written: what each lane's past is to be multiplied by */
    const float *slope;       /* ALiBi, or NULL */
    const float *dist;        /* distance of a lane's query to key 0 of the tile */
    float cap, inv_cap;       /* softcap and its inverse; 0: none */
};

/* A stretch of the scores of a single query: a row of CPU_KEYS. */
struct cpu_soft_row {
    int lo, hi;         /* visible keys: lo <= i < hi, not empty */
    float slope;        /* 0: no ALiBi */
    float dist;         /* distance of the query to key 0 */
    float cap, inv_cap; /* softcap and its inverse; 0: none */
};

struct cpu_kernels {
    enum cpu_isa isa;
    int mr, nr;        /* the largest register tile */
    bool bf16_pairs;   /* products of bf16 pairs are native; else bf16 values ride in f32 */
    int step_multiple; /* steps are padded to a multiple of this with zeros */
    int64_t kc;        /* steps of a slice of A and B that stay in L1 together */
    int keys; /* in a tile of attention: a multiple of mr, and even steps for its product with V */

    /* Around the products that a thread does within a parallel region. */
    void (*thread_begin)(void);
    void (*thread_end)(void);

    /* The number of rows of the packed A slice that holds m <= mr rows: a few sizes have code. */
    int (*tile_rows)(int m);

    /* C [m, nr] += A B over `steps`; m is a tile_rows() size. C starts from `first` [nr] (the same
     * for every row; cpu_zeros for zeros) instead of its old contents when first is not NULL. */
    void (*tile)(enum cpu_word word, int m, int64_t steps, const void *a, const void *b, float *c,
                 int64_t ldc, const float *first);

    /* n rounds of products that touch registers only: what the machine can do, for benchmarks.
     * Returns the number of floating-point operations. */
    double (*peak)(enum cpu_word word, int64_t n);

    /* dst[k * ldd + i] = src[i * lds + k] for i < n_i, 0 for n_i <= i < n_dst; k < n_k: words. */
    void (*transpose)(uint32_t *dst, int64_t ldd, int n_dst, const uint32_t *src, int64_t lds,
                      int n_i, int64_t n_k);
    /* Packs n_i rows of n_k words (a multiple of step_multiple) as an A slice of m rows; the others
     * are zeros. */
    void (*pack_a)(uint32_t *dst, int m, const uint32_t *src, int64_t lds, int n_i, int64_t n_k);
    /* The same from a source that is step-major: word k of row i at src[k * lds + i]. */
    void (*pack_at)(uint32_t *dst, int m, const uint32_t *src, int64_t lds, int n_i, int64_t n_k);
    /* n floats as rows of A (2 words behind a block) or of B (1 word). A NaN or infinity makes the
     * scale of its block one. */
    void (*int8_a)(uint32_t *out, const float *x, int64_t n);
    void (*int8_b)(uint32_t *out, const float *x, int64_t n);
    /* dst[i] = a[i] | b[i] << 16: two rows of bf16 as pairs. */
    void (*zip)(uint32_t *dst, const bf16_t *a, const bf16_t *b, int64_t n);
    /* n stored elements (any alignment) as floats; false when one of them is not finite. */
    bool (*floats)(float *out, const unsigned char *p, enum dtype type, int64_t n);

    /* p = 2^(s - max) where visible, 0 elsewhere, with a maximum that only moves when it is
     * exceeded by far; the plain scores come in times log2(e). Returns whether any scale is not 1. */
    bool (*soften)(const struct cpu_soft *t);
    /* Of a single query: scores in place, softcap and ALiBi; returns the largest visible one. Then
     * p = exp(s - max) where visible, 0 elsewhere; returns the sum. p may be s. */
    float (*row_max)(float s[CPU_KEYS], const struct cpu_soft_row *r);
    float (*row_exp)(float p[CPU_KEYS], const float s[CPU_KEYS], const struct cpu_soft_row *r,
                     float max);
    void (*scale_lanes)(float *x, int64_t n, const float *scale); /* x [n, nr] */
    void (*exp_small)(float x[CPU_MR_MAX]);                       /* in place */
    /* y = x * scale + 0, which leaves no negative zero. */
    void (*scale_out)(float *y, const float *x, float scale, int64_t n);

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
extern const struct cpu_kernels cpu_kernels_avxvnni; /* the same, with the VNNI of AVX for int8 */
extern const struct cpu_kernels cpu_kernels_avx512;
extern const struct cpu_kernels cpu_kernels_amx; /* avx512 with bf16 products in tile registers */
#endif

#endif
