/* Operations on one row at a time, shared out over rows. */
#include "kernels/cpu/cpu_impl.h"

#include <math.h>

void cpu_embed(struct dev *dev, struct buf *y, const struct wt *table, const struct buf *ids,
               double scale, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    const int32_t *id = ids->data;
    for (int64_t r = 0; r < n_row; r++)
        if (id[r] < 0 || id[r] >= table->src.n_out) {
            dev_fail(dev, E_ARG, "token id %d is outside the table", (int)id[r]);
            return;
        }
    int64_t bad = INT64_MAX; // the first row that is not finite
#pragma omp parallel for num_threads(cpu_team(d, 16 * n_row * y->n_col)) schedule(static)          \
    reduction(min                                                                                  \
              : bad)
    for (int64_t r = 0; r < n_row; r++) {
        float *row = cpu_row(y, r);
        if (!d->k->floats(row, dev_src_ptr(&table->src, id[r]), table->src.dtype, y->n_col) &&
            r < bad)
            bad = r;
        if (scale != 1)
            for (int64_t k = 0; k < y->n_col; k++) row[k] = (float)((double)row[k] * scale);
    }
    if (bad != INT64_MAX)
        dev_fail(dev, E_FORMAT, "%s holds NaN or infinity in row %d", table->src.name,
                 (int)id[bad]);
}

// What a row of an operation needs; each uses some of it.
struct rows {
    const struct cpu_dev *d;
    struct buf *y;
    const struct buf *x, *z;
    const struct dev_norm *norm;
    const struct dev_rope *rope;
    enum act_kind act;
    float by;
};
typedef void row_fn(void *rows, int64_t r, int thread);

// Rows 0..n_row-1; `each` is a row's work. Equal shares of blocks, so that what one operation leaves in a
// core's cache the next one finds there; in a step, by whoever has time.
static void share(struct rows *o, int64_t n_row, int64_t each, row_fn *fn) {
    if (o->d->pool != NULL) {
        cpu_share(o->d, n_row * each, n_row, fn, o);
        return;
    }
#pragma omp parallel for num_threads(cpu_team(o->d, n_row *each)) schedule(static)
    for (int64_t r = 0; r < n_row; r++) fn(o, r, 0);
}

static void norm_row(void *rows, int64_t r, int thread) {
    const struct rows *o = rows;
    const struct dev_norm *p = o->norm;
    const int64_t n = o->x->n_col / p->n_group;
    const float *w = cpu_vector(p->weight, 0), *b = p->bias != NULL ? cpu_vector(p->bias, 0) : NULL;
    (void)thread;
    for (int g = 0; g < p->n_group; g++)
        o->d->k->norm(cpu_row(o->y, r) + g * n, cpu_row(o->x, r) + g * n, w, b, n,
                      p->kind == NORM_LAYER, (float)p->eps, (float)p->weight_offset);
}

void cpu_norm(struct dev *dev, struct buf *y, const struct buf *x, const struct dev_norm *p,
              int64_t n_row) {
    struct rows o = {.d = cpu_of(dev), .y = y, .x = x, .norm = p};
    share(&o, n_row, 16 * x->n_col, norm_row);
}

void cpu_angles(struct dev *dev, struct buf *ang, const struct buf *pos, const double *freq,
                int n_pair, double mscale, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    const int64_t *at = pos->data;
#pragma omp parallel for num_threads(cpu_team(d, 128 * n_row * n_pair)) schedule(static)
    for (int64_t r = 0; r < n_row; r++)
        for (int k = 0; k < n_pair; k++) {
            double s = 0, c = 0;
            if (r > 0 && at[r] == at[r - 1]) break; // below: p stands still once a window is full
            sincos((double)at[r] * freq[k], &s, &c);
            cpu_row(ang, r)[k] = (float)(mscale * c);
            cpu_row(ang, r)[n_pair + k] = (float)(mscale * s);
        }
    for (int64_t r = 1; r < n_row; r++)
        if (at[r] == at[r - 1]) memcpy(cpu_row(ang, r), cpu_row(ang, r - 1), ang->row_bytes);
}

static void rope_row(void *rows, int64_t r, int thread) {
    const struct rows *o = rows;
    (void)thread;
    o->d->k->rope(cpu_row(o->y, r), cpu_row(o->x, r), cpu_row(o->z, r), o->rope);
}

void cpu_rope(struct dev *dev, struct buf *y, const struct buf *x, const struct buf *ang,
              const struct dev_rope *p, int64_t n_row) {
    struct rows o = {.d = cpu_of(dev), .y = y, .x = x, .z = ang, .rope = p};
    share(&o, n_row, 16 * x->n_col, rope_row);
}

static void store_row(const struct cpu_dev *d, struct buf *kv, int64_t row, const float *x) {
    if (kv->dtype == DT_BF16)
        d->k->to_bf16(dev_host_row(kv, row), x, kv->n_col);
    else
        memcpy(dev_host_row(kv, row), x, kv->row_bytes);
}

void cpu_kv_store(struct dev *dev, struct buf *kv, const struct buf *x, const struct buf *seg,
                  int n_seg) {
    struct cpu_dev *d = cpu_of(dev);
    const struct dev_seg *segs = seg->data;
    if (!dev_host_segs_ok(dev, segs, n_seg, x->n_row, kv->n_row, false, false)) return;
#pragma omp parallel num_threads(cpu_team(d, 16 * x->n_row * x->n_col))
    for (int i = 0; i < n_seg; i++) {
        const struct dev_seg *s = segs + i;
#pragma omp for schedule(static) nowait
        for (int64_t r = 0; r < s->n_row; r++) {
            const float *row = cpu_row(x, s->first_row + r);
            store_row(d, kv, s->own_row + r, row);
            if (s->pos + r < s->n_sink) store_row(d, kv, s->sink_row + s->pos + r, row);
        }
    }
}

static void act_row(void *rows, int64_t r, int thread) {
    const struct rows *o = rows;
    (void)thread;
    o->d->k->act(cpu_row(o->y, r), cpu_row(o->x, r), o->z != NULL ? cpu_row(o->z, r) : NULL,
                 o->y->n_col, o->act);
}

void cpu_act(struct dev *dev, struct buf *y, const struct buf *g, const struct buf *u,
             enum act_kind kind, int64_t n_row) {
    struct rows o = {.d = cpu_of(dev), .y = y, .x = g, .z = u, .act = kind};
    share(&o, n_row, 32 * y->n_col, act_row);
}

static void clip_row(void *rows, int64_t r, int thread) {
    const struct rows *o = rows;
    float *x = cpu_row(o->y, r);
    (void)thread;
    for (int64_t k = 0; k < o->y->n_col; k++)
        x[k] = x[k] < -o->by ? -o->by : x[k] > o->by ? o->by : x[k];
}

void cpu_clip(struct dev *dev, struct buf *y, double most, int64_t n_row) {
    struct rows o = {.d = cpu_of(dev), .y = y, .by = (float)most};
    share(&o, n_row, 4 * y->n_col, clip_row);
}

static void add_row(void *rows, int64_t r, int thread) {
    const struct rows *o = rows;
    (void)thread;
    o->d->k->add(cpu_row(o->y, r), cpu_row(o->x, r), o->by, o->y->n_col);
}

void cpu_add(struct dev *dev, struct buf *y, const struct buf *x, double scale, int64_t n_row) {
    struct rows o = {.d = cpu_of(dev), .y = y, .x = x, .by = (float)scale};
    share(&o, n_row, 8 * y->n_col, add_row);
}
