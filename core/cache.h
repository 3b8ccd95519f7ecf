/* The cache: what one document under one setting has to remember between blocks of rows.
 *
 * Per layer, keys and values of the S sinks and of the window keys that later tokens can still see,
 * in the device's cache dtype. Constant size under a streaming setting; grows with the document
 * when attention is dense. One canonical layout, the same for hand-over, checkpoints and devices:
 *
 *     rows 0 .. S-1              sinks, positions 0 .. S-1
 *     rows S .. S+(pos-low)-1    positions low .. pos-1, oldest first; low = vis_cache_low(pos)
 *
 * (before S tokens are in, rows 0 .. pos-1.) Keys are rotated at their absolute positions and are
 * never rewritten: a block's rows either extend the live buffers behind the last valid row or are
 * gathered, with what is kept, in a second set that takes over on cache_commit(). So a block that
 * is given up half way leaves the cache as it was. Belongs to one thread, the one of its device. */
#ifndef BASIN_CORE_CACHE_H
#define BASIN_CORE_CACHE_H

#include "base/sbuf.h"
#include "core/model.h"
#include "core/vis.h"

struct cache; /* opaque */

/* An empty cache: no tokens, no memory yet. */
enum status cache_open(struct cache **out, const struct model_on *mo, const struct vis_rule *rule,
                       struct err *e) WARN_UNUSED;
void cache_close(struct cache *c);

int64_t cache_pos(const struct cache *c); /* tokens in it: the next token's position */
const struct vis_rule *cache_rule(const struct cache *c);
/* Rows in use for layers of class `cls`. */
int64_t cache_rows(const struct cache *c, int cls);

/* Makes room for n more tokens. Errors: E_NOMEM. */
enum status cache_reserve(struct cache *c, int64_t n, struct err *e) WARN_UNUSED;
/* Rows of a layer's keys and of its values. */
struct cache_run {
    struct buf *k, *v; /* borrowed */
    int64_t row, n;
};
/* Where key j of layer l lies, one that the cache holds, and how many of the keys behind it, itself included,
 * lie in the rows that follow. */
struct cache_run cache_find(const struct cache *c, int64_t l, int64_t j);
/* The rows of the layout at cache_pos() + n that have to be written before cache_commit(c, n), down to its last;
 * what cache_find names is not among them. cache_reserve(c, n) came before. */
struct cache_run cache_next(const struct cache *c, int64_t l, int64_t n);
/* The n tokens stored in every layer become part of the cache. */
void cache_commit(struct cache *c, int64_t n);

/* Hand-over to and from an engine that keeps keys in buffers of its own, on any device that
 * dev_copy_peer reaches: layer l's sinks are rows from sink_row on, its window keys rows from low_row on. */
struct cache_spot {
    struct dev *dev;
    struct buf *k, *v;
    int64_t sink_row, low_row;
};
void cache_give(const struct cache *c, int64_t l, const struct cache_spot *to);
/* An empty cache becomes one of `pos` tokens, whose rows cache_take then brings, layer by layer. Errors:
 * E_NOMEM; the cache is empty still. */
enum status cache_take_begin(struct cache *c, int64_t pos, struct err *e) WARN_UNUSED;
void cache_take(struct cache *c, int64_t l, const struct cache_spot *from);

/* Bytes a cache takes on its device at most, for documents of n_tok tokens (both sets of buffers).
 */
int64_t cache_bytes(const struct arch *a, const struct vis_class *classes,
                    const int *class_of_layer, const struct vis_rule *r, int64_t n_tok,
                    size_t kv_bytes);

/* Canonical serialization: appends to `out` | reads back (the same build, model, rule and device
 * kind; the caller's checksum covers it). Errors: E_FORMAT when the bytes do not fit this cache. */
enum status cache_save(const struct cache *c, struct sbuf *out, struct err *e) WARN_UNUSED;
enum status cache_restore(struct cache *c, const char *bytes, size_t n, size_t *used,
                          struct err *e) WARN_UNUSED;

#endif
