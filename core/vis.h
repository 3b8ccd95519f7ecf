/* Who sees what: the rule of DESIGN section 1, in one place.
 *
 * Everything here is arithmetic on positions: which keys token t of a document sees under a
 * setting, at which position its query sits, which keys a cache must keep, and the table of
 * segments that `attend` reads. Source: Xiao et al., arXiv:2309.17453, section 3.2 (sinks + window,
 * positions counted inside the cache). */
#ifndef BASIN_CORE_VIS_H
#define BASIN_CORE_VIS_H

#include "kernels/dev.h"

/* A cache setting. Zeroed and `dense` set is ordinary causal attention. */
struct vis_rule {
    bool dense;
    int64_t n_sink;    /* S, at least 0 */
    int64_t n_win;     /* W, at least 1 */
    int64_t n_prefill; /* the first tokens, which attend densely to themselves; 0: none */
    int64_t n_chunk;   /* tokens fed per forward; at least 1 */
    bool strict;       /* the current token counts inside W */
};

/* What a layer brings with it. Layers of equal class share one segment table. */
struct vis_class {
    int64_t window; /* the layer's own window: keys max(0, t - window + 1) .. t; 0: none */
    bool
        always; /* the own window replaces S and W everywhere; else only where attention is dense */
};

/* True when token t attends by the class's dense rule (all keys, or the layer's own window): no
 * sinks. */
bool vis_is_dense(const struct vis_rule *r, const struct vis_class *c, int64_t t);

/* Lowest key that token t sees besides sinks, before clamping to the sinks; may be negative. */
int64_t vis_low(const struct vis_rule *r, const struct vis_class *c, int64_t t);

/* Position at which token t's query meets the sinks: (number of keys it sees) - 1. */
int64_t vis_query_pos(const struct vis_rule *r, const struct vis_class *c, int64_t t);

/* Sinks a cache of this class keeps: S, or 0 when no token of the class ever uses them. */
int64_t vis_cache_sinks(const struct vis_rule *r, const struct vis_class *c);

/* Lowest key besides the sinks that any token at or after `pos` sees: what a cache at `pos` must
 * still hold, at least vis_cache_sinks() and at most `pos`. */
int64_t vis_cache_low(const struct vis_rule *r, const struct vis_class *c, int64_t pos);

/* Rows that hold the sinks and the window of a cache at `pos`: see the layout in core/cache.h. */
int64_t vis_cache_rows(const struct vis_rule *r, const struct vis_class *c, int64_t pos);

/* Most window keys a cache of this class holds at any position up to n_tok. */
int64_t vis_cache_most(const struct vis_rule *r, const struct vis_class *c, int64_t n_tok);

/* How many segments tokens pos .. pos + n - 1 need, and the segments themselves: first_row (from
 * `row`), n_row, pos, low, n_sink and moves are set; the rows of keys are the caller's. */
int64_t vis_count(const struct vis_rule *r, const struct vis_class *c, int64_t pos, int64_t n);
void vis_segments(const struct vis_rule *r, const struct vis_class *c, int64_t pos, int64_t n,
                  int64_t row, struct dev_seg *out);

#endif
