/* The seam between the mathematics (core/) and the machines: a table of operations on a device handle.
 *
 * A handle (`struct dev`) is one device: `ref` (plain loops in double, the oracle of every kernel), `cpu`
 * (SIMD + OpenMP) or one GPU. Several handles of any kind live in one process. A handle and everything made
 * from it belong to one thread at a time; handles share no mutable state.
 *
 * Operations return nothing. They may run asynchronously, in the order given, and the first failure (shape,
 * memory, device) sticks to the handle: later operations do nothing and dev_sync() reports it with the name
 * of the operation, so that a forward pass reads as mathematics. All operations take blocks of rows, rows
 * 0..n_row-1 of their buffers; one row is not special. kernels/dev.c checks shapes once for all backends.
 *
 * Promise every backend keeps (DESIGN section 7): each output element is summed in an order that does not
 * depend on how many rows run beside it, on threads, or on where a block of rows begins.
 *
 * Dtypes. Activations are f32 (f64 on ref). With compute dtype bf16 matrix operands are rounded to bf16 and
 * products are accumulated in f32; the residual stream, norms, softmax and log-sum-exp stay in f32. KV
 * buffers hold the cache dtype: bf16 in a bf16 run, f32 in an f32 run (f64 on ref; see dev_config). */
#ifndef BASIN_KERNELS_DEV_H
#define BASIN_KERNELS_DEV_H

#include "base/cpu.h"
#include "base/dtype.h"
#include "base/err.h"

struct dev; /* opaque: one device */
struct buf; /* opaque: rows of one type in a device's memory */
struct wt;  /* opaque: a weight as a device sees it */
struct dev_event;

/* ---- the handle -------------------------------------------------------------------------------------- */

enum dev_purpose {
    DEV_BLOCKS, /* blocks of many rows: matrices are expanded when they are prepared */
    DEV_STEPS   /* steps of few rows: matrices stay as stored and are read once for all rows. Every
                   operation takes any number of rows and gives a row the same bits alone or among
                   others; they agree with DEV_BLOCKS within the budgets of the compute dtype.
                   ref does not care */
};

struct dev_config {
    int n_thread;     /* cpu: OpenMP team size, at least 1 */
    enum cpu_isa isa; /* cpu: instruction set, at most what cpu_isa_best() says */
    enum dtype
        compute; /* DT_F32 or DT_BF16. ref computes in double; with DT_BF16 it still rounds K and V
                           to bf16 values when they are stored, so that it models that cache */
    enum dev_purpose purpose;
    bool
        int8; /* cpu, DT_BF16: products of int8, a class of precision of its own (tests/test_decode.c).
                  DEV_BLOCKS: rows and matrices are rounded, by a scale per row and 64 elements.
                  DEV_STEPS: rows that meet quantized matrices, by 32 elements (16 for Q6_K).
                  ref: does nothing; cuda: E_UNSUPPORTED */
};

enum status dev_open_ref(struct dev **out, const struct dev_config *c, struct err *e) WARN_UNUSED;
enum status dev_open_cpu(struct dev **out, const struct dev_config *c, struct err *e) WARN_UNUSED;

/* GPUs this process may use; 0 in a build without CUDA. */
int dev_cuda_count(void);
/* Errors: E_UNSUPPORTED in a build without CUDA, E_DEVICE when there is no such GPU. */
enum status dev_open_cuda(struct dev **out, int ordinal, const struct dev_config *c,
                          struct err *e) WARN_UNUSED;
void dev_close(struct dev *d);

const char *dev_kind(const struct dev *d); /* "ref", "cpu", "cuda": the `device` of a result row */
const char *dev_describe(const struct dev *d); /* for people: "cpu avx512 bf16, 2 threads" */
int dev_ordinal(const struct dev *d);          /* of a GPU, as it was opened; else 0 */
enum dtype dev_kv_dtype(const struct dev *d);  /* element type of BUF_KV buffers */

/* Memory that buffers and weights can be taken from now; total_bytes 0: not known. The device need not be idle. */
struct dev_memory {
    int64_t free_bytes, total_bytes;
};
struct dev_memory dev_memory(struct dev *d);

/* Waits for everything in both queues; reports and clears the sticky error ("attend: ..."). */
enum status dev_sync(struct dev *d, struct err *e) WARN_UNUSED;

/* ---- buffers ----------------------------------------------------------------------------------------- */

enum buf_kind {
    BUF_ACT, /* activations                      f32 (ref f64) [n_row, n_col] */
    BUF_KV,  /* keys or values                   kv dtype      [n_row, n_kv * d_head] */
    BUF_ID,  /* token ids, targets               i32           [n_row] */
    BUF_POS, /* positions                        i64           [n_row] */
    BUF_ANGLE, /* cos and sin of rotary angles     f32 (ref f64) [n_row, 2 * n_pair]: n_pair cos, n_pair sin */
    BUF_LOGP,   /* log-probabilities                f64           [n_row] */
    BUF_SEG,    /* struct dev_seg                                 [n_row] */
    BUF_SAMPLE, /* struct dev_sample_row                        [n_row] */
    BUF_ADJUST  /* struct dev_adjust                            [n_row] */
};

/* Contents undefined. Errors: E_NOMEM. Freed by buf_free (NULL allowed); must not outlive its device. */
enum status buf_new(struct buf **out, struct dev *d, enum buf_kind kind, int64_t n_row,
                    int64_t n_col, struct err *e) WARN_UNUSED;
void buf_free(struct buf *b);
int64_t buf_rows(const struct buf *b);
size_t buf_row_bytes(const struct buf *b);
enum dtype buf_dtype(const struct buf *b); /* not for buffers of structs */

/* Host to device and back, rows [row, row + n), in the buffer's own element type. dev_write has taken what
 * it needs from `host` when it returns. dev_read's result is there after the next dev_sync(). */
void dev_write(struct dev *d, struct buf *dst, int64_t row, int64_t n, const void *host);
void dev_read(struct dev *d, const struct buf *src, int64_t row, int64_t n, void *host);

/* ---- weights ----------------------------------------------------------------------------------------- */

/* Where a weight lies in a mapped file. Logical row i is stored row first + (i / block) * stride + i % block,
 * so that fused tensors (qkv in one, per head or not) are taken apart by description, without a copy. */
struct dev_weight_src {
    const char *name; /* borrowed: appears in errors */
    const void *data; /* borrowed: must stay mapped until the weight is freed; any alignment */
    enum dtype
        dtype; /* dtype_is_weight(), or DT_F64 for a vector; n_in is a multiple of its block */
    int64_t n_out, n_in; /* logical shape [n_out, n_in], row-major */
    int64_t
        n_stored_rows; /* rows of the stored tensor [n_stored_rows, n_in]: bounds are checked against it */
    int64_t first, block, stride; /* whole tensor in order: 0, n_out, 0 */
    bool transposed; /* stored as [n_in, n_stored_rows] (WT_MATRIX only, elements that stand alone):
                        element (i, k) is number k * n_stored_rows + (stored row of i) */
    uint64_t
        made; /* not 0: the elements (DT_BF16, no WT_VECTOR) are made up, those of dev_made_fill under
                      this seed. A device that makes them itself does not read `data`, which may be NULL */
    int made_shift;
};

/* Elements first .. first + n - 1 of a made-up tensor, first a multiple of 8: element 8 i + j is byte j (the
 * lowest is 0), as a signed integer, of the splitmix64 value number i after `seed`, times 2^-shift. Source:
 * Steele et al., Fast splittable pseudorandom number generators, OOPSLA 2014. On n_thread threads. */
void dev_made_fill(bf16_t *out, uint64_t seed, int shift, int64_t first, int64_t n, int n_thread);
/* Whether the device makes elements itself. */
bool dev_makes(const struct dev *d);

enum wt_use {
    WT_MATRIX, /* right-hand side of dev_linear and dev_head */
    WT_TABLE,  /* rows looked up by dev_embed */
    WT_VECTOR  /* n_in = 1: norm weights, biases, slopes */
};

/* Registers a weight. Reads none of its data. Errors: E_NOMEM, E_UNSUPPORTED (dtype), E_BUG (shape). */
enum status dev_weight_new(struct wt **out, struct dev *d, enum wt_use use,
                           const struct dev_weight_src *src, struct err *e) WARN_UNUSED;
void dev_weight_free(struct wt *w);

/* Makes weights ready for use (map, convert, pack into panels, upload) and lets them go again. Both may be
 * asynchronous. prepare nests: a weight is let go when every prepare has had its release. A weight that holds
 * NaN or infinity makes prepare fail by its name (E_FORMAT, sticky). WT_TABLE rows are read as they are
 * stored and are checked when they are looked up. NULL entries are skipped. */
void dev_weights_prepare(struct dev *d, struct wt *const *list, int n);
void dev_weights_release(struct dev *d, struct wt *const *list, int n);

/* ---- who sees what ----------------------------------------------------------------------------------- */

/* A run of consecutive rows of one document. core/vis.c makes these; no backend re-implements eviction.
 *
 * Row r of the segment (0 <= r < n_row) is row first_row + r of the block and token t = pos + r of its
 * document. With low_r = low + (moves ? r : 0), which may be negative, it sees the keys
 *     sinks   j = 0 .. min(n_sink - 1, t)
 *     window  j = max(n_sink, low_r) .. t
 * Sinks are met by q_sink, window keys by q_win. Key j lies in the K and V buffers at row
 *     j <  n_sink           sink_row + j
 *     n_sink <= j < pos     old_row + (j - old_pos)       keys that came in through the cache
 *     j >= pos              own_row + (j - pos)           keys of this block of rows
 * (a sink j >= pos is read at sink_row + j, too: dev_kv_store puts it there). Rows that are candidates and
 * not yet part of the document are segments of one row that share sink_row and old_row. */
struct dev_seg {
    int32_t first_row, n_row;
    int64_t pos;
    int64_t low;
    int32_t n_sink;
    int32_t moves;
    int64_t sink_row;
    int64_t old_row, old_pos;
    int64_t own_row;
};

/* ---- operations -------------------------------------------------------------------------------------- */

/* y[i] = scale * table[ids[i]].   y ACT [n_row, d] written; ids BUF_ID read.
 * Sticky E_ARG when an id lies outside the table; E_FORMAT when a looked-up row is not finite. */
void dev_embed(struct dev *d, struct buf *y, const struct wt *table, const struct buf *ids,
               double scale, int64_t n_row);

enum norm_kind {
    NORM_RMS,  /* x * rsqrt(mean(x^2) + eps) * w          Zhang & Sennrich, arXiv:1910.07467 */
    NORM_LAYER /* (x - mean) * rsqrt(var + eps) * w + b   Ba et al., arXiv:1607.06450 */
};
struct dev_norm {
    enum norm_kind kind;
    double eps;
    double weight_offset;    /* added to w: 1 for Gemma, else 0 */
    const struct wt *weight; /* WT_VECTOR [n_col / n_group] */
    const struct wt *bias;   /* the same, or NULL */
    int n_group;             /* 1, or the number of heads when each head is normalised by itself */
};
/* y = norm(x) row by row.   y, x ACT [n_row, n_col]; y may be x. */
void dev_norm(struct dev *d, struct buf *y, const struct buf *x, const struct dev_norm *p,
              int64_t n_row);

/* y = x W^T + bias.   y ACT [n_row, n_out] written; x ACT [n_row, n_in] read; W WT_MATRIX prepared;
 * bias WT_VECTOR [n_out] prepared, or NULL. */
void dev_linear(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                const struct wt *bias, int64_t n_row);

/* ang[i] = mscale * (cos, sin)(pos[i] * freq[k]), k = 0..n_pair-1, the product and the reduction in double.
 * ang BUF_ANGLE [n_row, 2 * n_pair] written; pos BUF_POS read; freq host f64 [n_pair] read at the call. */
void dev_angles(struct dev *d, struct buf *ang, const struct buf *pos, const double *freq,
                int n_pair, double mscale, int64_t n_row);

struct dev_rope {
    int n_head, d_head;
    int n_rot; /* leading dimensions of a head that turn, even, at most d_head; the rest is copied */
    bool interleaved; /* pairs (2k, 2k+1) instead of (k, k + n_rot/2) */
};
/* Rotary position embedding: each pair (a, b) becomes (a cos - b sin, b cos + a sin).
 * y, x ACT [n_row, n_head * d_head]; y may be x; ang BUF_ANGLE [n_row, n_rot].
 * Source: Su et al., arXiv:2104.09864. */
void dev_rope(struct dev *d, struct buf *y, const struct buf *x, const struct buf *ang,
              const struct dev_rope *p, int64_t n_row);

/* Rounds rows of x to the cache dtype and puts them where the segments say their own keys lie: row
 * first_row + r goes to own_row + r and, where pos + r < n_sink, to sink_row + pos + r as well.
 * kv BUF_KV [*, n_col] written; x ACT [n_row, n_col] read; seg BUF_SEG, the first n_seg rows. */
void dev_kv_store(struct dev *d, struct buf *kv, const struct buf *x, const struct buf *seg,
                  int n_seg);

struct dev_attend {
    struct buf *out;         /* ACT [n_row, n_head * d_head] written */
    const struct buf *q_win; /* ACT, the same shape: queries for window keys, rotated at t */
    const struct buf
        *q_sink; /* ACT, the same shape: queries for sinks, rotated at p; may equal q_win */
    const struct buf *k, *v; /* BUF_KV [*, n_kv * d_head] */
    const struct buf
        *seg; /* BUF_SEG, the first n_seg rows; they cover rows 0..n_row-1 without gaps */
    int n_seg;
    int n_head, n_kv, d_head;
    double scale;   /* of the scores, usually 1 / sqrt(d_head) */
    double softcap; /* s = softcap * tanh(s / softcap) when > 0 */
    const struct wt
        *slopes; /* ALiBi: WT_VECTOR [n_head], or NULL. Adds -slope * distance, where a window
                                 key's distance is t - j and sink j's is p - j, p = t - max(0, low_r - n_sink) */
};
/* out = softmax(scale q k^T [+ bias]) v over the keys that each row sees; head h reads kv head
 * h / (n_head / n_kv). Keys are taken sinks first, then in tiles cut at absolute positions; a tile in which a
 * row sees nothing leaves that row untouched.
 * Source: Xiao et al., arXiv:2309.17453, section 3.2; DESIGN section 1. */
void dev_attend(struct dev *d, const struct dev_attend *a, int64_t n_row);

enum act_kind { ACT_SILU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_RELU };
/* y = act(g) * u, or act(g) when u is NULL.   All ACT [n_row, n_col]; y may be g or u. */
void dev_act(struct dev *d, struct buf *y, const struct buf *g, const struct buf *u,
             enum act_kind kind, int64_t n_row);

/* y += scale * x.   ACT, the same shape. */
void dev_add(struct dev *d, struct buf *y, const struct buf *x, double scale, int64_t n_row);

/* y = min(max(y, -most), most); NaN stays.   y ACT [n_row, n_col]; most > 0. */
void dev_clip(struct dev *d, struct buf *y, double most, int64_t n_row);

struct dev_mlp {
    struct buf *y;                     /* ACT [n_row, d] written */
    const struct buf *x;               /* ACT [n_row, d] read */
    const struct wt *gate, *up, *down; /* WT_MATRIX prepared [n_ff, d] (gate may be NULL),
                                                   [n_ff, d], [d, n_ff] */
    const struct wt *gate_bias, *up_bias, *down_bias; /* WT_VECTOR prepared, or NULL */
    enum act_kind act;
    struct buf *gate_room, *up_room; /* ACT [n_row, n_ff]: contents undefined afterwards */
};
/* y = down(act(gate(x)) * up(x)), or down(act(up(x))): dev_linear, dev_act, dev_linear, with the same
 * bytes; a backend may keep what lies between from ever leaving its caches. */
void dev_mlp(struct dev *d, const struct dev_mlp *p, int64_t n_row);

struct dev_head {
    struct buf *logp;         /* BUF_LOGP written */
    const struct buf *x;      /* ACT [n_row, d]: normalised hidden rows */
    const struct wt *w;       /* WT_MATRIX [n_vocab, d] prepared */
    const struct wt *bias;    /* WT_VECTOR [n_vocab] or NULL */
    const struct buf *target; /* BUF_ID; -1: no prediction wanted, logp is NaN */
    double scale;             /* logits = scale * (x W^T + bias) */
    double softcap;           /* logits = softcap * tanh(logits / softcap) when > 0 */
    struct buf
        *logits; /* ACT [n_row, n_vocab] written, or NULL: for tests; never in a scoring run */
};
/* logp[i] = log softmax(logits[i])[target[i]], fused over blocks of the vocabulary. A row whose logits hold
 * NaN or infinity gets logp NaN; the other rows are not touched by it. */
void dev_head(struct dev *d, const struct dev_head *a, int64_t n_row);

/* A change to one logit, in this order: l += before; l = l > 0 ? l / scale : l * scale; l += after. `after`
 * of -INFINITY bans the id. core/sample.h says what they are for. */
struct dev_adjust {
    int32_t id;
    double before, scale, after;
};

/* How one row of logits becomes a token. Its entries are adjust .. adjust + n_adjust - 1 of a->adjust, no
 * id twice. */
struct dev_sample_row {
    int32_t logits_row;  /* which row of the logits; several may take the same one */
    int32_t n_top;       /* entries of its top list, at most a->n_top */
    bool top_adjusted;   /* the list holds the most probable after the changes, not before */
    int32_t top_k;       /* 0: all */
    double temperature;  /* 0: greedy; else 1e-6 .. 1e6 */
    double top_p, min_p; /* 1, 0: all */
    double u;            /* uniform in [0, 1) */
    int64_t adjust, n_adjust;
};

/* logits        ACT        [*, n_vocab] read
 * rows          BUF_SAMPLE [n_row] read
 * adjust        BUF_ADJUST read, or NULL when no row has entries
 * id            BUF_ID     [n_row] written: the token; -1: the logits are not finite; -2: every id is banned
 * logp          BUF_LOGP   [n_row] written: log softmax of the unchanged logits, at that id
 * top_id        BUF_ID     [n_row * n_top] written: row i's list from i * n_top on, the most probable first,
 *                          the lower id first on ties, nothing banned when top_adjusted; -1 past its end
 * top_logp      BUF_LOGP   the same: log softmax of the unchanged logits
 * top_adjusted  BUF_LOGP   the same: of the changed logits (temperature, top_k, top_p and min_p have no part in
 *                          it); NaN for rows without top_adjusted
 * The last three may be NULL when n_top is 0. */
struct dev_sample {
    const struct buf *logits, *rows, *adjust;
    struct buf *id, *logp;
    int n_top;
    struct buf *top_id, *top_logp, *top_adjusted;
};
/* Chooses a token per row. With y the changed logits of the row (struct dev_adjust):
 *   greedy           the largest y, the lowest id on ties
 *   temperature T    z = y / T;
 *                    top_k keeps every z that is at least the k-th largest;
 *                    top_p the shortest run of those, the largest z first and the lower id first on ties,
 *                    whose exp(z) add up to at least top_p of the sum over those;
 *                    min_p those of them with exp(z) >= min_p * exp(largest z);
 *                    the token is the first id, in order of ids, at which the cumulated exp(z) of what is
 *                    kept is above u times its sum.
 * logp of a row equals dev_head's for that id, bit for bit. Sums are taken in one order, whatever other
 * rows there are. Sticky E_BUG when a row is out of range or names a logits row, an entry or an id outside its buffer. */
void dev_sample(struct dev *d, const struct dev_sample *a, int64_t n_row);

/* out[i] = the largest cosine between row i of x and any row of y: max over j of x_i . y_j / (|x_i| |y_j|), 0
 * where one of them is 0; NaN where x_i is not finite.
 * out BUF_LOGP [n_row] written from row out_row on; x ACT rows row .. row + n_row - 1; y ACT, the first
 * n_y >= 1 rows, the same width. */
struct dev_similar {
    struct buf *out;
    int64_t out_row;
    const struct buf *x;
    int64_t row;
    const struct buf *y;
    int64_t n_y;
};
void dev_similar(struct dev *d, const struct dev_similar *a, int64_t n_row);

/* Rows [src_row, src_row + n) of src to dst, the same kind and width, not overlapping. */
void dev_copy(struct dev *d, struct buf *dst, int64_t dst_row, const struct buf *src,
              int64_t src_row, int64_t n);

/* Between two devices, ordered after what is queued on both. Element types must agree. */
void dev_copy_peer(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                   const struct buf *src, int64_t src_row, int64_t n);

/* A device has two queues. Operations, copies and dev_copy_peer go to the first; the second has rows that come
 * in from other devices meanwhile. Each is in order, and neither waits for the other but by events. What a
 * call checks on the host it checks at once. */
enum dev_queue { DEV_QUEUE, DEV_FETCHES };

/* Rows from another handle, in dst_dev's second queue. Nothing else is waited for: an event says when the rows
 * are there to be read, and others when they have come and when both buffers may be written again. Element
 * types must agree. Between devices of different kinds it is dev_copy_peer. */
void dev_fetch(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
               const struct buf *src, int64_t src_row, int64_t n);

/* Marks a point in a queue of the event's own device d, and makes a queue of any device wait for the point
 * that was marked last before this call; for nothing when there is none. */
enum status dev_event_new(struct dev_event **out, struct dev *d, struct err *e) WARN_UNUSED;
void dev_event_free(struct dev_event *ev);
void dev_event_record(struct dev *d, enum dev_queue q, struct dev_event *ev);
void dev_event_wait(struct dev *d, enum dev_queue q, const struct dev_event *ev);

/* ---- sequences that repeat
 *
 * A sequence of operations that is the same from step to step but for what lies in its buffers may be played
 * again as a whole, where the device can do that (a GPU opened for DEV_STEPS; elsewhere *out is NULL, and the
 * functions take that for "run it"):
 *
 *     dev_write(...);                           what changes from step to step
 *     if (!dev_replay_begin(r, &key, sizeof key)) {
 *         ... the operations, without dev_write, dev_read, dev_sync or preparing weights ...
 *         dev_replay_end(r, true);
 *     }
 *
 * The key (at most 64 bytes, no padding) says all that decides which operations these are; buffers may be
 * freed and made anew, segments change, as they like. True: the operations are queued, and must be left out.
 * With `whole` false the sequence has been given up: what was recorded of it is forgotten, and may or may not
 * have run. Its time counts as DEV_OTHER once it is played. Errors of the operations stick as always. */
struct dev_replay;
enum status dev_replay_new(struct dev_replay **out, struct dev *d, struct err *e) WARN_UNUSED;
void dev_replay_free(struct dev_replay *r); /* NULL allowed */
bool dev_replay_begin(struct dev_replay *r, const void *key, size_t n);
void dev_replay_end(struct dev_replay *r, bool whole);

/* Seconds spent per stage since the handle was opened, for `bench` and run records. */
enum dev_stage {
    DEV_LINEAR, /* with the activation, where dev_mlp does all at once */
    DEV_ATTEND,
    DEV_HEAD,
    DEV_PREPARE,
    DEV_ROWS, /* row by row: embeddings, norms, rotary angles, activations, sums */
    DEV_OTHER,
    DEV_STAGE_COUNT
};
void dev_times(const struct dev *d, double seconds[DEV_STAGE_COUNT]);

/* What the device can do at most, by trying. */
struct dev_peaks {
    double flops; /* floating-point operations a second of matrix products in the compute dtype */
    double
        read_bytes; /* bytes a second, of memory read once; a GPU's: of its own memory, read and written */
};
/* Takes a little more than `seconds` for each figure. Not for use while operations are queued.
 * Errors: E_UNSUPPORTED (ref, which has no speed to speak of), E_NOMEM. */
enum status dev_measure(struct dev *d, double seconds, struct dev_peaks *out,
                        struct err *e) WARN_UNUSED;

#endif
