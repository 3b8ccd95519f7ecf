/* Linear layers and the head of a handle for steps: rows of x become words once, then every thread
 * takes panels of the stored weights, each of which is read once for all rows. */
#include "kernels/cpu/decode.h"

#include "kernels/cpu/cpu_impl.h"

#include <math.h>
#include <omp.h>

enum { FEW_ROWS = 4 }; // so few rows are packed sooner than a team meets

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

// Before a parallel region when rows are few, else all threads of it together.
static void pack_rows(const struct cpu_dev *d, const struct cpu_packed *p, const struct buf *x,
                      int64_t n_row, bool before) {
    if (before != (n_row <= FEW_ROWS)) return;
    if (before) {
        for (int64_t r = 0; r < n_row; r++) d->decode->pack(p, r, cpu_row(x, r), x->n_col);
        return;
    }
#pragma omp for schedule(static)
    for (int64_t r = 0; r < n_row; r++) d->decode->pack(p, r, cpu_row(x, r), x->n_col);
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

void cpu_decode_linear(struct dev *dev, struct buf *y, const struct buf *x, const struct wt *w,
                       const struct wt *bias, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    if (n_row == 0) return;
    struct cpu_packed p = packed_for(d, w);
    p.words = cpu_scratch(d, packed_bytes(&p, n_row));
    if (p.words == NULL) return;
    const int64_t lanes = d->decode->lanes, n_panel = cpu_ceil(w->src.n_out, lanes);
    const int team = cpu_team(d, n_row * x->n_col * y->n_col);
    const int64_t chunk = cpu_ceil(n_panel, 4 * team);
    pack_rows(d, &p, x, n_row, true);
#pragma omp parallel num_threads(team)
    {
        pack_rows(d, &p, x, n_row, false);
#pragma omp for schedule(dynamic, 1)
        for (int64_t p0 = 0; p0 < n_panel; p0 += chunk) {
            const int64_t p1 = p0 + chunk < n_panel ? p0 + chunk : n_panel;
            product(d, &p, w, bias, p0, p1,
                    (struct cpu_panels){
                        .n_row = n_row, .c = cpu_row(y, 0) + p0 * lanes, .ldc = y->n_col});
        }
    }
}

/* ---- the head: blocks of the vocabulary for all rows */

struct head {
    struct cpu_logits of;
    struct cpu_packed x;
    int64_t n_row;
};

// Block v of the vocabulary; c [n_row, CPU_VOCAB] is the thread's.
static void head_block(const struct head *h, int64_t v, float *c) {
    const struct cpu_dev *d = h->of.d;
    const struct dev_head *a = h->of.a;
    const int64_t lanes = d->decode->lanes, per = CPU_VOCAB / lanes;
    const int64_t n_panel = cpu_ceil(a->w->src.n_out, lanes);
    const int64_t p1 = (v + 1) * per < n_panel ? (v + 1) * per : n_panel;
    product(d, &h->x, a->w, a->bias, v * per, p1,
            (struct cpu_panels){.n_row = h->n_row, .c = c, .ldc = CPU_VOCAB});
    cpu_logits_block(&h->of, 0, h->n_row, v, c);
}

void cpu_decode_head(struct dev *dev, const struct dev_head *a, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    const int32_t *target = a->target->data;
    double *logp = a->logp->data;
    if (n_row == 0 || !cpu_targets_ok(dev, target, n_row, a->w->src.n_out)) return;
    struct head h = {.of = {d, a, cpu_ceil(a->w->src.n_out, CPU_VOCAB), NULL, NULL},
                     .x = packed_for(d, a->w),
                     .n_row = n_row};
    const size_t rows = (size_t)n_row, words = cpu_round64(packed_bytes(&h.x, n_row));
    const size_t parts = cpu_round64(rows * (size_t)h.of.n_block * sizeof *h.of.part);
    const size_t logits = cpu_round64(rows * sizeof(float));
    const size_t c_bytes = rows * CPU_VOCAB * sizeof(float);
    unsigned char *at = cpu_scratch(d, words + parts + logits + c_bytes * (size_t)d->n_thread);
    if (at == NULL) return;
    h.x.words = (uint32_t *)(void *)at;
    h.of.part = (struct cpu_part *)(void *)(at + words);
    h.of.target_logit = (float *)(void *)(at + words + parts);
    pack_rows(d, &h.x, a->x, n_row, true);
#pragma omp parallel num_threads(cpu_team(d, n_row * a->x->n_col * a->w->src.n_out))
    {
        unsigned char *own = at + words + parts + logits + c_bytes * (size_t)omp_get_thread_num();
        pack_rows(d, &h.x, a->x, n_row, false);
#pragma omp for schedule(dynamic, 1)
        for (int64_t v = 0; v < h.of.n_block; v++) head_block(&h, v, (float *)(void *)own);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < n_row; r++)
            logp[r] = target[r] < 0 ? (double)NAN : cpu_logits_result(&h.of, r);
    }
}
