/* The forward pass: one function that reads a family's descriptor. Private to core/. */
#ifndef BASIN_CORE_FORWARD_H
#define BASIN_CORE_FORWARD_H

#include "core/cache.h"
#include "core/span.h"

/* One document's rows in this block. */
struct fwd_part {
    struct cache *cache; /* borrowed */
    int64_t row, n;      /* its rows in the block */
    bool keep;
};

/* Rows of the working K and V buffers that a part's keys take in layers of one class, from `row`
 * on: what its cache holds, then its own n rows. */
struct fwd_place {
    int64_t row;
};

struct fwd {
    const struct model_on *mo; /* borrowed */
    int64_t n_row_most;
    struct buf *ids, *targets, *pos_abs, *pos_query;  /* [n_row_most] */
    struct buf *table_rows;                           /* [n_row_most]: of the position table */
    struct buf *ang_abs[MODEL_MAX_CLASS], *ang_query; /* [n_row_most, n_rot]; by class of layer */
    struct buf *ang_q; /* of queries where they are scaled by what they see; else NULL */
    struct buf *some_pos, *some_ang; /* rows that turn unlike the others: scratch, or NULL */
    int64_t *host_abs, *host_query;  /* owned [n_row_most]: what pos_abs and pos_query hold */
    struct buf *x, *h, *y;           /* ACT [n_row_most, d_model]: the stream, what
                                                         a branch reads, what it adds */
    struct buf *q, *q_sink, *o;      /* ACT [n_row_most, n_head * d_head] */
    struct buf *k, *v;               /* ACT [n_row_most, n_kv * d_head] */
    struct buf *gate, *up;           /* ACT [n_row_most, d_ff] */
    struct buf *logp;                /* BUF_LOGP [n_row_most] */
    struct buf *work_k, *work_v;     /* BUF_KV: grown as needed */
    struct buf *logits;              /* ACT [n_row_most, n_vocab], tests only */
    struct fwd_class {
        struct buf *seg; /* BUF_SEG, grown as needed */
        struct dev_seg *host;
        size_t host_cap;
        int n_seg;
        struct fwd_place *place; /* [n_part] */
        size_t place_cap;
    } * classes;     /* owned [n_class] */
    bool sinks_turn; /* queries turn, and some row meets sinks at another position than its own */
};

enum status fwd_open(struct fwd **out, const struct model_on *mo, int64_t n_row,
                     struct err *e) WARN_UNUSED;
void fwd_close(struct fwd *f);
/* Whether the model can compute the next n tokens of a document under the cache's rule. E_ARG: its
 * positions end before them, or they see more keys than the model is defined for. */
enum status fwd_check(const struct fwd *f, const struct cache *c, int64_t n,
                      struct err *e) WARN_UNUSED;
enum status fwd_keep_logits(struct fwd *f, struct err *e) WARN_UNUSED;

/* Runs rows 0..n_row-1, made of the given parts in order. ids, targets: host i32 [n_row]. logp:
 * host f64 [n_row] written. Stores what the kept parts' caches need; commits nothing. */
enum status fwd_run(struct fwd *f, const struct fwd_part *parts, int n_part, const int32_t *ids,
                    const int32_t *targets, int64_t n_row, double *logp,
                    const struct span_stop *stop, struct err *e) WARN_UNUSED;

#endif
