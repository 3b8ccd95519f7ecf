#include "core/vis.h"

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

bool vis_is_dense(const struct vis_rule *r, const struct vis_class *c, int64_t t) {
    return r->dense || t < r->n_prefill || (c->window > 0 && c->always);
}

// First token of the forward that feeds token t, when tokens are fed n_chunk at a time.
static int64_t chunk_start(const struct vis_rule *r, int64_t t) {
    return t - (t - r->n_prefill) % r->n_chunk;
}

int64_t vis_low(const struct vis_rule *r, const struct vis_class *c, int64_t t) {
    if (vis_is_dense(r, c, t)) return c->window > 0 ? t - c->window + 1 : 0;
    return chunk_start(r, t) - r->n_win + (r->strict ? 1 : 0);
}

int64_t vis_query_pos(const struct vis_rule *r, const struct vis_class *c, int64_t t) {
    if (vis_is_dense(r, c, t)) return t;
    return t - max64(0, vis_low(r, c, t) - r->n_sink);
}

int64_t vis_cache_sinks(const struct vis_rule *r, const struct vis_class *c) {
    return r->dense || (c->window > 0 && c->always) ? 0 : r->n_sink;
}

int64_t vis_cache_low(const struct vis_rule *r, const struct vis_class *c, int64_t pos) {
    const int64_t n_sink = vis_cache_sinks(r, c);
    int64_t low = vis_low(r, c, pos);
    // Within a prefill under a layer's own window, the first streamed token may look back further.
    if (!r->dense && pos < r->n_prefill) low = min64(low, vis_low(r, c, r->n_prefill));
    return min64(max64(low, n_sink), max64(pos, n_sink));
}

int64_t vis_cache_rows(const struct vis_rule *r, const struct vis_class *c, int64_t pos) {
    return vis_cache_sinks(r, c) + pos - vis_cache_low(r, c, pos);
}

int64_t vis_cache_most(const struct vis_rule *r, const struct vis_class *c, int64_t n_tok) {
    int64_t most = 0;
    if (vis_is_dense(r, c, n_tok)) {
        most = c->window > 0 ? min64(n_tok, c->window - 1) : n_tok;
    } else {
        const int64_t stream = r->n_win + r->n_chunk - 1; // a chunk may be cut by the end of a span
        most = max64(min64(stream, n_tok), min64(r->n_prefill, n_tok));
    }
    return most;
}

/* Tokens from t to the end of its segment: a segment ends with the prefill, and with each chunk. */
static int64_t run_length(const struct vis_rule *r, const struct vis_class *c, int64_t t) {
    if (r->dense || (c->window > 0 && c->always)) return INT64_MAX;
    if (t < r->n_prefill) return r->n_prefill - t;
    return r->n_chunk == 1 ? INT64_MAX : chunk_start(r, t) + r->n_chunk - t;
}

int64_t vis_count(const struct vis_rule *r, const struct vis_class *c, int64_t pos, int64_t n) {
    int64_t count = 0;
    for (int64_t t = pos; t < pos + n; count++) t += min64(run_length(r, c, t), pos + n - t);
    return count;
}

void vis_segments(const struct vis_rule *r, const struct vis_class *c, int64_t pos, int64_t n,
                  int64_t row, struct dev_seg *out) {
    for (int64_t t = pos; t < pos + n; out++) {
        const int64_t len = min64(run_length(r, c, t), pos + n - t);
        const bool dense = vis_is_dense(r, c, t);
        *out = (struct dev_seg){
            .first_row = (int32_t)(row + (t - pos)),
            .n_row = (int32_t)len,
            .pos = t,
            .low = vis_low(r, c, t),
            .n_sink = dense ? 0 : (int32_t)r->n_sink,
            .moves = dense ? c->window > 0 : r->n_chunk == 1,
        };
        t += len;
    }
}
