/* Private to kernels/cuda/: the handle of one GPU, its memory, and what the operations share. Host code only;
 * kernels are behind kern.h. */
#ifndef BASIN_KERNELS_CUDA_IMPL_H
#define BASIN_KERNELS_CUDA_IMPL_H

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/cuda/kern.h"
#include "kernels/dev_impl.h"

/* ---- cuBLASLt, loaded when a device is opened: half a gigabyte that a run on the CPU does not map. */

#define CUDA_BLAS_FUNCTIONS(X)                                                                     \
    X(create, cublasLtCreate)                                                                      \
    X(destroy, cublasLtDestroy)                                                                    \
    X(status_text, cublasLtGetStatusString)                                                        \
    X(desc_create, cublasLtMatmulDescCreate)                                                       \
    X(desc_destroy, cublasLtMatmulDescDestroy)                                                     \
    X(desc_set, cublasLtMatmulDescSetAttribute)                                                    \
    X(layout_create, cublasLtMatrixLayoutCreate)                                                   \
    X(layout_destroy, cublasLtMatrixLayoutDestroy)                                                 \
    X(pref_create, cublasLtMatmulPreferenceCreate)                                                 \
    X(pref_destroy, cublasLtMatmulPreferenceDestroy)                                               \
    X(pref_set, cublasLtMatmulPreferenceSetAttribute)                                              \
    X(heuristic, cublasLtMatmulAlgoGetHeuristic)                                                   \
    X(matmul, cublasLtMatmul)

struct cuda_blas {
    void *library; /* owned */
#define CUDA_BLAS_MEMBER(name, symbol) __typeof__(symbol) *name;
    CUDA_BLAS_FUNCTIONS(CUDA_BLAS_MEMBER)
#undef CUDA_BLAS_MEMBER
};
/* Errors: E_DEVICE with what to install. Closed and zeroed by cuda_blas_close. */
enum status cuda_blas_open(struct cuda_blas *b, struct err *e) WARN_UNUSED;
void cuda_blas_close(struct cuda_blas *b);

/* ---- the handle */

/* Sizes that decide what is computed in one go. `rows` is part of the arithmetic: see linear.c. */
struct cuda_tune {
    int64_t rows;  /* rows of every matrix product, a multiple of 8 */
    int64_t vocab; /* columns of the vocabulary in one product of the head, a multiple of 256 */
    size_t staging_bytes; /* of each half of the pinned memory that uploads pass through */
    size_t raw_bytes;     /* of stored elements that wait on the device for their expansion */
    int64_t peak;         /* side of the matrices that the GPU is measured by, a multiple of 8 */
};

struct cuda_mem {
    void *p; /* owned */
    size_t bytes;
};

/* A product's shape, with the one algorithm that computes it. */
struct cuda_gemm {
    int64_t n, k;
    cublasLtMatrixLayout_t w, x, y; /* owned */
    cublasLtMatmulAlgo_t algo;
};

/* An operation whose kernel may report a fault; the name is copied, for its weight may be gone by then. */
struct cuda_watched {
    const char *op; /* static text */
    char name[160];
};
enum { CUDA_WATCHES = 16 };

/* A change of stage in the stream. */
struct cuda_mark {
    cudaEvent_t event; /* owned */
    enum dev_stage stage;
};

/* Rows on their way to the host. */
struct cuda_read {
    void *to;
    const void *from; /* in read_mem */
    size_t n;
};
enum { CUDA_READ_BYTES = 256 * 1024 };

struct cuda_wt; /* weights.c */

struct cuda_dev {
    struct dev base;
    int ordinal;
    struct cuda_tune tune;
    size_t smem_most; /* shared memory a block may have */
    cudaStream_t stream;
    cudaStream_t fetches; /* rows from other GPUs */
    uint64_t reaches;     /* bit n: it has been asked whether GPU n's memory is reached directly */
    struct cuda_blas blas;
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t desc;
    cublasLtMatmulPreference_t pref;
    struct cuda_gemm *gemm; /* owned */
    size_t n_gemm, cap_gemm;

    unsigned char *staging; /* owned: pinned, two halves */
    cudaEvent_t staged[2];  /* the half may be written again */
    int half;
    size_t half_used;
    unsigned char *read_mem; /* owned: pinned [CUDA_READ_BYTES] */
    size_t read_used;
    struct cuda_read *reads; /* owned: what the next wait hands on */
    size_t n_reads, cap_reads;
    unsigned long long *fault, *fault_host; /* owned: device; pinned */
    struct cuda_watched watched[CUDA_WATCHES];
    uint32_t n_watched;
    uint64_t generation;        /* counts memory that was taken or given back */
    struct cuda_record *noting; /* borrowed: a sequence at work (replay.c), or NULL */
    bool capturing;             /* what is queued goes into a graph */

    struct cuda_wt **kept; /* owned: weights in device memory or known to be good */
    size_t n_kept, cap_kept;
    uint64_t clock; /* of releases */

    /* Scratch, which grows only. */
    struct cuda_mem operand, panel, partial, logits, heads, raw, sampling, attending;
    const struct buf *operand_of; /* whose rows `operand` holds, or NULL */
    int64_t operand_rows;

    struct cuda_mark *mark; /* owned */
    size_t n_mark, n_event, cap_mark;
    double seconds[DEV_STAGE_COUNT];
};

static inline struct cuda_dev *cuda_of(struct dev *d) {
    return (struct cuda_dev *)d;
}

/* dev_open_cuda with the sizes named; for tests. */
enum status cuda_open_with(struct dev **out, int ordinal, const struct cuda_tune *t,
                           const struct dev_config *c, struct err *e) WARN_UNUSED;

/* Makes d's GPU the current one and begins an operation of a stage. */
struct cuda_dev *cuda_begin(struct dev *d, enum dev_stage stage);

/* False after dev_fail when a call of the runtime, or of cuBLAS, did not succeed. */
bool cuda_check(struct cuda_dev *d, cudaError_t e, const char *file, int line);
bool cuda_check_blas(struct cuda_dev *d, cublasStatus_t s, const char *file, int line);
#define CUDA_OK(d, call) cuda_check((d), (call), __FILE__, __LINE__)
#define CUDA_BLAS_OK(d, call) cuda_check_blas((d), (call), __FILE__, __LINE__)
/* To be called after a launch. */
#define CUDA_LAUNCHED(d) CUDA_OK((d), cudaGetLastError())

/* ---- waiting, faults and time (sync.c) */

void cuda_sync(struct dev *d);
void cuda_times(const struct dev *d, double seconds[DEV_STAGE_COUNT]);
void cuda_mark_stage(struct cuda_dev *d, enum dev_stage stage);
/* Watches the operation at work, which concerns the weight or thing `name`. */
struct cuda_watch cuda_watch(struct cuda_dev *d, const char *name);
/* Waits, and makes a fault that was reported the sticky error. */
void cuda_settle(struct cuda_dev *d);

/* ---- memory (memory.c) */

/* Device memory, after letting go of weights that nobody uses if need be. Errors: E_NOMEM, E_DEVICE. */
enum status cuda_take(struct cuda_dev *d, size_t bytes, void **out, struct err *e) WARN_UNUSED;
void cuda_give(struct cuda_dev *d, void *p); /* once what is queued has run; NULL allowed */
/* At least `bytes`, contents lost; NULL after dev_fail. */
void *cuda_scratch(struct cuda_dev *d, struct cuda_mem *m, size_t bytes);

/* Queues bytes [0, n) of something for device memory: fill(ctx, at, k, out) writes bytes at.. at+k of it. */
typedef void cuda_fill(const void *ctx, size_t at, size_t k, unsigned char *out);
void cuda_upload(struct cuda_dev *d, void *dst, size_t n, cuda_fill *fill, const void *ctx);
void cuda_upload_bytes(struct cuda_dev *d, void *dst, const void *host, size_t n);

/* Work items of the segments of a buffer: pieces of `rows` of each segment's n_row * group rows. */
struct cuda_plan {
    uint64_t version; /* of the buffer; 0: none yet */
    int n_seg, rows, group;
    int64_t n_item;
    struct cuda_item *host; /* owned */
    size_t cap;
    struct cuda_mem mem;
};
/* What buf->data points at. */
struct cuda_buf {
    unsigned char *p;         /* owned: device memory */
    unsigned char *host;      /* owned: a copy of rows of structs on the host; else NULL */
    uint64_t version;         /* of that copy */
    struct cuda_plan plan[2]; /* of kv_store and of attend */
};
/* Device items for the first n_seg segments; NULL after dev_fail. which: 0 or 1. */
const struct cuda_item *cuda_plan_items(struct cuda_dev *d, const struct buf *seg, int which,
                                        int n_seg, int rows, int group, int64_t *n_item);
/* The rows of a buffer of structs. */
static inline const void *cuda_host_rows(const struct buf *b) {
    return ((const struct cuda_buf *)b->data)->host;
}
static inline const struct dev_seg *cuda_segs(const struct buf *b) {
    return cuda_host_rows(b);
}
static inline void *cuda_at(const struct buf *b, int64_t row) {
    return ((const struct cuda_buf *)b->data)->p + (size_t)row * b->row_bytes;
}
/* To be called for every buffer that an operation writes. */
static inline void cuda_wrote(struct cuda_dev *d, const struct buf *b) {
    if (d->operand_of == b) d->operand_of = NULL;
}

enum status cuda_buf_alloc(struct buf *b, struct err *e);
void cuda_buf_release(struct buf *b);
void cuda_write(struct dev *d, struct buf *dst, int64_t row, int64_t n, const void *host);
void cuda_read(struct dev *d, const struct buf *src, int64_t row, int64_t n, void *host);
void cuda_copy(struct dev *d, struct buf *dst, int64_t dst_row, const struct buf *src,
               int64_t src_row, int64_t n);
void cuda_copy_peer(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                    const struct buf *src, int64_t src_row, int64_t n);

/* ---- sequences that repeat (replay.c) */

struct cuda_record;
/* What a launch of the sequence took from segments: they must fit it when it is launched again. */
struct cuda_condition {
    const struct buf *seg; /* borrowed: as long as the generation is the same */
    int n_seg;
    bool attends; /* else they are stored by */
    int64_t n_row, kv_rows;
    int64_t grid; /* tiles, or pieces, of a row or segment at most */
};
void cuda_note_segs(struct cuda_dev *d, const struct cuda_condition *c);
int64_t cuda_step_tiles(const struct dev_seg *seg, int n_seg);
int64_t cuda_store_pieces(const struct dev_seg *seg, int n_seg);
enum status cuda_replay_open(struct dev_replay *r, struct err *e);
void cuda_replay_close(struct dev_replay *r);
bool cuda_replay_begin(struct dev_replay *r, const void *key, size_t n);
void cuda_replay_end(struct dev_replay *r, bool whole);
void cuda_fetch(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                const struct buf *src, int64_t src_row, int64_t n);

/* ---- weights (weights.c) */

void cuda_wt_prepare(struct dev *d, struct wt *w);
void cuda_wt_release(struct wt *w);
void cuda_wt_drop(struct wt *w);
/* Lets go of one weight that nobody uses; false when there is none. */
bool cuda_wt_evict(struct cuda_dev *d);
/* Elements of a row of operands, zeros included: rows are aligned to 16 bytes. */
int64_t cuda_padded(const struct cuda_dev *d, int64_t n_in);
static inline size_t cuda_word(const struct cuda_dev *d) {
    return d->base.cfg.compute == DT_BF16 ? sizeof(bf16_t) : sizeof(float);
}
/* Rows row..row+n-1 of a prepared matrix as operands [n, cuda_padded(n_in)], until the next call; NULL
 * after dev_fail. */
const void *cuda_wt_panel(struct cuda_dev *d, const struct wt *w, int64_t row, int64_t n);
/* The rows of a prepared matrix of a handle for steps, with their type and how far they lie apart. */
const unsigned char *cuda_wt_stored(const struct cuda_dev *d, const struct wt *w, enum dtype *type,
                                    size_t *row_bytes);
/* The floats of a prepared vector; NULL for NULL. */
const float *cuda_wt_floats(const struct wt *w);
/* The rows of a prepared table as they are stored. */
const unsigned char *cuda_wt_rows(const struct wt *w);

/* ---- operations */

void cuda_linear(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                 const struct wt *bias, int64_t n_row);
void cuda_head(struct dev *d, const struct dev_head *a, int64_t n_row);
/* What all of a head's blocks share, with its scratch; false after dev_fail. */
bool cuda_head_begin(struct cuda_dev *d, const struct dev_head *a, int64_t n_row,
                     struct cuda_head *h);
void cuda_gemm_free(struct cuda_dev *d);
/* The same of a handle for steps (step.c). */
void cuda_step_linear(struct cuda_dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                      const struct wt *bias, int64_t n_row);
void cuda_step_head(struct cuda_dev *d, const struct dev_head *a, int64_t n_row);
void cuda_step_attend(struct cuda_dev *d, const struct dev_attend *a, const struct cuda_attend *at,
                      int64_t n_row);
static inline bool cuda_steps(const struct cuda_dev *d) {
    return d->base.cfg.purpose == DEV_STEPS;
}
void cuda_sample(struct dev *d, const struct dev_sample *a, int64_t n_row);
void cuda_similar(struct dev *d, const struct dev_similar *a, int64_t n_row);
/* The algorithm for y [rows, g->n] = x [rows, g->k] w [g->n, g->k]^T, rows of operands, and a run of it; false
 * after dev_fail. Closed in any case. */
bool cuda_gemm_choose(struct cuda_dev *d, struct cuda_gemm *g, int64_t rows);
bool cuda_gemm_run(struct cuda_dev *d, const struct cuda_gemm *g, const void *w, const void *x,
                   float *y);
void cuda_gemm_close(struct cuda_dev *d, struct cuda_gemm *g);
enum status cuda_measure(struct dev *d, double seconds, struct dev_peaks *out,
                         struct err *e) WARN_UNUSED;
void cuda_embed(struct dev *d, struct buf *y, const struct wt *table, const struct buf *ids,
                double scale, int64_t n_row);
void cuda_norm(struct dev *d, struct buf *y, const struct buf *x, const struct dev_norm *p,
               int64_t n_row);
void cuda_angles(struct dev *d, struct buf *ang, const struct buf *pos, const double *freq,
                 int n_pair, double mscale, int64_t n_row);
void cuda_rope(struct dev *d, struct buf *y, const struct buf *x, const struct buf *ang,
               const struct dev_rope *p, int64_t n_row);
void cuda_kv_store(struct dev *d, struct buf *kv, const struct buf *x, const struct buf *seg,
                   int n_seg);
void cuda_attend(struct dev *d, const struct dev_attend *a, int64_t n_row);
void cuda_clip(struct dev *d, struct buf *y, double most, int64_t n_row);
void cuda_act(struct dev *d, struct buf *y, const struct buf *g, const struct buf *u,
              enum act_kind kind, int64_t n_row);
void cuda_add(struct dev *d, struct buf *y, const struct buf *x, double scale, int64_t n_row);

#endif
