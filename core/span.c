#include "core/span.h"

#include "base/mem.h"
#include "core/forward.h"

#include <string.h>

/* One document's rows in this block. */
struct part {
    struct cache *cache; /* borrowed */
    int64_t row, n;      /* its rows in the block */
    bool keep;
    int64_t base[MODEL_MAX_CLASS]; /* by class: first row of its keys in the working buffers */
};

struct span {
    struct fwd *fwd; /* owned */
    int64_t n_row, n_row_most;
    int32_t *ids, *targets; /* owned [n_row_most] */
    double *logp;           /* owned [n_row_most] */
    struct part *parts;     /* owned [part_cap] */
    size_t part_cap;
    int n_part;
    struct buf *work_k,
        *work_v; /* owned BUF_KV: a layer's keys, what each cache holds and then own */
};

enum status span_open(struct span **out, const struct model_on *mo, int64_t n_row, struct err *e) {
    enum status st = OK;
    struct span *sp = NULL;
    *out = NULL;
    TRY(mem_zalloc(&sp, 1, sizeof *sp, e));
    sp->n_row_most = n_row;
    TRY(mem_zalloc(&sp->ids, (size_t)n_row, sizeof *sp->ids, e));
    TRY(mem_zalloc(&sp->targets, (size_t)n_row, sizeof *sp->targets, e));
    TRY(mem_zalloc(&sp->logp, (size_t)n_row, sizeof *sp->logp, e));
    TRY(fwd_open(&sp->fwd, mo, n_row, e));
    *out = sp;
    sp = NULL;
done:
    span_close(sp);
    return st;
}

void span_close(struct span *sp) {
    if (sp == NULL) return;
    fwd_close(sp->fwd);
    mem_free(sp->ids);
    mem_free(sp->targets);
    mem_free(sp->logp);
    mem_free(sp->parts);
    buf_free(sp->work_k);
    buf_free(sp->work_v);
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
    const int64_t n_vocab = model_arch(sp->fwd->mo->model)->n_vocab;
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
    return fwd_check(sp->fwd->mo, cache_rule(c), cache_pos(c), n, e);
}

/* ---- keys: gathered from the caches before a layer attends, and taken back afterwards ---- */

static void load_keys(void *ctx, int64_t l, struct buf **k, struct buf **v) {
    const struct span *sp = ctx;
    const int cls = sp->fwd->mo->class_of_layer[l];
    for (int i = 0; i < sp->n_part; i++) {
        cache_load(sp->parts[i].cache, l, sp->work_k, sp->work_v, sp->parts[i].base[cls]);
    }
    *k = sp->work_k;
    *v = sp->work_v;
}

static void store_keys(void *ctx, int64_t l) {
    const struct span *sp = ctx;
    const int cls = sp->fwd->mo->class_of_layer[l];
    for (int i = 0; i < sp->n_part; i++) {
        const struct part *p = &sp->parts[i];
        if (p->keep) cache_store(p->cache, l, sp->work_k, sp->work_v, p->base[cls], p->n);
    }
}

// A buffer of at least `rows` rows; what it held is lost.
static enum status at_least(struct buf **b, const struct span *sp, int64_t rows, struct err *e) {
    const struct arch *a = model_arch(sp->fwd->mo->model);
    const int64_t old = *b != NULL ? buf_rows(*b) : 0;
    if (rows <= old) return OK;
    buf_free(*b);
    *b = NULL;
    return buf_new(b, sp->fwd->mo->dev, BUF_KV, rows > old + old / 2 ? rows : old + old / 2,
                   a->n_kv * a->d_head, e);
}

static enum status plan(struct span *sp, struct err *e) {
    enum status st = OK;
    const struct model_on *mo = sp->fwd->mo;
    int64_t end[MODEL_MAX_CLASS] = {0}, most = 0;
    fwd_begin(sp->fwd);
    for (int i = 0; i < sp->n_part; i++) {
        struct part *p = &sp->parts[i];
        const struct vis_rule *r = cache_rule(p->cache);
        const struct fwd_rows rows = {r, cache_pos(p->cache), p->row, p->n};
        fwd_plan_rows(sp->fwd, &rows);
        for (int c = 0; c < mo->n_class; c++) {
            const int64_t held = cache_rows(p->cache, c);
            p->base[c] = end[c];
            const struct fwd_place at = {.base = end[c],
                                         .front = vis_cache_low(r, &mo->classes[c], rows.pos),
                                         .own = end[c] + held};
            TRY(fwd_plan_keys(sp->fwd, c, &rows, &at, e));
            end[c] += held + p->n;
            if (end[c] > most) most = end[c];
        }
        if (p->keep) TRY(cache_reserve(p->cache, p->n, e));
    }
    TRY(at_least(&sp->work_k, sp, most, e));
    TRY(at_least(&sp->work_v, sp, most, e));
done:
    return st;
}

enum status span_run(struct span *sp, const struct span_stop *stop, struct err *e) {
    enum status st = OK;
    if (sp->n_row == 0) return OK;
    TRY(plan(sp, e));
    const struct fwd_block block = {.keys = {sp, load_keys, store_keys},
                                    .ids = sp->ids,
                                    .targets = sp->targets,
                                    .n_row = sp->n_row};
    st = fwd_run(sp->fwd, &block, stop, e);
    if (st == OK) dev_read(sp->fwd->mo->dev, sp->fwd->logp, 0, sp->n_row, sp->logp);
    TRY(fwd_finish(sp->fwd, st, e));
    for (int i = 0; i < sp->n_part; i++) {
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
    return fwd_keep_logits(sp->fwd, e);
}

const struct buf *span_hidden(const struct span *sp) {
    return sp->fwd->h;
}

struct dev *span_device(const struct span *sp) {
    return sp->fwd->mo->dev;
}

const struct buf *span_logits(const struct span *sp) {
    return sp->fwd->logits;
}

int64_t span_bytes(const struct arch *a, int64_t n_row, int64_t cache_rows_most, size_t kv_bytes) {
    const int64_t act = 3 * a->d_model + 3 * a->n_head * a->d_head + 2 * a->n_kv * a->d_head +
                        2 * a->d_ff + 3 * a->n_rot;
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
