#include "core/span.h"

#include "base/mem.h"
#include "core/forward.h"

#include <string.h>

/* Rows of a part that one device computes. */
struct slice {
    int part, lane;
    int64_t pos, row, n;           /* first position; its rows in the device's block */
    int64_t base[MODEL_MAX_CLASS]; /* by class: first row of its keys in the working buffers */
};

/* One document's rows in this span. */
struct part {
    struct cache *cache; /* borrowed */
    int64_t row, n;      /* its rows in the span */
    bool keep;
    int first, n_slice; /* its slices, in order of rows */
};

/* Where keys and values lie: rows of a lane's device. */
struct spot {
    int lane;
    struct cache_run at;
    bool cached; /* of a document's cache, not of this span */
};

/* One device. Layers take turns with two sets of working buffers where there are several devices: while one is
 * attended, rows come into the other. */
struct lane {
    struct span *span;
    struct fwd *fwd;    /* owned */
    int64_t row, n_row; /* its rows of the span */
    int first, n_slice; /* its slices */
    struct buf *k[2],
        *v[2]; /* owned BUF_KV: a layer's keys, by slice: what a cache would hold and then own */
    struct dev_event *stored[2], *fetched[2], *freed[2]; /* owned; NULL with one device */
};

struct span {
    struct lane *lanes; /* owned [n_lane] */
    int n_lane;
    int64_t n_row, n_row_most;
    int32_t *ids, *targets; /* owned [n_row_most] */
    double *logp;           /* owned [n_row_most] */
    struct part *parts;     /* owned [part_cap] */
    struct slice *slices;   /* owned [slice_cap] */
    size_t part_cap, slice_cap;
    int n_part, n_slice;
};

/* ---- opening ---- */

static const struct model_on *model_of(const struct span *sp) {
    return sp->lanes[0].fwd->mo;
}

static struct dev *dev_of(const struct span *sp, int lane) {
    return sp->lanes[lane].fwd->mo->dev;
}

static enum status open_lane(struct span *sp, int i, const struct model_on *mo, struct err *e) {
    enum status st = OK;
    struct lane *la = &sp->lanes[i];
    la->span = sp;
    TRY(fwd_open(&la->fwd, mo, (sp->n_row_most + sp->n_lane - 1) / sp->n_lane, e));
    for (int p = 0; p < 2 && sp->n_lane > 1; p++) {
        TRY(dev_event_new(&la->stored[p], mo->dev, e));
        TRY(dev_event_new(&la->fetched[p], mo->dev, e));
        TRY(dev_event_new(&la->freed[p], mo->dev, e));
    }
done:
    return st;
}

enum status span_open_over(struct span **out, const struct model_on *const *mo, int n_dev,
                           int64_t n_row, struct err *e) {
    enum status st = OK;
    struct span *sp = NULL;
    *out = NULL;
    CHECK(n_dev >= 1 && n_row >= 1);
    for (int i = 1; i < n_dev; i++) {
        const struct dev *a = mo[0]->dev, *b = mo[i]->dev;
        if (strcmp(dev_kind(a), dev_kind(b)) != 0 || dev_kv_dtype(a) != dev_kv_dtype(b))
            FAIL(e, E_ARG, "%s and %s cannot share a document: their results differ",
                 dev_describe(a), dev_describe(b));
    }
    TRY(mem_zalloc(&sp, 1, sizeof *sp, e));
    sp->n_row_most = n_row;
    TRY(mem_zalloc(&sp->lanes, (size_t)n_dev, sizeof *sp->lanes, e));
    sp->n_lane = n_dev;
    TRY(mem_zalloc(&sp->ids, (size_t)n_row, sizeof *sp->ids, e));
    TRY(mem_zalloc(&sp->targets, (size_t)n_row, sizeof *sp->targets, e));
    TRY(mem_zalloc(&sp->logp, (size_t)n_row, sizeof *sp->logp, e));
    for (int i = 0; i < n_dev; i++) TRY(open_lane(sp, i, mo[i], e));
    *out = sp;
    sp = NULL;
done:
    span_close(sp);
    return st;
}

enum status span_open(struct span **out, const struct model_on *mo, int64_t n_row, struct err *e) {
    return span_open_over(out, &mo, 1, n_row, e);
}

static void close_lane(struct lane *la) {
    fwd_close(la->fwd);
    for (int p = 0; p < 2; p++) {
        buf_free(la->k[p]);
        buf_free(la->v[p]);
        dev_event_free(la->stored[p]);
        dev_event_free(la->fetched[p]);
        dev_event_free(la->freed[p]);
    }
}

void span_close(struct span *sp) {
    if (sp == NULL) return;
    for (int i = 0; i < sp->n_lane; i++) close_lane(&sp->lanes[i]);
    mem_free(sp->lanes);
    mem_free(sp->ids);
    mem_free(sp->targets);
    mem_free(sp->logp);
    mem_free(sp->parts);
    mem_free(sp->slices);
    mem_free(sp);
}

int64_t span_room(const struct span *sp) {
    return sp->n_row_most - sp->n_row;
}

int64_t span_rows(const struct span *sp) {
    return sp->n_row;
}

enum status span_add(struct span *sp, struct cache *c, const int32_t *ids, const int32_t *targets,
                     int64_t n, bool keep, int64_t *row, struct err *e) {
    enum status st = OK;
    const int64_t n_vocab = model_arch(model_of(sp)->model)->n_vocab;
    CHECK(n >= 1 && n <= span_room(sp));
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= n_vocab) {
            FAIL(e, E_ARG, "token id %d at position %lld is outside the vocabulary of %lld", ids[i],
                 (long long)(cache_pos(c) + i), (long long)n_vocab);
        }
        if (targets[i] >= n_vocab) {
            FAIL(e, E_ARG, "token id %d at position %lld is outside the vocabulary of %lld",
                 targets[i], (long long)(cache_pos(c) + i + 1), (long long)n_vocab);
        }
    }
    TRY(span_check(sp, c, n, e));
    TRY(mem_grow(&sp->parts, &sp->part_cap, (size_t)sp->n_part + 1, sizeof *sp->parts, e));
    sp->parts[sp->n_part++] = (struct part){.cache = c, .row = sp->n_row, .n = n, .keep = keep};
    memcpy(sp->ids + sp->n_row, ids, (size_t)n * sizeof *ids);
    memcpy(sp->targets + sp->n_row, targets, (size_t)n * sizeof *targets);
    *row = sp->n_row;
    sp->n_row += n;
done:
    return st;
}

enum status span_check(const struct span *sp, const struct cache *c, int64_t n, struct err *e) {
    return fwd_check(model_of(sp), cache_rule(c), cache_pos(c), n, e);
}

/* ---- keys: brought to where they are attended, and to the cache ---- */

static int turn_of(const struct span *sp, int64_t l) {
    return sp->n_lane > 1 ? (int)(l & 1) : 0;
}

static const struct vis_class *class_of(const struct span *sp, int64_t l) {
    return &model_of(sp)->classes[model_of(sp)->class_of_layer[l]];
}

// Where key j of a document lies while layer l is at work.
static struct spot find_key(const struct span *sp, const struct part *p, int64_t l, int64_t j) {
    const int turn = turn_of(sp, l);
    if (j < cache_pos(p->cache))
        return (struct spot){.at = cache_find(p->cache, l, j), .cached = true};
    const struct slice *s = &sp->slices[p->first];
    while (j >= s->pos + s->n) s++;
    const int64_t held = vis_cache_rows(cache_rule(p->cache), class_of(sp, l), s->pos);
    const int64_t base = s->base[model_of(sp)->class_of_layer[l]];
    const struct lane *la = &sp->lanes[s->lane];
    return (struct spot){.lane = s->lane,
                         .at = {.k = la->k[turn],
                                .v = la->v[turn],
                                .row = base + held + (j - s->pos),
                                .n = s->pos + s->n - j}};
}

// n rows from one place to another: on a device in the queue of its operations, between two beside them.
static void move(const struct span *sp, int64_t l, const struct spot *to, const struct spot *from,
                 int64_t n) {
    struct dev *d = dev_of(sp, to->lane), *src = dev_of(sp, from->lane);
    const struct cache_run *a = &to->at, *b = &from->at;
    if (to->lane == from->lane) {
        dev_copy(d, a->k, a->row, b->k, b->row, n);
        dev_copy(d, a->v, a->row, b->v, b->row, n);
        return;
    }
    if (!from->cached) dev_event_wait(d, DEV_FETCHES, sp->lanes[from->lane].stored[turn_of(sp, l)]);
    dev_fetch(d, a->k, a->row, src, b->k, b->row, n);
    dev_fetch(d, a->v, a->row, src, b->v, b->row, n);
}

// Keys first .. end - 1 of a document to consecutive rows.
static void bring(const struct span *sp, const struct part *p, int64_t l, int64_t first,
                  int64_t end, struct spot to) {
    while (first < end) {
        const struct spot from = find_key(sp, p, l, first);
        const int64_t n = from.at.n < end - first ? from.at.n : end - first;
        move(sp, l, &to, &from, n);
        to.at.row += n;
        first += n;
    }
}

// What a cache at `pos` holds, laid out as a cache is, but for its first `have` rows. to: of row `have`.
static void bring_cache(const struct span *sp, const struct part *p, int64_t l, int64_t pos,
                        int64_t have, struct spot to) {
    const struct vis_rule *r = cache_rule(p->cache);
    const int64_t n_sink = vis_cache_sinks(r, class_of(sp, l));
    const int64_t sinks = n_sink < pos ? n_sink : pos;
    const int64_t low = vis_cache_low(r, class_of(sp, l), pos);
    if (have < sinks) {
        bring(sp, p, l, have, sinks, to);
        to.at.row += sinks - have;
        have = sinks;
    }
    bring(sp, p, l, low + (have - n_sink), pos, to); // nothing before all sinks are in
}

// Keys of earlier tokens come into the buffers that this layer uses.
static void open_keys(void *ctx, int64_t l, struct buf **k, struct buf **v) {
    struct lane *la = ctx;
    struct span *sp = la->span;
    const int own = (int)(la - sp->lanes), turn = turn_of(sp, l);
    const int cls = model_of(sp)->class_of_layer[l];
    struct dev *d = dev_of(sp, own);
    *k = la->k[turn];
    *v = la->v[turn];
    if (own > 0) dev_event_wait(d, DEV_FETCHES, la->freed[turn]);
    // Devices behind this one, and the cache, have taken what was here two layers ago. Where layers see
    // different windows, what comes in lies where own keys lay then.
    for (int i = 0; i < sp->n_lane; i++) {
        if (i == own || (i < own && i > 0)) continue;
        dev_event_wait(d, DEV_QUEUE, sp->lanes[i].fetched[turn]);
        if (own > 0) dev_event_wait(d, DEV_FETCHES, sp->lanes[i].fetched[turn]);
    }
    for (int i = la->first; i < la->first + la->n_slice; i++) {
        const struct slice *s = &sp->slices[i];
        const struct spot to = {.lane = own, .at = {*k, *v, s->base[cls], 0}};
        bring_cache(sp, &sp->parts[s->part], l, s->pos, 0, to);
    }
    if (own > 0) dev_event_record(d, DEV_FETCHES, la->fetched[turn]);
}

static void own_stored(void *ctx, int64_t l) {
    struct lane *la = ctx;
    struct span *sp = la->span;
    const int own = (int)(la - sp->lanes), turn = turn_of(sp, l);
    if (sp->n_lane == 1) return;
    dev_event_record(dev_of(sp, own), DEV_QUEUE, la->stored[turn]);
    if (own > 0) dev_event_wait(dev_of(sp, own), DEV_QUEUE, la->fetched[turn]);
}

// What must be kept of layer l goes to the caches, on the first device.
static void feed_caches(const struct span *sp, int64_t l) {
    for (int i = 0; i < sp->n_part; i++) {
        const struct part *p = &sp->parts[i];
        if (!p->keep) continue;
        const struct spot to = {.at = cache_next(p->cache, l, p->n)};
        bring_cache(sp, p, l, cache_pos(p->cache) + p->n, to.at.row, to);
    }
    if (sp->n_lane > 1)
        dev_event_record(dev_of(sp, 0), DEV_FETCHES, sp->lanes[0].fetched[turn_of(sp, l)]);
}

/* ---- planning ---- */

// A buffer of at least `rows` rows; what it held is lost.
static enum status at_least(struct buf **b, const struct model_on *mo, int64_t rows,
                            struct err *e) {
    const struct arch *a = model_arch(mo->model);
    const int64_t old = *b != NULL ? buf_rows(*b) : 0;
    if (rows <= old) return OK;
    buf_free(*b);
    *b = NULL;
    return buf_new(b, mo->dev, BUF_KV, rows > old + old / 2 ? rows : old + old / 2,
                   a->n_kv * a->d_head, e);
}

// Cuts the rows of the span over the devices.
static enum status cut(struct span *sp, struct err *e) {
    enum status st = OK;
    int i = 0;
    sp->n_slice = 0;
    for (int k = 0; k < sp->n_lane; k++) {
        struct lane *la = &sp->lanes[k];
        la->row = sp->n_row * k / sp->n_lane;
        la->n_row = sp->n_row * (k + 1) / sp->n_lane - la->row;
        la->first = sp->n_slice;
        for (int64_t row = la->row, end = row + la->n_row; row < end;) {
            struct part *p = &sp->parts[i];
            const int64_t left = p->row + p->n - row, n = left < end - row ? left : end - row;
            TRY(mem_grow(&sp->slices, &sp->slice_cap, (size_t)sp->n_slice + 1, sizeof *sp->slices,
                         e));
            if (row == p->row) p->first = sp->n_slice;
            sp->slices[sp->n_slice++] = (struct slice){.part = i,
                                                       .lane = k,
                                                       .pos = cache_pos(p->cache) + (row - p->row),
                                                       .row = row - la->row,
                                                       .n = n};
            row += n;
            if (n == left) i++;
        }
        la->n_slice = sp->n_slice - la->first;
    }
done:
    return st;
}

static enum status plan_lane(struct span *sp, struct lane *la, struct err *e) {
    enum status st = OK;
    const struct model_on *mo = la->fwd->mo;
    int64_t end[MODEL_MAX_CLASS] = {0}, most = 0;
    fwd_begin(la->fwd);
    for (int i = la->first; i < la->first + la->n_slice; i++) {
        struct slice *s = &sp->slices[i];
        const struct vis_rule *r = cache_rule(sp->parts[s->part].cache);
        const struct fwd_rows rows = {r, s->pos, s->row, s->n};
        fwd_plan_rows(la->fwd, &rows);
        for (int c = 0; c < mo->n_class; c++) {
            const int64_t held = vis_cache_rows(r, &mo->classes[c], s->pos);
            s->base[c] = end[c];
            const struct fwd_place at = {.base = end[c],
                                         .front = vis_cache_low(r, &mo->classes[c], s->pos),
                                         .own = end[c] + held};
            TRY(fwd_plan_keys(la->fwd, c, &rows, &at, e));
            end[c] += held + s->n;
            if (end[c] > most) most = end[c];
        }
    }
    for (int p = 0; p < (sp->n_lane > 1 ? 2 : 1); p++) {
        TRY(at_least(&la->k[p], mo, most, e));
        TRY(at_least(&la->v[p], mo, most, e));
    }
done:
    return st;
}

static enum status plan(struct span *sp, struct err *e) {
    enum status st = OK;
    TRY(cut(sp, e));
    for (int k = 0; k < sp->n_lane; k++) TRY(plan_lane(sp, &sp->lanes[k], e));
    for (int i = 0; i < sp->n_part; i++) {
        if (sp->parts[i].keep) TRY(cache_reserve(sp->parts[i].cache, sp->parts[i].n, e));
    }
done:
    return st;
}

/* ---- running ---- */

// Buffers are free, and the caches at rest, from where each device's queue now stands.
static void open_queues(const struct span *sp) {
    for (int k = 0; k < sp->n_lane && sp->n_lane > 1; k++) {
        for (int p = 0; p < 2; p++)
            dev_event_record(dev_of(sp, k), DEV_QUEUE, sp->lanes[k].freed[p]);
        dev_event_wait(dev_of(sp, k), DEV_FETCHES, sp->lanes[0].freed[0]);
    }
}

static struct fwd_block block_of(struct span *sp, struct lane *la) {
    return (struct fwd_block){.keys = {la, open_keys, own_stored},
                              .ids = sp->ids + la->row,
                              .targets = sp->targets + la->row,
                              .n_row = la->n_row};
}

/* Layer by layer, device by device: one has queued its keys before those behind it fetch them. */
static enum status queue_all(struct span *sp, const struct span_stop *stop, struct err *e) {
    enum status st = OK;
    const int64_t n_layer = model_arch(model_of(sp)->model)->n_layer;
    struct lane *const end = sp->lanes + sp->n_lane;
    open_queues(sp);
    for (struct lane *la = sp->lanes; la < end; la++) {
        const struct fwd_block b = block_of(sp, la);
        if (b.n_row > 0) TRY(fwd_start(la->fwd, &b, e));
    }
    for (int64_t l = 0; l < n_layer; l++) {
        for (struct lane *la = sp->lanes; la < end; la++) {
            const struct fwd_block b = block_of(sp, la);
            if (b.n_row == 0) continue;
            fwd_layer(la->fwd, &b, l);
            if (sp->n_lane > 1)
                dev_event_record(la->fwd->mo->dev, DEV_QUEUE, la->freed[turn_of(sp, l)]);
        }
        feed_caches(sp, l);
        TRY(fwd_stopped(stop, e));
    }
    for (struct lane *la = sp->lanes; la < end; la++) {
        if (la->n_row == 0) continue;
        fwd_head(la->fwd, la->n_row);
        dev_read(la->fwd->mo->dev, la->fwd->logp, 0, la->n_row, sp->logp + la->row);
    }
done:
    for (struct lane *la = sp->lanes; la < end; la++) fwd_end(la->fwd);
    return st;
}

enum status span_run(struct span *sp, const struct span_stop *stop, struct err *e) {
    enum status st = OK;
    if (sp->n_row == 0) return OK;
    TRY(plan(sp, e));
    st = queue_all(sp, stop, e);
    for (int k = 0; k < sp->n_lane; k++) st = fwd_finish(sp->lanes[k].fwd, st, e);
    for (int i = 0; i < sp->n_part && st == OK; i++) {
        if (sp->parts[i].keep) cache_commit(sp->parts[i].cache, sp->parts[i].n);
    }
done:
    return st;
}

const double *span_logp(const struct span *sp) {
    return sp->logp;
}

const int32_t *span_targets(const struct span *sp) {
    return sp->targets;
}

void span_clear(struct span *sp) {
    sp->n_row = 0;
    sp->n_part = 0;
}

enum status span_keep_logits(struct span *sp, struct err *e) {
    CHECK(sp->n_lane == 1);
    return fwd_keep_logits(sp->lanes[0].fwd, e);
}

const struct buf *span_hidden(const struct span *sp) {
    CHECK(sp->n_lane == 1);
    return sp->lanes[0].fwd->h;
}

struct dev *span_device(const struct span *sp) {
    return dev_of(sp, 0);
}

const struct buf *span_logits(const struct span *sp) {
    return sp->lanes[0].fwd->logits;
}

int64_t span_bytes(const struct arch *a, int64_t n_row, int64_t cache_rows_most, size_t kv_bytes) {
    const int64_t act =
        3 * a->d_model + 3 * a->n_head * a->d_head + 2 * a->n_kv * a->d_head + 5 * a->n_rot;
    const int64_t work = 2 * a->n_kv * a->d_head * (int64_t)kv_bytes;
    return n_row * (act * 4 + 64) + (n_row + cache_rows_most) * work;
}

int64_t span_layer_params(const struct arch *a) {
    return (a->n_head + 2 * a->n_kv) * a->d_head * a->d_model + a->n_head * a->d_head * a->d_model +
           3 * a->d_ff * a->d_model;
}

int64_t span_weights_bytes(const struct model *m, size_t word) {
    const struct arch *a = model_arch(m);
    return model_file_bytes(m) + (span_layer_params(a) + a->n_vocab * a->d_model) * (int64_t)word;
}
