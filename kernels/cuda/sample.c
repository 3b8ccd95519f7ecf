/* Sampling and similarity: scratch and arguments for the kernels of sample.cu. Rows are taken in batches, so that
 * scratch stays small. */
#include "kernels/cuda/cuda_impl.h"

#include <math.h>

#define BATCH_BYTES ((size_t)64 << 20) /* of changed logits, or of cosines */

static int64_t batch_of(size_t row_bytes, int64_t n_row) {
    const int64_t fits = (int64_t)(BATCH_BYTES / row_bytes), most = fits < 1 ? 1 : fits;
    const int64_t n = n_row < most ? n_row : most;
    return n < 65535 ? n : 65535;
}

static void *carve(unsigned char *base, size_t *at, int64_t n, size_t size) {
    void *p = base != NULL ? base + *at : NULL;
    *at += ((size_t)n * size + 15) / 16 * 16;
    return p;
}

static size_t layout(struct cuda_sample *p, int64_t n_row, unsigned char *base) {
    size_t at = 0;
    p->list = carve(base, &at, n_row * p->n_list, sizeof *p->list);
    p->part = carve(base, &at, n_row * p->n_part, sizeof *p->part);
    p->part_y = carve(base, &at, n_row * p->n_part, sizeof *p->part_y);
    p->y = carve(base, &at, p->adjust != NULL ? n_row * p->n_vocab : 0, sizeof *p->y);
    return at;
}

static float unit_of(int64_t n_vocab) {
    int bits = 44;
    while (bits > 24 && n_vocab > (int64_t)1 << (62 - bits)) bits--;
    return ldexpf(1, bits);
}

static void next_rows(struct cuda_sample *p) {
    p->rows += p->n_row;
    p->id += p->n_row;
    p->logp += p->n_row;
    if (p->n_top == 0) return;
    p->top_id += p->n_row * p->n_top;
    p->top_logp += p->n_row * p->n_top;
    p->top_adjusted += p->n_row * p->n_top;
}

void cuda_sample(struct dev *dev, const struct dev_sample *a, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_HEAD);
    const struct dev_sample_row *rows = cuda_host_rows(a->rows);
    if (!dev_sample_rows_ok(dev, a, rows, a->adjust != NULL ? cuda_host_rows(a->adjust) : NULL,
                            n_row) ||
        n_row == 0)
        return;
    bool changes = false;
    for (int64_t i = 0; i < n_row; i++) changes = changes || rows[i].n_adjust > 0;
    const int64_t n_vocab = a->logits->n_col;
    struct cuda_sample p = {.logits = cuda_at(a->logits, 0),
                            .rows = cuda_at(a->rows, 0),
                            .adjust = changes ? cuda_at(a->adjust, 0) : NULL,
                            .id = cuda_at(a->id, 0),
                            .logp = cuda_at(a->logp, 0),
                            .n_top = a->n_top,
                            .top_id = a->n_top > 0 ? cuda_at(a->top_id, 0) : NULL,
                            .top_logp = a->n_top > 0 ? cuda_at(a->top_logp, 0) : NULL,
                            .top_adjusted = a->n_top > 0 ? cuda_at(a->top_adjusted, 0) : NULL,
                            .n_vocab = n_vocab,
                            .n_part = (n_vocab + CUDA_PART - 1) / CUDA_PART,
                            .n_list = a->n_top < n_vocab ? a->n_top : n_vocab,
                            .unit = unit_of(n_vocab)};
    const int64_t batch = batch_of((size_t)n_vocab * sizeof(float), n_row);
    if (cuda_scratch(d, &d->sampling, layout(&p, batch, NULL)) == NULL) return;
    layout(&p, batch, d->sampling.p);
    for (int64_t row = 0; row < n_row; row += batch, next_rows(&p)) {
        p.n_row = n_row - row < batch ? n_row - row : batch;
        cuda_sample_rows(d->stream, &p);
        if (!CUDA_LAUNCHED(d)) return;
    }
}

void cuda_similar(struct dev *dev, const struct dev_similar *a, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_OTHER);
    if (n_row == 0) return;
    const int64_t batch = batch_of((size_t)a->n_y * sizeof(float), n_row);
    struct cuda_similar p = {.out = cuda_at(a->out, a->out_row),
                             .x = cuda_at(a->x, a->row),
                             .y = cuda_at(a->y, 0),
                             .n_y = a->n_y,
                             .n_col = a->y->n_col};
    p.part = cuda_scratch(d, &d->sampling, (size_t)(batch * a->n_y) * sizeof(float));
    if (p.part == NULL) return;
    for (int64_t row = 0; row < n_row; row += batch) {
        p.n_row = n_row - row < batch ? n_row - row : batch;
        cuda_similar_rows(d->stream, &p);
        if (!CUDA_LAUNCHED(d)) return;
        p.out += p.n_row;
        p.x += p.n_row * p.n_col;
    }
}
