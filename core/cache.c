#include "core/cache.h"

#include "base/mem.h"

#include <string.h>

struct kv {
    struct buf *k, *v; /* owned BUF_KV [cap, n_kv * d_head] */
};

struct cache {
    const struct model_on *mo; /* borrowed */
    struct vis_rule rule;
    int64_t pos;
    struct kv *live; /* owned [n_layer] */
    struct kv *next; /* owned [n_layer]: filled while a block runs, swapped in by commit */
};

static const struct vis_class *class_of(const struct cache *c, int64_t l) {
    return &c->mo->classes[c->mo->class_of_layer[l]];
}

static bool evicts(const struct cache *c, const struct vis_class *cls, int64_t n) {
    return vis_cache_low(&c->rule, cls, c->pos + n) != vis_cache_low(&c->rule, cls, c->pos);
}

static void free_kv(struct kv *kv) {
    buf_free(kv->k);
    buf_free(kv->v);
    *kv = (struct kv){NULL, NULL};
}

enum status cache_open(struct cache **out, const struct model_on *mo, const struct vis_rule *rule,
                       struct err *e) {
    enum status st = OK;
    struct cache *c = NULL;
    const size_t n_layer = (size_t)model_arch(mo->model)->n_layer;
    *out = NULL;
    TRY(mem_zalloc(&c, 1, sizeof *c, e));
    c->mo = mo;
    c->rule = *rule;
    TRY(mem_zalloc(&c->live, n_layer, sizeof(struct kv), e));
    TRY(mem_zalloc(&c->next, n_layer, sizeof(struct kv), e));
    *out = c;
    c = NULL;
done:
    cache_close(c);
    return st;
}

void cache_close(struct cache *c) {
    if (c == NULL) return;
    for (int64_t l = 0; l < model_arch(c->mo->model)->n_layer; l++) {
        if (c->live != NULL) free_kv(&c->live[l]);
        if (c->next != NULL) free_kv(&c->next[l]);
    }
    mem_free(c->live);
    mem_free(c->next);
    mem_free(c);
}

int64_t cache_pos(const struct cache *c) {
    return c->pos;
}

const struct vis_rule *cache_rule(const struct cache *c) {
    return &c->rule;
}

int64_t cache_rows(const struct cache *c, int cls) {
    return vis_cache_rows(&c->rule, &c->mo->classes[cls], c->pos);
}

// At least `need` rows, the first `keep` of them as they are.
static enum status grow(const struct cache *c, struct kv *kv, int64_t need, int64_t most,
                        int64_t keep, struct err *e) {
    enum status st = OK;
    struct kv bigger = {NULL, NULL};
    const struct arch *a = model_arch(c->mo->model);
    struct dev *d = c->mo->dev;
    const int64_t have = kv->k != NULL ? buf_rows(kv->k) : 0;
    if (need <= have) goto done;
    int64_t cap = have * 2 > need ? have * 2 : need;
    if (cap > most && need <= most) cap = most;
    TRY(buf_new(&bigger.k, d, BUF_KV, cap, a->n_kv * a->d_head, e));
    TRY(buf_new(&bigger.v, d, BUF_KV, cap, a->n_kv * a->d_head, e));
    if (keep > 0) {
        dev_copy(d, bigger.k, 0, kv->k, 0, keep);
        dev_copy(d, bigger.v, 0, kv->v, 0, keep);
        TRY(dev_sync(d, e)); // the old buffers go away below
    }
    free_kv(kv);
    *kv = bigger;
    bigger = (struct kv){NULL, NULL};
done:
    free_kv(&bigger);
    return st;
}

// Rows that are never exceeded, where there is such a number; what a growing buffer is capped at.
static int64_t most_rows(const struct vis_rule *r, const struct vis_class *cls, int64_t n_tok) {
    return vis_cache_sinks(r, cls) + vis_cache_most(r, cls, n_tok);
}

enum status cache_reserve(struct cache *c, int64_t n, struct err *e) {
    enum status st = OK;
    for (int64_t l = 0; l < model_arch(c->mo->model)->n_layer; l++) {
        const struct vis_class *cls = class_of(c, l);
        const int64_t now = vis_cache_rows(&c->rule, cls, c->pos),
                      then = vis_cache_rows(&c->rule, cls, c->pos + n);
        const int64_t most = most_rows(&c->rule, cls, INT64_MAX / 4);
        if (evicts(c, cls, n)) {
            TRY(grow(c, &c->next[l], then, most, 0, e));
        } else {
            TRY(grow(c, &c->live[l], then, most, now, e));
        }
    }
done:
    return st;
}

struct cache_run cache_find(const struct cache *c, int64_t l, int64_t j) {
    const struct vis_class *cls = class_of(c, l);
    const int64_t n_sink = vis_cache_sinks(&c->rule, cls);
    const int64_t low = vis_cache_low(&c->rule, cls, c->pos);
    struct cache_run run = {.k = c->live[l].k, .v = c->live[l].v, .row = j, .n = n_sink - j};
    if (j >= n_sink) run.row = n_sink + (j - low);
    if (j >= n_sink || low == n_sink) run.n = c->pos - j;
    CHECK(j >= 0 && j < c->pos && (j < n_sink || j >= low));
    return run;
}

struct cache_run cache_next(const struct cache *c, int64_t l, int64_t n) {
    const struct vis_class *cls = class_of(c, l);
    const int64_t then = vis_cache_rows(&c->rule, cls, c->pos + n);
    const bool fresh = evicts(c, cls, n);
    const struct kv *kv = fresh ? &c->next[l] : &c->live[l];
    const int64_t row = fresh ? 0 : vis_cache_rows(&c->rule, cls, c->pos);
    return (struct cache_run){kv->k, kv->v, row, then - row};
}

void cache_commit(struct cache *c, int64_t n) {
    for (int64_t l = 0; l < model_arch(c->mo->model)->n_layer; l++) {
        if (!evicts(c, class_of(c, l), n)) continue;
        const struct kv old = c->live[l];
        c->live[l] = c->next[l];
        c->next[l] = old;
    }
    c->pos += n;
}

/* ---- hand-over ---- */

// Sinks among the rows of layer l.
static int64_t sink_rows(const struct cache *c, int64_t l) {
    const int64_t n = vis_cache_sinks(&c->rule, class_of(c, l));
    return n < c->pos ? n : c->pos;
}

void cache_give(const struct cache *c, int64_t l, const struct cache_spot *to) {
    const int64_t n_sink = sink_rows(c, l), n = vis_cache_rows(&c->rule, class_of(c, l), c->pos);
    const struct kv *kv = &c->live[l];
    struct dev *d = c->mo->dev;
    if (n_sink > 0) {
        dev_copy_peer(to->dev, to->k, to->sink_row, d, kv->k, 0, n_sink);
        dev_copy_peer(to->dev, to->v, to->sink_row, d, kv->v, 0, n_sink);
    }
    if (n > n_sink) {
        dev_copy_peer(to->dev, to->k, to->low_row, d, kv->k, n_sink, n - n_sink);
        dev_copy_peer(to->dev, to->v, to->low_row, d, kv->v, n_sink, n - n_sink);
    }
}

enum status cache_take_begin(struct cache *c, int64_t pos, struct err *e) {
    enum status st = OK;
    CHECK(c->pos == 0);
    for (int64_t l = 0; l < model_arch(c->mo->model)->n_layer; l++) {
        const struct vis_class *cls = class_of(c, l);
        TRY(grow(c, &c->live[l], vis_cache_rows(&c->rule, cls, pos),
                 most_rows(&c->rule, cls, INT64_MAX / 4), 0, e));
    }
    c->pos = pos;
done:
    return st;
}

void cache_take(struct cache *c, int64_t l, const struct cache_spot *from) {
    const int64_t n_sink = sink_rows(c, l), n = vis_cache_rows(&c->rule, class_of(c, l), c->pos);
    const struct kv *kv = &c->live[l];
    struct dev *d = c->mo->dev;
    if (n_sink > 0) {
        dev_copy_peer(d, kv->k, 0, from->dev, from->k, from->sink_row, n_sink);
        dev_copy_peer(d, kv->v, 0, from->dev, from->v, from->sink_row, n_sink);
    }
    if (n > n_sink) {
        dev_copy_peer(d, kv->k, n_sink, from->dev, from->k, from->low_row, n - n_sink);
        dev_copy_peer(d, kv->v, n_sink, from->dev, from->v, from->low_row, n - n_sink);
    }
}

int64_t cache_bytes(const struct arch *a, const struct vis_class *classes,
                    const int *class_of_layer, const struct vis_rule *r, int64_t n_tok,
                    size_t kv_bytes) {
    int64_t sum = 0;
    for (int64_t l = 0; l < a->n_layer; l++) {
        const int64_t rows = most_rows(r, &classes[class_of_layer[l]], n_tok);
        const int64_t sets = r->dense ? 1 : 2;
        sum += rows * sets * 2 * a->n_kv * a->d_head * (int64_t)kv_bytes;
    }
    return sum;
}

/* ---- serialization: int64 pos, then per layer int64 rows, K rows, V rows ---- */

enum status cache_save(const struct cache *c, struct sbuf *out, struct err *e) {
    enum status st = OK;
    char *rows = NULL;
    sbuf_add(out, &c->pos, sizeof c->pos);
    for (int64_t l = 0; l < model_arch(c->mo->model)->n_layer; l++) {
        const int64_t n = vis_cache_rows(&c->rule, class_of(c, l), c->pos);
        sbuf_add(out, &n, sizeof n);
        if (n == 0) continue;
        const struct buf *const both[2] = {c->live[l].k, c->live[l].v};
        for (int i = 0; i < 2; i++) {
            const size_t bytes = (size_t)n * buf_row_bytes(both[i]);
            TRY(mem_zalloc(&rows, bytes, 1, e));
            dev_read(c->mo->dev, both[i], 0, n, rows);
            TRY(dev_sync(c->mo->dev, e));
            sbuf_add(out, rows, bytes);
            mem_free(rows);
            rows = NULL;
        }
    }
    TRY(sbuf_status(out, e));
done:
    mem_free(rows);
    return st;
}

static bool take(void *dst, size_t n, const char **p, const char *end) {
    if ((size_t)(end - *p) < n) return false;
    memcpy(dst, *p, n);
    *p += n;
    return true;
}

enum status cache_restore(struct cache *c, const char *bytes, size_t n_bytes, size_t *used,
                          struct err *e) {
    enum status st = OK;
    const char *p = bytes, *end = bytes + n_bytes;
    int64_t pos = 0;
    CHECK(c->pos == 0);
    if (!take(&pos, sizeof pos, &p, end) || pos < 0 || pos > INT64_MAX / 8) {
        FAIL(e, E_FORMAT, "saved cache: bad position");
    }
    for (int64_t l = 0; l < model_arch(c->mo->model)->n_layer; l++) {
        const struct vis_class *cls = class_of(c, l);
        int64_t n = 0;
        if (!take(&n, sizeof n, &p, end) || n != vis_cache_rows(&c->rule, cls, pos)) {
            FAIL(e, E_FORMAT, "saved cache: layer %lld has the wrong number of rows", (long long)l);
        }
        if (n == 0) continue;
        TRY(grow(c, &c->live[l], n, most_rows(&c->rule, cls, INT64_MAX / 4), 0, e));
        struct buf *const both[2] = {c->live[l].k, c->live[l].v};
        for (int i = 0; i < 2; i++) {
            const size_t row_bytes = buf_row_bytes(both[i]);
            if ((size_t)(end - p) / row_bytes < (size_t)n)
                FAIL(e, E_FORMAT, "saved cache: cut short");
            dev_write(c->mo->dev, both[i], 0, n, p);
            p += (size_t)n * row_bytes;
        }
    }
    TRY(dev_sync(c->mo->dev, e));
    c->pos = pos;
    *used = (size_t)(p - bytes);
done:
    return st;
}
