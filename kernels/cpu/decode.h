/* Steps of few rows (a handle opened for DEV_STEPS): how matrices are kept, and the micro-kernels that
 * read them. Private to kernels/cpu/.
 *
 * A matrix is cut into panels of `lanes` output columns (one vector of floats). A panel is read from
 * its first byte to its last, once per step, and holds the elements as the file stores them:
 *
 *   plane    of a block of 32 (Q6_K: 16) elements k, word by word, `lanes` words beside each other
 *   F32      32 words                        k
 *   BF16     16 words                        k = 2 w in the lower half, 2 w + 1 in the upper one
 *   Q8        8 words of four bytes          k = 4 w + byte; 128 is added
 *   Q4        4 words of eight nibbles       k = 8 w + byte + 4 (upper nibble)
 *   Q5        the same, then 1 word of high bits: of k, bit 8 (k % 4) + k / 4
 *   Q6        2 words of nibbles, then 1 word: of k, bits 8 (k % 4) + 2 (k / 4) and the next
 *
 * Types of 32 begin a block with their scale d, then (_1) their minimum m: `lanes` halves each. K types
 * have these before each 256 elements, and begin a block with `lanes` bytes of S, then (Q4_K, Q5_K)
 * `lanes` bytes of M. Numbers of 16 and 32 bits are the machine's. Elements of rows past the last, and
 * of floats past the end of a row, are zeros.
 *
 * Rows of x become words, a row behind the other, in the order in which a block's steps take them; a
 * step is one element (f32), a pair (bf16) or four (int8). With them, per block: the sum of the
 * elements, for minima, and for int8 the scale and what the integer sum begins with.
 *
 * An element of a product is one chain: over blocks in ascending order, tot = fma(d, s, tot), then
 * tot = fma(m, sum of x, tot), where s is the block's sum of x v over the integers v, itself a chain
 * that begins at 0. Rows, panels and threads beside it cannot change it. */
#ifndef BASIN_KERNELS_CPU_DECODE_H
#define BASIN_KERNELS_CPU_DECODE_H

#include "kernels/cpu/kern.h"

enum cpu_plane { PLANE_F32, PLANE_BF16, PLANE_Q8, PLANE_Q4, PLANE_Q5, PLANE_Q6 };

enum cpu_mode {
    MODE_F32,   /* floats, in a bf16 run rounded to bf16: multiply-adds */
    MODE_PAIRS, /* pairs of bf16 */
    MODE_INT8   /* x rounded to int8 by a scale of each block */
};

/* What is known of a stored type; constant when a kernel is compiled for one. */
struct cpu_form {
    enum cpu_plane plane;
    int zero;    /* what the unsigned integers are too large by */
    bool min, k; /* a minimum; scales of 256 elements refined by block */
};

static inline struct cpu_form cpu_form_of(enum dtype t) {
    switch (t) {
    case DT_BF16: return (struct cpu_form){PLANE_BF16, 0, false, false};
    case DT_Q8_0: return (struct cpu_form){PLANE_Q8, 128, false, false};
    case DT_Q4_0: return (struct cpu_form){PLANE_Q4, 8, false, false};
    case DT_Q4_1: return (struct cpu_form){PLANE_Q4, 0, true, false};
    case DT_Q5_0: return (struct cpu_form){PLANE_Q5, 16, false, false};
    case DT_Q5_1: return (struct cpu_form){PLANE_Q5, 0, true, false};
    case DT_Q4_K: return (struct cpu_form){PLANE_Q4, 0, true, true};
    case DT_Q5_K: return (struct cpu_form){PLANE_Q5, 0, true, true};
    case DT_Q6_K: return (struct cpu_form){PLANE_Q6, 32, false, true};
    default: return (struct cpu_form){PLANE_F32, 0, false, false};
    }
}

static inline int cpu_plane_block(enum cpu_plane p) {
    return p == PLANE_Q6 ? 16 : 32;
}
static inline int cpu_plane_words(enum cpu_plane p) {
    static const uint8_t n[] = {32, 16, 8, 4, 5, 3};
    return n[p];
}
static inline bool cpu_plane_scaled(enum cpu_plane p) {
    return p >= PLANE_Q8;
}
/* Blocks that share a head, the bytes of that head, and those of a block, per lane. */
static inline int cpu_form_group(struct cpu_form f) {
    return f.k ? 256 / cpu_plane_block(f.plane) : 1;
}
static inline int cpu_form_head(struct cpu_form f) {
    return cpu_plane_scaled(f.plane) ? (f.min ? 4 : 2) : 0;
}
static inline int cpu_form_block(struct cpu_form f) {
    return (f.k ? (f.min ? 2 : 1) : 0) + 4 * cpu_plane_words(f.plane);
}
/* Elements of a step. */
static inline int cpu_mode_step(enum cpu_mode m) {
    return m == MODE_F32 ? 1 : m == MODE_PAIRS ? 2 : 4;
}

/* The rows of x, packed: words of row r at r * ld, and in the same row the values per block. */
struct cpu_packed {
    enum dtype type;
    enum cpu_mode mode;
    bool round;                    /* MODE_F32: x is rounded to bf16 first */
    int64_t n_block;               /* of a row */
    int64_t sum, scale, start, ld; /* in words */
    uint32_t *words;
};

/* Panels w.. (panel_bytes apart) times rows 0..n_row-1 of x. */
struct cpu_panels {
    const struct cpu_packed *x;
    const unsigned char *w;
    size_t panel_bytes;
    int64_t n_panel, n_row;
    int64_t n_col;     /* columns that are written: at most n_panel * lanes */
    const float *bias; /* [n_panel * lanes], or NULL */
    float *c;          /* [n_row, n_col] */
    int64_t ldc;
};

/* ---- attention of single rows: keys (or values) that lie `stride_bytes` apart, read where they are */

enum {
    CPU_CHUNK = 256,
    CPU_HEADS = 4
}; /* keys of a chunk, heads that share a read of it, at most */

struct cpu_keys {
    const unsigned char *at;
    int64_t stride_bytes;
    int n;
    bool bf16;     /* else floats */
    int64_t steps; /* of 2 lanes elements, all there */
};

struct cpu_attend_rows {
    int lanes;
    /* s[h][i] = q[h] . key i.   q [n_head, steps * 2 lanes], s [n_head, CPU_CHUNK]; in the order of
     * kern_attend.inc.h. */
    void (*scores)(const struct cpu_keys *k, int n_head, const float *q, float *s);
    /* o[h] += sum over i of p[h][i] value i.   p [n_head, CPU_CHUNK], o as q. */
    void (*values)(const struct cpu_keys *v, int n_head, const float *p, float *o);
};

extern const struct cpu_attend_rows cpu_attend_rows_portable;
#if defined(__x86_64__)
extern const struct cpu_attend_rows cpu_attend_rows_avx2;
extern const struct cpu_attend_rows cpu_attend_rows_avx512;
#endif

/* ---- the table of an instruction set */

struct cpu_decode {
    const struct cpu_attend_rows *attend;
    int lanes;
    bool pairs; /* MODE_PAIRS is there: the mode of a bf16 run */
    /* Row r of x, n elements, as words. */
    void (*pack)(const struct cpu_packed *x, int64_t r, const float *from, int64_t n);
    void (*panels)(const struct cpu_panels *p);
};

extern const struct cpu_decode cpu_decode_portable;
#if defined(__x86_64__)
extern const struct cpu_decode cpu_decode_avx2;
extern const struct cpu_decode cpu_decode_avx512;
extern const struct cpu_decode cpu_decode_amx; /* avx512 with pairs in tile registers */
#endif

#endif
