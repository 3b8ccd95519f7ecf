/* Private to kernels/cpu/: the handle, its memory, and the packed operands that linear, head and
 * attention share. */
#ifndef BASIN_KERNELS_CPU_IMPL_H
#define BASIN_KERNELS_CPU_IMPL_H

#include "kernels/cpu/kern.h"
#include "kernels/dev_impl.h"

struct cpu_decode;
struct cpu_pool;

/* A piece of memory for packed weights, kept when its weight is let go and given to the next. */
struct cpu_piece {
    void *mem; /* owned */
    size_t bytes;
    bool used;
};

struct cpu_dev {
    struct dev base;
    const struct cpu_kernels *k; /* static */
    const struct cpu_kernels
        *lin; /* static: of linear layers and the head; k, or AVX-512's for int8 */
    const struct cpu_decode *decode; /* static: of a handle for steps; else NULL */
    struct cpu_pool *pool;           /* owned: its threads */
    int n_thread;
    enum cpu_word word;      /* operands of attention */
    enum cpu_word lin_word;  /* operands of linear layers and the head */
    bool round;              /* operands that are floats are rounded to bf16 */
    struct cpu_piece *piece; /* owned: n_piece, room for cap_piece */
    size_t n_piece, cap_piece;
    unsigned char *scratch; /* owned: of the operation at work */
    size_t scratch_bytes;
};

static inline struct cpu_dev *cpu_of(struct dev *d) {
    return (struct cpu_dev *)d;
}

/* dev_open_cpu with the micro-kernels named; for tests and benchmarks. */
enum status cpu_open_with(struct dev **out, const struct cpu_kernels *k, const struct dev_config *c,
                          struct err *e) WARN_UNUSED;

/* At least `bytes` aligned to 64, valid until the next call. NULL after dev_fail(E_NOMEM). Grows
 * only: in a run of equal blocks nothing is allocated after the first. */
void *cpu_scratch(struct cpu_dev *d, size_t bytes);

/* Threads for an operation of about `work` multiply-adds (or elements times 16): starting a team
 * costs microseconds, and milliseconds where another process holds a core; in a step, which has
 * hundreds of operations, only what runs in the pool is shared out. Never changes a result. */
static inline int cpu_team(const struct cpu_dev *d, int64_t work) {
    return work < 256 * 1024 || (d->pool != NULL && work < 16 * 1024 * 1024) ? 1 : d->n_thread;
}

/* Items 0..n-1 of an operation of about `work` multiply-adds, as pool.h says; by OpenMP where there is no
 * pool. */
void cpu_share(const struct cpu_dev *d, int64_t work, int64_t n,
               void (*fn)(void *ctx, int64_t item, int thread), void *ctx);

static inline size_t cpu_round64(size_t n) {
    return (n + 63) / 64 * 64;
}
static inline int64_t cpu_ceil(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Row of an f32 buffer. */
static inline float *cpu_row(const struct buf *b, int64_t row) {
    return dev_host_row(b, row);
}

/* ---- weights (weights.c). The state of a WT_MATRIX is its packed panels, that of a WT_VECTOR its
 * floats, padded with zeros to a multiple of 64. */
void cpu_wt_prepare(struct dev *d, struct wt *w);
void cpu_wt_release(struct wt *w);

/* Floats of a vector from `at` on; zeros when there is none (readable: one panel). */
const float *cpu_vector(const struct wt *w, int64_t at);

/* Memory for the state of a weight; cpu_wt_release gives it back. NULL after dev_fail(E_NOMEM). */
void *cpu_take_memory(struct cpu_dev *d, size_t bytes);

/* Columns of a matrix that are converted at a time: whole blocks, a panel of them stays in L1. */
enum { CPU_PACK_K = DTYPE_MOST_BLOCK };

/* Columns k..k+n_k-1 (at most CPU_PACK_K) of rows row..row+n-1 of a matrix of single elements as
 * floats, rows CPU_PACK_K apart. False when one of them is not finite. */
bool cpu_weight_floats(const struct cpu_dev *d, const struct dev_weight_src *s, int64_t row, int n,
                       int64_t k, int64_t n_k, float *x);

/* ---- steps: how matrices are kept, and what reads them (decode*.c) */

/* The micro-kernels of an instruction set. */
const struct cpu_decode *cpu_decode_of(enum cpu_isa isa);

/* The type that a matrix is kept as, the blocks of a row, the bytes of a panel. */
enum dtype cpu_decode_type(const struct cpu_dev *d, enum dtype stored);
int64_t cpu_decode_blocks(enum dtype type, int64_t n_in);
size_t cpu_decode_panel_bytes(const struct cpu_dev *d, enum dtype type, int64_t n_in);

void cpu_decode_prepare(struct dev *d, struct wt *w);
void cpu_decode_linear(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                       const struct wt *bias, int64_t n_row);
void cpu_decode_head(struct dev *d, const struct dev_head *a, int64_t n_row);
void cpu_decode_attend(struct dev *d, const struct dev_attend *a, int64_t n_row);

/* ---- logits to log-probabilities (linear.c). The vocabulary is cut into blocks of CPU_VOCAB; each
 * leaves a maximum and a sum of exponentials per row, put together in order of the vocabulary. */
enum { CPU_VOCAB = 256 };

struct cpu_part {
    float max, sum; /* sum is NaN when a logit is not finite */
};
struct cpu_lse {
    double max, log_sum; /* log-probability of logit x: x - max - log_sum */
};
struct cpu_lse cpu_join_parts(const struct cpu_part *p, int64_t n_block);
struct cpu_logits {
    struct cpu_dev *d;
    const struct dev_head *a;
    int64_t n_block;       /* of the vocabulary */
    struct cpu_part *part; /* [n_row, n_block] */
    float *target_logit;   /* [n_row] */
};
/* Whether all targets are ids or -1; else dev_fail(E_ARG). */
bool cpu_targets_ok(struct dev *d, const int32_t *target, int64_t n_row, int64_t n_vocab);
/* What block v says about rows row..row+n-1, whose products are c [n, CPU_VOCAB], written. */
void cpu_logits_block(const struct cpu_logits *h, int64_t row, int64_t n, int64_t v, float *c);
double cpu_logits_result(const struct cpu_logits *h, int64_t r); /* log-probability of the target */

/* ---- products (product.c) */

/* Steps of a row of n_in elements. */
static inline int64_t cpu_steps(const struct cpu_kernels *k, enum cpu_word word, int64_t n_in) {
    const int64_t per = word == WORD_INT8 ? 4 : word == WORD_PAIRS ? 2 : 1, m = k->step_multiple;
    const int64_t n = (n_in + per - 1) / per;
    return (n + m - 1) / m * m;
}

/* n floats as operand words, one for each step: as they are, rounded, or as bf16 pairs; zeros behind. */
void cpu_words(const struct cpu_dev *d, uint32_t *out, const float *x, int64_t n);

/* The same for linear layers and the head, which may be of int8: words of a row of A and of B, as
 * many as cpu_a_words(steps) and cpu_b_words(steps). The first steps of a row, if they are a multiple of
 * CPU_INT8_STEPS, are its first words. */
static inline int64_t cpu_lin_steps(const struct cpu_dev *d, int64_t n_in) {
    return cpu_steps(d->lin, d->lin_word, n_in);
}
static inline int64_t cpu_b_words(const struct cpu_dev *d, int64_t steps) {
    return d->lin_word == WORD_INT8 ? steps + cpu_ceil(steps, CPU_INT8_STEPS) : steps;
}
static inline int64_t cpu_a_words(const struct cpu_dev *d, int64_t steps) {
    return d->lin_word == WORD_INT8 ? steps + 2 * cpu_ceil(steps, CPU_INT8_STEPS) : steps;
}
void cpu_row_words(const struct cpu_dev *d, uint32_t *out, const float *x, int64_t n);    /* A */
void cpu_weight_words(const struct cpu_dev *d, uint32_t *out, const float *x, int64_t n); /* B */

/* A block of rows of x, packed as tiles of A, that is cut over columns and rows for the threads. */
struct cpu_rows {
    int64_t n_row, steps;
    int64_t words; /* of a packed row: cpu_a_words(steps) */
    int64_t block; /* rows of a block: a multiple of mr */
    int64_t n_block;
    int64_t group; /* panels (or other column units) of a group */
    int64_t n_group;
    size_t pack_bytes; /* packed A of a block and what packing needs: one per thread */
};

/* Cuts n_row rows and n_unit column units so that n_thread threads have work and A stays in L2. */
struct cpu_rows cpu_cut(const struct cpu_dev *d, int64_t n_row, int64_t n_in, int64_t n_unit);

/* Bytes of a packed block, and of what packing it needs. */
static inline size_t cpu_pack_bytes(const struct cpu_rows *c) {
    return cpu_round64((size_t)(c->block + CPU_MR_MAX) * (size_t)c->words * 4);
}

/* Packs rows row..row+n-1 of x into `pack`. */
void cpu_pack_rows(const struct cpu_dev *d, const struct cpu_rows *cut, void *pack,
                   const struct buf *x, int64_t row, int64_t n);

/* C [n, columns of panels p0..p1-1] = A B^T + bias, for the n packed rows. Only columns below n_out
 * are written; C points at column p0 * nr. */
struct cpu_product {
    const struct wt *w, *bias; /* bias may be NULL */
    const void *pack;
    int64_t n, steps, p0, p1;
    float *c;
    int64_t ldc;
};
void cpu_product(const struct cpu_dev *d, const struct cpu_product *p);

/* ---- what the machine can do (measure.c) */
enum status cpu_measure(struct dev *d, double seconds, struct dev_peaks *out,
                        struct err *e) WARN_UNUSED;

/* ---- operations */
void cpu_linear(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                const struct wt *bias, int64_t n_row);
bool cpu_mlp(struct dev *d, const struct dev_mlp *p, int64_t n_row);
void cpu_head(struct dev *d, const struct dev_head *a, int64_t n_row);
void cpu_sample(struct dev *d, const struct dev_sample *a, int64_t n_row);
void cpu_similar(struct dev *d, const struct dev_similar *a, int64_t n_row);
void cpu_attend(struct dev *d, const struct dev_attend *a, int64_t n_row);
void cpu_embed(struct dev *d, struct buf *y, const struct wt *table, const struct buf *ids,
               double scale, int64_t n_row);
void cpu_norm(struct dev *d, struct buf *y, const struct buf *x, const struct dev_norm *p,
              int64_t n_row);
void cpu_angles(struct dev *d, struct buf *ang, const struct buf *pos, const double *freq,
                int n_pair, double mscale, int64_t n_row);
void cpu_rope(struct dev *d, struct buf *y, const struct buf *x, const struct buf *ang,
              const struct dev_rope *p, int64_t n_row);
void cpu_kv_store(struct dev *d, struct buf *kv, const struct buf *x, const struct buf *seg,
                  int n_seg);
void cpu_act(struct dev *d, struct buf *y, const struct buf *g, const struct buf *u,
             enum act_kind kind, int64_t n_row);
void cpu_clip(struct dev *d, struct buf *y, double most, int64_t n_row);
void cpu_add(struct dev *d, struct buf *y, const struct buf *x, double scale, int64_t n_row);

#endif
