/* Private to kernels/: what a handle, a buffer and a weight are, and the table that a backend
 * fills.
 *
 * dev.c and dev_ops.c have checked the handle, the shapes and NULLs before an entry of the table is
 * called, and do not call it when an error sticks. What lies in device memory (ids, segments,
 * weights) is checked by the backend. */
#ifndef BASIN_KERNELS_DEV_IMPL_H
#define BASIN_KERNELS_DEV_IMPL_H

#include "kernels/dev.h"

struct buf {
    struct dev *dev; /* borrowed */
    enum buf_kind kind;
    enum dtype dtype;
    int64_t n_row, n_col;
    size_t row_bytes;
    void *data; /* owned by the backend: host or device memory */
};

struct wt {
    struct dev *dev; /* borrowed */
    enum wt_use use;
    struct dev_weight_src src;
    int n_prepared; /* prepares that still wait for their release */
    void *state;    /* owned by the backend, which may keep it between prepares; NULL at first */
};

struct dev_event {
    struct dev *dev; /* borrowed */
    void *state;     /* owned by the backend */
};

struct dev_replay {
    struct dev *dev; /* borrowed */
    void *state;     /* owned by the backend */
};

/* One per backend; static const; every entry but `memory` (then it is the host's), `measure`, `mlp` and those
 * of `replay` is there. */
struct dev_ops {
    const char *kind;
    bool makes; /* made-up weights */
    void (*close)(struct dev *d);
    void (*sync)(struct dev *d);                /* waits; failures through dev_fail */
    struct dev_memory (*memory)(struct dev *d); /* optional: else it is the host's */
    void (*times)(const struct dev *d, double seconds[DEV_STAGE_COUNT]);
    enum status (*measure)(struct dev *d, double seconds, struct dev_peaks *out, struct err *e);

    enum status (*buf_alloc)(struct buf *b,
                             struct err *e); /* n_row * row_bytes, does not overflow */
    void (*buf_release)(struct buf *b);
    void (*write)(struct dev *d, struct buf *dst, int64_t row, int64_t n, const void *host);
    void (*read)(struct dev *d, const struct buf *src, int64_t row, int64_t n, void *host);

    void (*wt_prepare)(struct dev *d, struct wt *w); /* sets w->state, or fails through dev_fail */
    void (*wt_release)(struct wt *w);                /* may keep w->state for the next prepare */
    void (*wt_drop)(struct wt *w);                   /* the weight goes: frees w->state */

    void (*embed)(struct dev *d, struct buf *y, const struct wt *table, const struct buf *ids,
                  double scale, int64_t n_row);
    void (*norm)(struct dev *d, struct buf *y, const struct buf *x, const struct dev_norm *p,
                 int64_t n_row);
    void (*linear)(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                   const struct wt *bias, int64_t n_row);
    void (*angles)(struct dev *d, struct buf *ang, const struct buf *pos, const double *freq,
                   int n_pair, double mscale, int64_t n_row);
    void (*rope)(struct dev *d, struct buf *y, const struct buf *x, const struct buf *ang,
                 const struct dev_rope *p, int64_t n_row);
    void (*kv_store)(struct dev *d, struct buf *kv, const struct buf *x, const struct buf *seg,
                     int n_seg);
    void (*attend)(struct dev *d, const struct dev_attend *a, int64_t n_row);
    void (*act)(struct dev *d, struct buf *y, const struct buf *g, const struct buf *u,
                enum act_kind kind, int64_t n_row);
    void (*add)(struct dev *d, struct buf *y, const struct buf *x, double scale, int64_t n_row);
    /* Optional; false: these rows are better off with linear, act, linear. */
    bool (*mlp)(struct dev *d, const struct dev_mlp *p, int64_t n_row);
    void (*clip)(struct dev *d, struct buf *y, double most, int64_t n_row);
    void (*head)(struct dev *d, const struct dev_head *a, int64_t n_row);
    void (*sample)(struct dev *d, const struct dev_sample *a, int64_t n_row);
    void (*similar)(struct dev *d, const struct dev_similar *a, int64_t n_row);
    void (*copy)(struct dev *d, struct buf *dst, int64_t dst_row, const struct buf *src,
                 int64_t src_row, int64_t n);
    /* Both handles have this table, in fetch as well. */
    void (*copy_peer)(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                      const struct buf *src, int64_t src_row, int64_t n);

    void (*fetch)(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                  const struct buf *src, int64_t src_row, int64_t n);

    /* Optional, all or none. */
    enum status (*replay_open)(struct dev_replay *r, struct err *e);
    void (*replay_close)(struct dev_replay *r);
    bool (*replay_begin)(struct dev_replay *r, const void *key, size_t n);
    void (*replay_end)(struct dev_replay *r, bool whole);

    enum status (*event_open)(struct dev_event *ev, struct err *e);
    void (*event_close)(struct dev_event *ev);
    void (*event_record)(struct dev *d, enum dev_queue q, struct dev_event *ev);
    void (*event_wait)(struct dev *d, enum dev_queue q, const struct dev_event *ev);
};

/* The first member of every backend's own handle. */
struct dev {
    const struct dev_ops *ops; /* static */
    struct dev_config cfg;
    enum dtype act, kv; /* element types of BUF_ACT (and BUF_ANGLE) and of BUF_KV */
    int ordinal;
    char describe[96];
    const char *op; /* name of the operation at work: static text */
    struct err err; /* sticky */
    double seconds[DEV_STAGE_COUNT];
};

/* Makes (code, "op: text") the sticky error unless there is one. Not from inside a parallel region.
 */
void dev_fail(struct dev *d, enum status code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Checks a configuration; shared by the open functions. Errors: E_ARG. */
enum status dev_config_check(const struct dev_config *c, struct err *e) WARN_UNUSED;

/* Stored row of logical row i. */
static inline int64_t dev_src_row(const struct dev_weight_src *s, int64_t i) {
    return s->first + i / s->block * s->stride + i % s->block;
}

/* Where that row begins. */
static inline const unsigned char *dev_src_ptr(const struct dev_weight_src *s, int64_t i) {
    return (const unsigned char *)s->data +
           (size_t)dev_src_row(s, i) * dtype_row_bytes(s->dtype, s->n_in);
}

/* Where element (i, k) of a transposed matrix lies. */
static inline const unsigned char *dev_src_transposed(const struct dev_weight_src *s, int64_t i,
                                                      int64_t k) {
    return (const unsigned char *)s->data +
           (size_t)(k * s->n_stored_rows + dev_src_row(s, i)) * dtype_bytes(s->dtype);
}

/* Converts n elements at p (any alignment; whole blocks) to float. False when one of them is NaN or
 * infinite. */
bool dev_src_floats(float *out, const unsigned char *p, enum dtype type, int64_t n);

/* ---- entries shared by the backends whose memory is the host's (dev_host.c)
 * ------------------------ */

void dev_host_sync(struct dev *d);
void dev_host_times(const struct dev *d, double seconds[DEV_STAGE_COUNT]);
enum status dev_host_buf_alloc(struct buf *b, struct err *e);
void dev_host_buf_release(struct buf *b);
void dev_host_write(struct dev *d, struct buf *dst, int64_t row, int64_t n, const void *host);
void dev_host_read(struct dev *d, const struct buf *src, int64_t row, int64_t n, void *host);
void dev_host_copy(struct dev *d, struct buf *dst, int64_t dst_row, const struct buf *src,
                   int64_t src_row, int64_t n);
void dev_host_copy_peer(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                        const struct buf *src, int64_t src_row, int64_t n);
enum status dev_host_event_open(struct dev_event *ev, struct err *e);
void dev_host_event_close(struct dev_event *ev);
void dev_host_event_record(struct dev *d, enum dev_queue q, struct dev_event *ev);
void dev_host_event_wait(struct dev *d, enum dev_queue q, const struct dev_event *ev);

/* Checks segments against the rows of the block and of the key buffer; dev_fail(E_BUG) and false
 * when a key they name lies outside. With `cover` the segments must cover rows 0..n_row-1 without
 * gaps. Without `reads` only the rows that kv_store writes are checked. */
bool dev_host_segs_ok(struct dev *d, const struct dev_seg *seg, int n_seg, int64_t n_row,
                      int64_t kv_rows, bool cover, bool reads);

/* Checks the rows of dev_sample and their entries against the buffers; dev_fail(E_BUG) and false
 * when one lies outside. rows, entries: what a->rows and a->adjust hold, in host memory. */
bool dev_sample_rows_ok(struct dev *d, const struct dev_sample *a,
                        const struct dev_sample_row *rows, const struct dev_adjust *entries,
                        int64_t n_row);
bool dev_host_sample_ok(struct dev *d, const struct dev_sample *a, int64_t n_row);

/* One past row `row` of a host buffer, as bytes. */
static inline void *dev_host_row(const struct buf *b, int64_t row) {
    return (unsigned char *)b->data + (size_t)row * b->row_bytes;
}

/* Token of row r of a segment, its lowest visible window key, and the position of its query among
 * the keys it sees, by which sinks are measured. */
static inline int64_t dev_seg_low(const struct dev_seg *s, int64_t r) {
    return s->low + (s->moves ? r : 0);
}
static inline int64_t dev_seg_first_win(const struct dev_seg *s, int64_t r) {
    const int64_t low = dev_seg_low(s, r);
    return low > s->n_sink ? low : s->n_sink;
}
static inline int64_t dev_seg_query_pos(const struct dev_seg *s, int64_t r) {
    const int64_t over = dev_seg_low(s, r) - s->n_sink;
    return s->pos + r - (over > 0 ? over : 0);
}

/* Row of the K and V buffers that holds key j. */
static inline int64_t dev_seg_key_row(const struct dev_seg *s, int64_t j) {
    if (j < s->n_sink) return s->sink_row + j;
    return j < s->pos ? s->old_row + (j - s->old_pos) : s->own_row + (j - s->pos);
}

#endif
