/* The span engine: blocks of rows (tokens) through the whole model.
 *
 * A span is a block of up to n_row rows made of segments of several documents. All rows pass layer
 * l before any passes l + 1, so each layer's weights are read once per span. Only caches pass from
 * span to span. The results of a row do not depend on what else is in the span or where spans begin
 * (DESIGN sections 2, 7).
 *
 *     span_add(sp, cache_a, ids, targets, n, true, &row);
 *     span_add(sp, cache_b, ...);
 *     span_run(sp, &stop, e);
 *     logp = span_logp(sp) + row;
 *     span_clear(sp);
 *
 * Belongs to one thread, the one of its device. */
#ifndef BASIN_CORE_SPAN_H
#define BASIN_CORE_SPAN_H

#include "core/cache.h"
#include "core/model.h"

struct span; /* opaque */

/* Asked between layers; true makes span_run give up with E_CANCEL. `asked` may be NULL. */
struct span_stop {
    bool (*asked)(void *ctx);
    void *ctx;
};

/* Errors: E_NOMEM, E_DEVICE. */
enum status span_open(struct span **out, const struct model_on *mo, int64_t n_row,
                      struct err *e) WARN_UNUSED;
/* The same over several devices of one kind and dtype, mo[0 .. n_dev - 1] of the same model: the rows of each
 * span are cut over them in order. Per layer, a device takes the keys and values that its rows see, sinks
 * included, from those before it, and the first one those of the caches, which are all on it (cache_open
 * with mo[0]); rows move beside the operations. Results and caches have the bytes of one device. span_hidden,
 * span_keep_logits and span_logits are for one device. Belongs, with all the devices, to one thread.
 * Errors: also E_ARG (devices of different kinds). */
enum status span_open_over(struct span **out, const struct model_on *const *mo, int n_dev,
                           int64_t n_row, struct err *e) WARN_UNUSED;
void span_close(struct span *sp);

int64_t span_room(const struct span *sp); /* rows that can still be added */
int64_t span_rows(const struct span *sp); /* rows added since the last span_clear */

/* Adds the next n tokens (1 <= n <= span_room) of the document behind `c`, at most once per
 * document and span. ids i32 [n]; targets i32 [n]: the token whose log-probability is wanted after
 * each, or -1. keep: more tokens of this document follow in later spans. *row: where its results
 * begin. Errors, before anything is added: E_ARG for ids outside the vocabulary, and as span_check. Copies what it is given; `c` is
 * borrowed until span_clear. */
enum status span_add(struct span *sp, struct cache *c, const int32_t *ids, const int32_t *targets,
                     int64_t n, bool keep, int64_t *row, struct err *e) WARN_UNUSED;

/* Whether the model can compute the next n tokens of the document behind `c`. E_ARG where its
 * positions end before them, or where they see more keys than it is defined for. */
enum status span_check(const struct span *sp, const struct cache *c, int64_t n,
                       struct err *e) WARN_UNUSED;

/* Runs what was added and advances the caches that are kept. On failure (E_CANCEL, E_NOMEM,
 * E_DEVICE, E_FORMAT for weights that hold NaN, E_IO for a model file cut short) no cache has
 * changed. */
enum status span_run(struct span *sp, const struct span_stop *stop, struct err *e) WARN_UNUSED;

/* f64 [span_rows]: log P(target | context), natural log; NaN where no target was given and where
 * the logits were not finite. Borrowed; valid until span_clear. */
const double *span_logp(const struct span *sp);

/* i32 [span_rows]: the targets as they were added. Borrowed; valid until span_clear. */
const int32_t *span_targets(const struct span *sp);

void span_clear(struct span *sp);

/* ACT [span_rows, d_model]: what the head read in the last span_run, the model's last hidden state. */
const struct buf *span_hidden(const struct span *sp);
struct dev *span_device(const struct span *sp); /* borrowed */

/* For tests: the logits of the rows of the last span_run are kept as well, ACT [span_rows,
 * n_vocab]. */
enum status span_keep_logits(struct span *sp, struct err *e) WARN_UNUSED;
const struct buf *span_logits(const struct span *sp);

/* Bytes that an engine of n_row rows takes on its device, without weights and caches; and without the
 * rooms of dev_mlp, which a CPU does not touch. */
int64_t span_bytes(const struct arch *a, int64_t n_row, int64_t cache_rows_most, size_t kv_bytes);

/* Bytes that the weights take in a CPU's memory at most: the mapped files, and the packed layer and
 * head that are at work. `word`: 2 in a bf16 run, 4 in an f32 run. */
int64_t span_weights_bytes(const struct model *m, size_t word);
/* Weights of a layer, at most. */
int64_t span_layer_params(const struct arch *a);

#endif
