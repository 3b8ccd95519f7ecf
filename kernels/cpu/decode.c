/* Linear layers and the head of a handle for steps: rows of x become words once, then every thread
 * takes panels of the stored weights, each of which is read once for all rows. */
#include "kernels/cpu/decode.h"

#include "kernels/cpu/cpu_impl.h"

#include <math.h>

const struct cpu_decode *cpu_decode_of(enum cpu_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case CPU_AMX: return &cpu_decode_amx;
    case CPU_AVX512: return &cpu_decode_avx512;
    case CPU_AVX2: return &cpu_decode_avx2;
#else
    case CPU_AMX:
    case CPU_AVX512:
    case CPU_AVX2:
#endif
    case CPU_PORTABLE: break;
    }
    return &cpu_decode_portable;
}

static int64_t round16(int64_t n) {
    return (n + 15) / 16 * 16;
}

// How rows are packed for a weight; in memory that is given later.
static struct cpu_packed packed_for(const struct cpu_dev *d, const struct wt *w) {
    const struct dev_config *c = &d->base.cfg;
    struct cpu_packed p = {.type = cpu_decode_type(d, w->src.dtype)};
    const struct cpu_form f = cpu_form_of(p.type);
    p.round = c->compute == DT_BF16;
    p.mode = c->int8 && cpu_plane_scaled(f.plane)        ? MODE_INT8
             : c->compute == DT_BF16 && d->decode->pairs ? MODE_PAIRS
                                                         : MODE_F32;
    p.n_block = cpu_decode_blocks(p.type, w->src.n_in);
    p.sum = round16(p.n_block * cpu_plane_block(f.plane) / cpu_mode_step(p.mode));
    p.scale = p.sum + round16(p.n_block);
    p.start = p.scale + round16(p.n_block);
    p.ld = p.start + round16(p.n_block);
    return p;
}

static size_t packed_bytes(const struct cpu_packed *p, int64_t n_row) {
    return (size_t)n_row * (size_t)p->ld * sizeof *p->words;
}

struct packing {
    const struct cpu_dev *d;
    const struct cpu_packed *p;
    const struct buf *x;
};
static void pack_row(void *ctx, int64_t r, int thread) {
    const struct packing *k = ctx;
    (void)thread;
    k->d->decode->pack(k->p, r, cpu_row(k->x, r), k->x->n_col);
}
static void pack_rows(const struct cpu_dev *d, const struct cpu_packed *p, const struct buf *x,
                      int64_t n_row) {
    struct packing k = {d, p, x};
    cpu_share(d, 8 * n_row * x->n_col, n_row, pack_row, &k);
}

// Panels p0..p1-1 of w times all rows; column 0 of c is column p0 * lanes of the product.
static void product(const struct cpu_dev *d, const struct cpu_packed *x, const struct wt *w,
                    const struct wt *bias, int64_t p0, int64_t p1, struct cpu_panels out) {
    const int64_t lanes = d->decode->lanes, left = w->src.n_out - p0 * lanes;
    out.x = x;
    out.panel_bytes = cpu_decode_panel_bytes(d, x->type, w->src.n_in);
    out.w = (const unsigned char *)w->state + (size_t)p0 * out.panel_bytes;
    out.n_panel = p1 - p0;
    out.n_col = left < out.n_panel * lanes ? left : out.n_panel * lanes;
    out.bias = bias == NULL ? NULL : cpu_vector(bias, p0 * lanes);
    d->decode->panels(&out);
}

struct linear {
    const struct cpu_dev *d;
    const struct cpu_packed *x;
    const struct wt *w, *bias;
    struct buf *y;
    int64_t n_row, n_panel, chunk; // panels of an item
};
static void linear_item(void *ctx, int64_t i, int thread) {
    const struct linear *l = ctx;
    const int64_t p0 = i * l->chunk, p1 = p0 + l->chunk;
    (void)thread;
    product(l->d, l->x, l->w, l->bias, p0, p1 < l->n_panel ? p1 : l->n_panel,
            (struct cpu_panels){.n_row = l->n_row,
                                .c = cpu_row(l->y, 0) + p0 * l->d->decode->lanes,
                                .ldc = l->y->n_col});
}

void cpu_decode_linear(struct dev *dev, struct buf *y, const struct buf *x, const struct wt *w,
                       const struct wt *bias, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    if (n_row == 0) return;
    struct cpu_packed p = packed_for(d, w);
    p.words = cpu_scratch(d, packed_bytes(&p, n_row));
    if (p.words == NULL) return;
    pack_rows(d, &p, x, n_row);
    struct linear l = {.d = d, .x = &p, .w = w, .bias = bias, .y = y, .n_row = n_row};
    l.n_panel = cpu_ceil(w->src.n_out, d->decode->lanes);
    l.chunk = cpu_ceil(l.n_panel, 4 * d->n_thread);
    cpu_share(d, n_row * x->n_col * y->n_col, cpu_ceil(l.n_panel, l.chunk), linear_item, &l);
}

/* ---- the head: blocks of the vocabulary for all rows */

struct head {
    struct cpu_logits of;
    struct cpu_packed x;
    int64_t n_row;
    unsigned char *own; // of thread 0: [n_row, CPU_VOCAB]
    size_t own_bytes;
};

static void head_block(void *ctx, int64_t v, int thread) {
    const struct head *h = ctx;
    const struct cpu_dev *d = h->of.d;
    const struct dev_head *a = h->of.a;
    float *c = (float *)(void *)(h->own + h->own_bytes * (size_t)thread);
    const int64_t lanes = d->decode->lanes, per = CPU_VOCAB / lanes;
    const int64_t n_panel = cpu_ceil(a->w->src.n_out, lanes);
    const int64_t p1 = (v + 1) * per < n_panel ? (v + 1) * per : n_panel;
    product(d, &h->x, a->w, a->bias, v * per, p1,
            (struct cpu_panels){.n_row = h->n_row, .c = c, .ldc = CPU_VOCAB});
    cpu_logits_block(&h->of, 0, h->n_row, v, c);
}

static void head_result(void *ctx, int64_t r, int thread) {
    const struct head *h = ctx;
    const int32_t *target = h->of.a->target->data;
    double *logp = h->of.a->logp->data;
    (void)thread;
    logp[r] = target[r] < 0 ? (double)NAN : cpu_logits_result(&h->of, r);
}

void cpu_decode_head(struct dev *dev, const struct dev_head *a, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    if (n_row == 0 || !cpu_targets_ok(dev, a->target->data, n_row, a->w->src.n_out)) return;
    struct head h = {.of = {d, a, cpu_ceil(a->w->src.n_out, CPU_VOCAB), NULL, NULL},
                     .x = packed_for(d, a->w),
                     .n_row = n_row};
    const size_t rows = (size_t)n_row, words = cpu_round64(packed_bytes(&h.x, n_row));
    const size_t parts = cpu_round64(rows * (size_t)h.of.n_block * sizeof *h.of.part);
    const size_t logits = cpu_round64(rows * sizeof(float));
    h.own_bytes = rows * CPU_VOCAB * sizeof(float);
    unsigned char *at = cpu_scratch(d, words + parts + logits + h.own_bytes * (size_t)d->n_thread);
    if (at == NULL) return;
    h.x.words = (uint32_t *)(void *)at;
    h.of.part = (struct cpu_part *)(void *)(at + words);
    h.of.target_logit = (float *)(void *)(at + words + parts);
    h.own = at + words + parts + logits;
    pack_rows(d, &h.x, a->x, n_row);
    cpu_share(d, n_row * a->x->n_col * a->w->src.n_out, h.of.n_block, head_block, &h);
    cpu_share(d, 64 * n_row * h.of.n_block, n_row, head_result, &h);
}
