/* Linear layers and the output head: both are products of packed rows with packed panels. */
#include "kernels/cpu/cpu_impl.h"

#include <math.h>
#include <omp.h>

void cpu_linear(struct dev *dev, struct buf *y, const struct buf *x, const struct wt *w,
                const struct wt *bias, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    if (n_row == 0) return;
    const int64_t n_panel = cpu_ceil(w->src.n_out, d->lin->nr);
    const struct cpu_rows cut = cpu_cut(d, n_row, w->src.n_in, n_panel);
    unsigned char *scratch = cpu_scratch(d, cut.pack_bytes * (size_t)d->n_thread);
    if (scratch == NULL) return;
#pragma omp parallel num_threads(cpu_team(d, n_row * x->n_col * y->n_col))
    {
        void *pack = scratch + cut.pack_bytes * (size_t)omp_get_thread_num();
        int64_t packed = -1;
        d->lin->thread_begin();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < cut.n_block * cut.n_group; i++) {
            const int64_t row = i / cut.n_group * cut.block, p0 = i % cut.n_group * cut.group;
            const int64_t n = n_row - row < cut.block ? n_row - row : cut.block;
            if (row != packed) cpu_pack_rows(d, &cut, pack, x, row, n);
            packed = row;
            const struct cpu_product p = {.w = w,
                                          .bias = bias,
                                          .pack = pack,
                                          .n = n,
                                          .steps = cut.steps,
                                          .p0 = p0,
                                          .p1 = p0 + cut.group < n_panel ? p0 + cut.group : n_panel,
                                          .c = cpu_row(y, row) + p0 * d->lin->nr,
                                          .ldc = y->n_col};
            cpu_product(d, &p);
        }
        d->lin->thread_end();
    }
}

/* ---- the head. The vocabulary is cut into blocks of VOCAB columns; each leaves a maximum and a
 * sum of exponentials per row. */

enum { VOCAB = CPU_VOCAB };

struct head {
    struct cpu_logits of;
    struct cpu_rows cut;
};

void cpu_logits_block(const struct cpu_logits *h, int64_t row, int64_t n, int64_t v, float *c) {
    const struct cpu_kernels *k = h->d->k;
    const int64_t col = v * VOCAB, left = h->a->w->src.n_out - col;
    const int64_t n_col = left < VOCAB ? left : VOCAB;
    const int32_t *target = h->a->target->data;
    for (int64_t i = 0; i < n; i++) {
        float *l = c + i * VOCAB;
        bool finite = true;
        struct cpu_part part;
        part.max = k->logit_max(l, n_col, (float)h->a->scale, (float)h->a->softcap, &finite);
        part.sum = finite ? k->logit_sum(l, n_col, part.max) : NAN;
        h->part[(row + i) * h->n_block + v] = part;
        const int64_t t = target[row + i] - col;
        if (t >= 0 && t < n_col) h->target_logit[row + i] = l[t];
        if (h->a->logits != NULL)
            memcpy(cpu_row(h->a->logits, row + i) + col, l, (size_t)n_col * sizeof *l);
    }
}

// Rows of one block against blocks v0..v1-1 of the vocabulary.
static void head_item(const struct head *h, const void *pack, float *c, int64_t row, int64_t n,
                      int64_t v0, int64_t v1) {
    const int64_t per = VOCAB / h->of.d->lin->nr,
                  n_panel = cpu_ceil(h->of.a->w->src.n_out, h->of.d->lin->nr);
    for (int64_t v = v0; v < v1; v++) {
        const struct cpu_product p = {.w = h->of.a->w,
                                      .bias = h->of.a->bias,
                                      .pack = pack,
                                      .n = n,
                                      .steps = h->cut.steps,
                                      .p0 = v * per,
                                      .p1 = (v + 1) * per < n_panel ? (v + 1) * per : n_panel,
                                      .c = c,
                                      .ldc = VOCAB};
        cpu_product(h->of.d, &p);
        cpu_logits_block(&h->of, row, n, v, c);
    }
}

struct cpu_lse cpu_join_parts(const struct cpu_part *p, int64_t n_block) {
    double max = (double)p[0].max, sum = 0;
    for (int64_t v = 1; v < n_block; v++)
        if ((double)p[v].max > max) max = (double)p[v].max;
    for (int64_t v = 0; v < n_block; v++) sum += (double)p[v].sum * exp((double)p[v].max - max);
    return (struct cpu_lse){max, log(sum)};
}

double cpu_logits_result(const struct cpu_logits *h, int64_t r) {
    const struct cpu_lse all = cpu_join_parts(h->part + r * h->n_block, h->n_block);
    return (double)h->target_logit[r] - all.max - all.log_sum;
}

bool cpu_targets_ok(struct dev *d, const int32_t *target, int64_t n_row, int64_t n_vocab) {
    for (int64_t r = 0; r < n_row; r++)
        if (target[r] < -1 || target[r] >= n_vocab) {
            dev_fail(d, E_ARG, "target %d is outside the vocabulary", (int)target[r]);
            return false;
        }
    return true;
}

void cpu_head(struct dev *dev, const struct dev_head *a, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    const int32_t *target = a->target->data;
    double *logp = a->logp->data;
    if (n_row == 0 || !cpu_targets_ok(dev, target, n_row, a->w->src.n_out)) return;
    struct head h = {.of = {d, a, cpu_ceil(a->w->src.n_out, VOCAB), NULL, NULL}};
    h.cut = cpu_cut(d, n_row, a->w->src.n_in, h.of.n_block);
    const size_t parts = cpu_round64((size_t)n_row * (size_t)h.of.n_block * sizeof *h.of.part);
    const size_t logits = cpu_round64((size_t)n_row * sizeof(float));
    const size_t tile = cpu_round64((size_t)h.cut.block * VOCAB * sizeof(float));
    const size_t per_thread = h.cut.pack_bytes + tile;
    unsigned char *scratch = cpu_scratch(d, parts + logits + per_thread * (size_t)d->n_thread);
    if (scratch == NULL) return;
    h.of.part = (struct cpu_part *)(void *)scratch;
    h.of.target_logit = (float *)(void *)(scratch + parts);
#pragma omp parallel num_threads(cpu_team(d, n_row * a->x->n_col * a->w->src.n_out))
    {
        unsigned char *own = scratch + parts + logits + per_thread * (size_t)omp_get_thread_num();
        float *c = (float *)(void *)(own + h.cut.pack_bytes);
        int64_t packed = -1;
        d->lin->thread_begin();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < h.cut.n_block * h.cut.n_group; i++) {
            const int64_t row = i / h.cut.n_group * h.cut.block,
                          v0 = i % h.cut.n_group * h.cut.group;
            const int64_t n = n_row - row < h.cut.block ? n_row - row : h.cut.block;
            const int64_t v1 = v0 + h.cut.group < h.of.n_block ? v0 + h.cut.group : h.of.n_block;
            if (row != packed) cpu_pack_rows(d, &h.cut, own, a->x, row, n);
            packed = row;
            head_item(&h, own, c, row, n, v0, v1);
        }
        d->lin->thread_end();
#pragma omp for schedule(static)
        for (int64_t r = 0; r < n_row; r++)
            logp[r] = target[r] < 0 ? (double)NAN : cpu_logits_result(&h.of, r);
    }
}
