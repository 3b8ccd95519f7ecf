/* The forward pass: one function that reads a family's descriptor. Private to core/.
 *
 * An engine plans a block of rows (who they are, where their keys lie) and runs it:
 *
 *     fwd_begin(f);
 *     for each run of rows of a document:
 *         fwd_plan_rows(f, rule, pos, row, n);
 *         for each class of layers: fwd_plan_keys(f, cls, &run, &place, e);
 *     st = fwd_run(f, &block, stop, e);     queues the operations
 *     ... more operations on its results ...
 *     st = fwd_finish(f, st, e);            waits for them
 */
#ifndef BASIN_CORE_FORWARD_H
#define BASIN_CORE_FORWARD_H

#include "core/cache.h"
#include "core/span.h"

struct fwd {
    const struct model_on *mo; /* borrowed */
    int64_t n_row_most;
    struct buf *ids, *targets, *pos_abs, *pos_query;  /* [n_row_most] */
    struct buf *table_rows;                           /* [n_row_most]: of the position table */
    struct buf *ang_abs[MODEL_MAX_CLASS], *ang_query; /* [n_row_most, n_rot]; by class of layer */
    struct buf *ang_q; /* of queries where they are scaled by what they see; else NULL */
    struct buf *some_pos, *some_ang; /* rows that turn unlike the others: scratch, or NULL */
    struct buf *x, *h, *y;           /* ACT [n_row_most, d_model]: the stream, what
                                                         a branch (at last the head) reads, what it adds */
    struct buf *q, *q_sink, *o;      /* ACT [n_row_most, n_head * d_head] */
    struct buf *k, *v;               /* ACT [n_row_most, n_kv * d_head] */
    struct buf *gate, *up;           /* ACT [n_row_most, d_ff] */
    struct buf *logp;                /* BUF_LOGP [n_row_most] */
    struct buf *logits;              /* ACT [n_row_most, n_vocab] or NULL */
    struct fwd_class {
        struct buf *seg; /* BUF_SEG, grown as needed */
        struct dev_seg *host;
        size_t host_cap;
        int n_seg;
    } * classes;                    /* owned [n_class] */
    int64_t *host_abs, *host_query; /* owned [n_row_most] */
    int32_t *host_rows;             /* owned [n_row_most] */
    bool *host_past; /* owned [n_row_most]: turns by the angles past the original context */
    struct dev_replay *replay; /* or NULL: see fwd_repeats */
    bool started;              /* what is of no layer is prepared */
    bool sinks_turn; /* queries turn, and some row meets sinks at another position than its own */
};

enum status fwd_open(struct fwd **out, const struct model_on *mo, int64_t n_row,
                     struct err *e) WARN_UNUSED;
void fwd_close(struct fwd *f);
/* From now on the logits of a run's rows are kept. */
enum status fwd_keep_logits(struct fwd *f, struct err *e) WARN_UNUSED;

/* Blocks of few rows come again and again, with all weights prepared: a device that can play them again as a
 * whole does so from now on. */
enum status fwd_repeats(struct fwd *f, struct err *e) WARN_UNUSED;

/* Whether the model can compute tokens pos .. pos + n - 1 of a document under the rule. E_ARG: its
 * positions end before them, or they see more keys than the model is defined for. */
enum status fwd_check(const struct model_on *mo, const struct vis_rule *r, int64_t pos, int64_t n,
                      struct err *e) WARN_UNUSED;

/* Rows row .. row + n - 1 of a block: tokens pos .. pos + n - 1 of one document. */
struct fwd_rows {
    const struct vis_rule *rule;
    int64_t pos, row, n;
};
/* Where their keys lie in the buffers of a layer of one class: sink j at base + j, the window's key j
 * (front <= j < pos) at base + (sinks of the class) + (j - front), own keys from `own` on. Where nothing
 * has been dropped, sinks and window are one run of positions. `aside`: the rows are not part of the
 * document yet, and write nothing but their own keys. */
struct fwd_place {
    int64_t base, front, own;
    bool aside;
};

void fwd_begin(struct fwd *f);
void fwd_plan_rows(struct fwd *f, const struct fwd_rows *rows);
/* Called for the runs of a block in order of rows. Errors: E_NOMEM. */
enum status fwd_plan_keys(struct fwd *f, int cls, const struct fwd_rows *rows,
                          const struct fwd_place *at, struct err *e) WARN_UNUSED;

/* How an engine keeps keys, layer by layer. Both queue operations. */
struct fwd_keys {
    void *ctx; /* borrowed */
    /* The buffers that layer l's places are rows of; its own keys are stored next. */
    void (*open)(void *ctx, int64_t l, struct buf **k, struct buf **v);
    /* They are; layer l attends next, when the keys of earlier tokens have to be in place. NULL: they are. */
    void (*stored)(void *ctx, int64_t l);
};

struct fwd_block {
    struct fwd_keys keys;
    const int32_t *ids, *targets; /* host [n_row] */
    int64_t n_row;
};
/* Queues the planned block; results are in f->logp, f->h (normalised, what the head reads), f->logits.
 * E_CANCEL, E_NOMEM: fwd_finish has to be called all the same. */
enum status fwd_run(struct fwd *f, const struct fwd_block *b, const struct span_stop *stop,
                    struct err *e) WARN_UNUSED;
/* The same in steps, so that layers of several devices can be queued in turn: start, every layer, and the
 * head unless something failed; fwd_end in any case. */
enum status fwd_start(struct fwd *f, const struct fwd_block *b, struct err *e) WARN_UNUSED;
void fwd_layer(struct fwd *f, const struct fwd_block *b, int64_t l);
void fwd_head(struct fwd *f, int64_t n_row);
void fwd_end(struct fwd *f);
/* E_CANCEL when it is asked for; `stop` may be NULL. */
enum status fwd_stopped(const struct span_stop *stop, struct err *e) WARN_UNUSED;
/* Waits; returns `st` of fwd_run, else what went wrong since: E_DEVICE, E_NOMEM, E_FORMAT (weights that
 * hold NaN), E_IO (a model file cut short). */
enum status fwd_finish(struct fwd *f, enum status st, struct err *e) WARN_UNUSED;

#endif
