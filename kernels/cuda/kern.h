/* Private to kernels/cuda/: what the .cu files offer to the host side. Each function queues kernels on a
 * stream and returns; a failed launch is found by the caller (cudaGetLastError). All pointers are device
 * memory unless said otherwise; shapes have been checked. */
#ifndef BASIN_KERNELS_CUDA_KERN_H
#define BASIN_KERNELS_CUDA_KERN_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/dev.h"

/* ---- faults: what a kernel finds wrong with data. The lowest number stays: the first operation that
 * watches, ids outside before rows that are not finite, then the lowest id. */
enum { CUDA_FAULT_RANGE, CUDA_FAULT_FINITE };
struct cuda_watch {
    unsigned long long *fault; /* one word for the device */
    uint32_t index;            /* of the watching operation, below 2^30 */
};

/* ---- weights (weights.cu) */

/* Rows of stored elements to rows of floats or bf16, k_pad apart, zeros behind n_in. A NULL `dst` only
 * looks for elements that are not finite, which `watch` reports. */
struct cuda_expand {
    void *dst; /* [n_row, k_pad] */
    bool bf16; /* dst's type: bf16 or f32 */
    const unsigned char *src;
    enum dtype type;
    int64_t n_row, n_in, k_pad;
    size_t row_bytes;
    struct cuda_watch watch; /* fault NULL: has been checked */
};
void cuda_expand_rows(cudaStream_t s, const struct cuda_expand *p);

/* The same from rows k0..k0+n_k-1 of a matrix that is stored [n_in, n_stored]; n_row logical rows. */
struct cuda_turn {
    struct cuda_expand x; /* src: [n_k, n_stored]; row_bytes of one of those rows */
    int64_t k0, n_k;      /* the last chunk also clears what lies behind n_in */
    int64_t first, block, stride;
};
void cuda_expand_turned(cudaStream_t s, const struct cuda_turn *p);

/* Elements at .. at + n - 1 of the logical rows of a made-up matrix, one row behind the other: see
 * struct dev_weight_src and dev_made_fill. */
struct cuda_make {
    bf16_t *dst; /* [n] */
    uint64_t seed;
    float scale; /* 2^-shift */
    int64_t at, n, n_in, first, block, stride;
};
void cuda_make_rows(cudaStream_t s, const struct cuda_make *p);

/* x f32 [n_row, n_in] to rows of operands [n_pad, k_pad], zeros around it. */
void cuda_stage_rows(cudaStream_t s, void *dst, bool bf16, const float *x, int64_t n_row,
                     int64_t n_pad, int64_t n_in, int64_t k_pad);

/* y[i] = scale * table[ids[i]], rows of the table as they are stored. */
struct cuda_embed {
    float *y;
    const int32_t *ids;
    const unsigned char *table;
    enum dtype type;
    size_t row_bytes;
    int64_t n_row, n_col, n_table;
    float scale;
    struct cuda_watch watch;
};
void cuda_embed_rows(cudaStream_t s, const struct cuda_embed *p);

/* ---- rows (rows.cu) */

struct cuda_norm {
    float *y;
    const float *x, *w, *b; /* b may be NULL */
    int64_t n_row, n;       /* groups of n */
    float eps, offset;
    bool layer;
};
void cuda_norm_rows(cudaStream_t s, const struct cuda_norm *p);
void cuda_clip_rows(cudaStream_t s, float *y, float most, int64_t n);
void cuda_act_rows(cudaStream_t s, float *y, const float *g, const float *u, enum act_kind kind,
                   int64_t n);
void cuda_add_rows(cudaStream_t s, float *y, const float *x, float scale, int64_t n);
/* y[r, c] += bias[c] */
void cuda_bias_rows(cudaStream_t s, float *y, const float *bias, int64_t n_row, int64_t n_col);

/* ---- rotary (rope.cu) */

enum { CUDA_FREQS = 64 }; /* frequencies of one launch: they travel as an argument */
struct cuda_angles {
    float *ang; /* [n_row, 2 * n_pair] */
    const int64_t *pos;
    int64_t n_row;
    int n_pair, k0, n_k; /* pairs k0..k0+n_k-1 */
    double mscale;
    double freq[CUDA_FREQS];
};
void cuda_angles_rows(cudaStream_t s, const struct cuda_angles *p);
void cuda_rope_rows(cudaStream_t s, float *y, const float *x, const float *ang,
                    const struct dev_rope *p, int64_t n_row);

/* ---- attention (kv.cu, attend.cu, attend_any.cu) */

/* A piece of work: rows first.. of a segment, which are (token, head of a group) pairs. */
struct cuda_item {
    int32_t seg;
    int32_t pad;
    int64_t first;
};

struct cuda_store {
    void *kv;
    bool bf16;
    const float *x;
    int64_t n_col;
    const struct dev_seg *seg;
    const struct cuda_item
        *item;       /* CUDA_STORE_ROWS tokens each; NULL: item i, j is segment i's j-th */
    int64_t n_item;  /* or of segments */
    int64_t n_piece; /* without items: of a segment */
};
enum { CUDA_STORE_ROWS = 8 };
void cuda_kv_store_rows(cudaStream_t s, const struct cuda_store *p);

enum { CUDA_KEYS = 64 }; /* keys of a tile, cut at absolute positions */

struct cuda_attend {
    float *out;
    const float *q_win, *q_sink;
    const void *k, *v;
    const struct dev_seg *seg;
    const struct cuda_item *item;
    int64_t n_item;
    int n_head, n_kv, d_head, group;
    float scale, cap, inv_cap; /* cap 0: none */
    const float *slopes;       /* or NULL */
};
/* On tensor cores: bf16 caches, d_head up to 256. Rows of an item, and bytes of shared memory that it needs
 * at most. */
int cuda_attend_rows(int d_head);
size_t cuda_attend_smem(int d_head);
void cuda_attend_mma(cudaStream_t s, const struct cuda_attend *p);
/* In f32 with either cache; items of CUDA_ANY_ROWS rows. Bytes of shared memory that it needs. */
enum { CUDA_ANY_ROWS = 16 };
size_t cuda_attend_any_smem(int d_head);
void cuda_attend_any(cudaStream_t s, const struct cuda_attend *p, bool bf16);

/* ---- steps of few rows (step_linear.cu, step_attend.cu) */

struct cuda_step_linear {
    float *y;               /* [n_row, n_out] */
    const void *x;          /* [n_row, k_pad] bf16 or f32, zeros behind n_in */
    bool bf16;              /* x's type */
    const unsigned char *w; /* [n_out] rows as they are stored */
    enum dtype type;
    size_t row_bytes;
    const float *bias;                 /* or NULL */
    int64_t n_row, n_out, n_in, k_pad; /* k_pad: n_in rounded up to 16 */
};
void cuda_step_linear_rows(cudaStream_t s, const struct cuda_step_linear *p);

enum { CUDA_STEP_HEADS = 8 }; /* of a group, that share a read of a key */
struct cuda_step_attend {
    struct cuda_attend a; /* without items */
    int n_seg, width;     /* width: d_head rounded up to 8 */
    int64_t row0, n_row;  /* this batch */
    int64_t n_tile;       /* tiles of a row at most */
    float *max, *sum;     /* [n_row, n_head, n_tile] */
    float *o;             /* [n_row, n_head, n_tile, d_head] */
};
size_t cuda_step_attend_smem(int width);
void cuda_step_attend_rows(cudaStream_t s, const struct cuda_step_attend *p, bool bf16);

/* ---- head (head.cu) */

enum { CUDA_PART = 256 }; /* logits of a part, on which log-softmax is built (soft.cuh) */
struct cuda_part {
    float max, sum; /* of exp(logit - max); NaN: a logit is not finite */
};
struct cuda_head {
    struct cuda_part *part; /* [n_row, n_part] */
    float *target_logit;    /* [n_row] */
    double *logp;
    float *logits;     /* [n_row, n_vocab] or NULL */
    const float *c;    /* [n_row, n_col]: products of this block; may be `logits` */
    const float *bias; /* of this block's columns, or NULL */
    const int32_t *target;
    int64_t n_row, n_col, col, n_vocab; /* this block is columns col..col+n_col-1 */
    int64_t n_part;
    float scale, cap, inv_cap;
    struct cuda_watch watch;
};
void cuda_head_block(cudaStream_t s, const struct cuda_head *p); /* its parts, its target */
void cuda_head_join(cudaStream_t s, const struct cuda_head *p);  /* logp of all rows */

/* ---- sampling (sample.cu) */

struct cuda_sample {
    const float *logits; /* [*, n_vocab] */
    const struct dev_sample_row *rows;
    const struct dev_adjust *adjust; /* NULL: no row has entries */
    int32_t *id, *top_id;
    double *logp, *top_logp, *top_adjusted;
    int64_t n_row, n_vocab, n_part, n_list; /* n_list: the smaller of n_top and n_vocab */
    int n_top;
    float
        unit; /* what the largest probability weighs: 2^44, less where n_vocab is so large that the
                   sum would not fit into 63 bits */
    /* scratch */
    float *y;                        /* [n_row, n_vocab] changed logits */
    struct cuda_part *part, *part_y; /* [n_row, n_part] */
    unsigned long long *list;        /* [n_row, n_list] */
};
void cuda_sample_rows(cudaStream_t s, const struct cuda_sample *p);

struct cuda_similar {
    double *out;        /* [n_row] */
    const float *x, *y; /* [n_row, n_col], [n_y, n_col] */
    float *part;        /* scratch [n_row, n_y] */
    int64_t n_row, n_y, n_col;
};
void cuda_similar_rows(cudaStream_t s, const struct cuda_similar *p); /* n_row at most 65535 */

#ifdef __cplusplus
}
#endif

#endif
