/* Where streams' keys lie: a stretch of rows per slot in every layer's buffers, contiguous by
 * position. Stretches are as long as their rule needs, so that the slots of streaming settings are
 * laid out once; where attention is dense they grow, and all are laid out anew. */
#include "core/stream_impl.h"

enum { SLACK_MIN = 64 };

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static const struct vis_class *class_at(const struct stream *st, int c) {
    return &st->mo->classes[c];
}

// Rows appended before those still needed move to the front again: a few percent of a step's reads.
static int64_t slack(int64_t keys) {
    return max64(SLACK_MIN, keys / 4);
}

int64_t stream_kv_steady(const struct vis_rule *r, const struct vis_class *c) {
    struct vis_rule after = *r;
    after.n_prefill = 0; // its keys are let go when it has ended
    if (r->dense && c->window == 0) return 0;
    const int64_t most = vis_cache_most(&after, c, INT64_MAX / 4) + 1;
    return vis_cache_sinks(r, c) + most + slack(most);
}

int64_t stream_kv_used(const struct stream *st, const struct stream_slot *s, int c) {
    return vis_cache_sinks(&s->rule, class_at(st, c)) + s->pos - s->lie[c].front;
}

int64_t stream_kv_own(const struct stream *st, const struct stream_slot *s, int c) {
    return s->lie[c].base + stream_kv_used(st, s, c);
}

int64_t stream_kv_aside(const struct stream *st, int64_t i) {
    return i * st->cfg.n_candidate;
}

struct cache_spot stream_kv_spot(const struct stream *st, const struct stream_slot *s, int64_t l) {
    const int c = st->mo->class_of_layer[l];
    const struct stream_lie *lie = &s->lie[c];
    const int64_t low = vis_cache_low(&s->rule, class_at(st, c), s->pos);
    const int64_t n_sink = vis_cache_sinks(&s->rule, class_at(st, c));
    return (struct cache_spot){.dev = st->mo->dev,
                               .k = st->k[l],
                               .v = st->v[l],
                               .sink_row = lie->base,
                               .low_row = lie->base + n_sink + (low - lie->front)};
}

void stream_kv_adopt(struct stream *st, const struct stream_slot *s, int which) {
    for (int64_t l = 0; l < model_arch(st->mo->model)->n_layer; l++) {
        const int64_t to = stream_kv_own(st, s, st->mo->class_of_layer[l]);
        const int64_t from = stream_kv_aside(st, s - st->slots) + which;
        dev_copy(st->mo->dev, st->k[l], to, st->k[l], from, 1);
        dev_copy(st->mo->dev, st->v[l], to, st->v[l], from, 1);
    }
}

/* ---- laying out ---- */

static enum status move_layer(struct stream *st, int64_t l, int64_t n_row, struct err *e) {
    enum status status = OK;
    const struct arch *a = model_arch(st->mo->model);
    const int c = st->mo->class_of_layer[l];
    struct dev *d = st->mo->dev;
    struct buf **const both[2] = {&st->k[l], &st->v[l]};
    for (int i = 0; i < 2; i++) {
        struct buf *next = NULL;
        status = buf_new(&next, d, BUF_KV, n_row, a->n_kv * a->d_head, e);
        for (int k = 0; status == OK && k < st->cfg.n_stream; k++) {
            const struct stream_slot *s = &st->slots[k];
            if (s->state == SLOT_FREE || stream_kv_used(st, s, c) == 0) continue;
            dev_copy(d, next, s->lie[c].next_base, *both[i], s->lie[c].base,
                     stream_kv_used(st, s, c));
        }
        if (status == OK) status = dev_sync(d, e); // the old buffer goes away
        if (status != OK) {
            buf_free(next);
            return status;
        }
        buf_free(*both[i]);
        *both[i] = next;
    }
    return status;
}

// Gives slot s a stretch of `cap` rows in the layers of class c. Free slots get what the rule of s
// will need for the next stream like it, so that equal streams are laid out once.
static enum status lay_out(struct stream *st, int c, const struct stream_slot *s, int64_t cap,
                           struct err *e) {
    enum status status = OK;
    const int64_t steady = stream_kv_steady(&s->rule, class_at(st, c));
    int64_t at = stream_kv_aside(st, st->cfg.n_stream);
    for (int i = 0; i < st->cfg.n_stream; i++) {
        struct stream_lie *lie = &st->slots[i].lie[c];
        lie->next_base = at;
        lie->next_cap = &st->slots[i] == s                ? cap
                        : st->slots[i].state == SLOT_FREE ? steady
                                                          : lie->cap;
        at += lie->next_cap;
    }
    for (int64_t l = 0; l < model_arch(st->mo->model)->n_layer; l++) {
        if (st->mo->class_of_layer[l] != c) continue;
        status = move_layer(st, l, at, e);
        if (status != OK) {
            st->broken = true; // layers before this one lie anew, those behind it do not
            return status;
        }
    }
    for (int i = 0; i < st->cfg.n_stream; i++) {
        st->slots[i].lie[c].base = st->slots[i].lie[c].next_base;
        st->slots[i].lie[c].cap = st->slots[i].lie[c].next_cap;
    }
    return status;
}

// Keys that no later token sees are dropped: the others move to the front of the stretch.
static void drop(struct stream *st, struct stream_slot *s, int c, int64_t low) {
    struct stream_lie *lie = &s->lie[c];
    const int64_t shift = low - lie->front, n = s->pos - low;
    const int64_t to = lie->base + vis_cache_sinks(&s->rule, class_at(st, c));
    for (int64_t l = 0; l < model_arch(st->mo->model)->n_layer; l++) {
        if (st->mo->class_of_layer[l] != c) continue;
        for (int64_t i = 0; i < n; i += shift) { // in pieces that do not overlap
            const int64_t rows = n - i < shift ? n - i : shift;
            dev_copy(st->mo->dev, st->k[l], to + i, st->k[l], to + i + shift, rows);
            dev_copy(st->mo->dev, st->v[l], to + i, st->v[l], to + i + shift, rows);
        }
    }
    lie->front = low;
}

enum status stream_kv_room(struct stream *st, struct stream_slot *s, struct err *e) {
    enum status status = OK;
    const int64_t limit = st->cfg.n_key_most;
    for (int c = 0; status == OK && c < st->mo->n_class; c++) {
        struct stream_lie *lie = &s->lie[c];
        const int64_t need = stream_kv_used(st, s, c) + 1;
        const int64_t steady = stream_kv_steady(&s->rule, class_at(st, c));
        if (need <= lie->cap && lie->cap >= steady) continue;
        const int64_t low = vis_cache_low(&s->rule, class_at(st, c), s->pos);
        const int64_t shift = low - lie->front;
        if (lie->cap >= steady && shift > 0 && shift >= slack(s->pos - low) / 2) {
            drop(st, s, c, low);
            continue;
        }
        int64_t cap = max64(steady, need + slack(need));
        if (need > steady && limit > 0) {
            if (need > limit)
                return err_fail(e, E_ARG,
                                "token %lld: the stream would hold %lld keys; its limit is %lld",
                                (long long)s->pos, (long long)need, (long long)limit);
            if (cap > limit) cap = max64(limit, steady);
        }
        status = lay_out(st, c, s, cap, e);
    }
    return status;
}
