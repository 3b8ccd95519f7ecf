/* A handle for steps of few rows (DEV_STEPS): the host side of its linear layers, its head and its attention. */
#include "kernels/cuda/cuda_impl.h"

#define PART_BYTES ((size_t)64 << 20) /* rows are taken in batches whose parts take about so much */

// Rows of x as the kernels read them: bf16 or floats, whole runs of 16.
static const void *step_rows(struct cuda_dev *d, const struct buf *x, int64_t n_row,
                             int64_t k_pad) {
    const bool bf16 = d->base.cfg.compute == DT_BF16;
    if (!bf16 && k_pad == x->n_col) return cuda_at(x, 0);
    if (d->operand_of == x && d->operand_rows == n_row) return d->operand.p;
    d->operand_of = NULL;
    if (cuda_scratch(d, &d->operand, (size_t)(n_row * k_pad) * cuda_word(d)) == NULL) return NULL;
    cuda_stage_rows(d->stream, d->operand.p, bf16, cuda_at(x, 0), n_row, n_row, x->n_col, k_pad);
    if (!CUDA_LAUNCHED(d)) return NULL;
    d->operand_of = x;
    d->operand_rows = n_row;
    return d->operand.p;
}

// y [n_row, n_out]
static bool product(struct cuda_dev *d, float *y, const struct buf *x, const struct wt *w,
                    const float *bias, int64_t n_row) {
    struct cuda_step_linear p = {.y = y,
                                 .bf16 = d->base.cfg.compute == DT_BF16,
                                 .bias = bias,
                                 .n_row = n_row,
                                 .n_out = w->src.n_out,
                                 .n_in = w->src.n_in,
                                 .k_pad = (w->src.n_in + 15) / 16 * 16};
    p.w = cuda_wt_stored(d, w, &p.type, &p.row_bytes);
    p.x = step_rows(d, x, n_row, p.k_pad);
    if (p.x == NULL) return false;
    cuda_step_linear_rows(d->stream, &p);
    return CUDA_LAUNCHED(d);
}

void cuda_step_linear(struct cuda_dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                      const struct wt *bias, int64_t n_row) {
    product(d, cuda_at(y, 0), x, w, cuda_wt_floats(bias), n_row);
}

void cuda_step_head(struct cuda_dev *d, const struct dev_head *a, int64_t n_row) {
    struct cuda_head h;
    if (!cuda_head_begin(d, a, n_row, &h)) return;
    float *c = h.logits;
    if (c == NULL) c = cuda_scratch(d, &d->logits, (size_t)(n_row * h.n_vocab) * sizeof(float));
    if (c == NULL || !product(d, c, a->x, a->w, NULL, n_row)) return;
    h.c = c;
    h.n_col = h.n_vocab;
    h.bias = cuda_wt_floats(a->bias);
    cuda_head_block(d->stream, &h);
    cuda_head_join(d->stream, &h);
    CUDA_LAUNCHED(d);
}

// ---- attention

static int64_t ceil_to(int64_t n, int64_t per) {
    return (n + per - 1) / per;
}

// Tiles that a row of the segments has at most, in steps of 4: a recorded step fits the next ones, too.
int64_t cuda_step_tiles(const struct dev_seg *seg, int n_seg) {
    int64_t most = 1;
    for (int i = 0; i < n_seg; i++) {
        const struct dev_seg *s = seg + i;
        const int64_t end = s->pos + s->n_row, low = dev_seg_first_win(s, 0);
        const int64_t sinks = ceil_to(s->n_sink < end ? s->n_sink : end, CUDA_KEYS);
        const int64_t begin = low / CUDA_KEYS * CUDA_KEYS;
        const int64_t n = sinks + (end > low ? ceil_to(end - begin, CUDA_KEYS) : 0);
        if (n > most) most = n;
    }
    return ceil_to(most, 4) * 4;
}

void cuda_step_attend(struct cuda_dev *d, const struct dev_attend *a, const struct cuda_attend *at,
                      int64_t n_row) {
    struct cuda_step_attend p = {
        .a = *at, .n_seg = a->n_seg, .width = (int)ceil_to(a->d_head, 8) * 8};
    if (cuda_step_attend_smem(p.width) > d->smem_most) {
        dev_fail(&d->base, E_UNSUPPORTED, "heads of %d do not fit this GPU's shared memory",
                 a->d_head);
        return;
    }
    p.n_tile = cuda_step_tiles(cuda_segs(a->seg), a->n_seg);
    cuda_note_segs(d, &(struct cuda_condition){.seg = a->seg,
                                               .n_seg = a->n_seg,
                                               .attends = true,
                                               .n_row = n_row,
                                               .kv_rows = a->k->n_row,
                                               .grid = p.n_tile});
    const size_t row = (size_t)(a->n_head * p.n_tile) * (2 + (size_t)a->d_head) * sizeof(float);
    const int64_t fits = (int64_t)(PART_BYTES / row), most = fits < 1 ? 1 : fits;
    const int64_t batch = n_row < most ? n_row : most, n = batch * a->n_head * p.n_tile;
    p.max = cuda_scratch(d, &d->attending, (size_t)batch * row);
    if (p.max == NULL) return;
    p.sum = p.max + n;
    p.o = p.sum + n;
    for (p.row0 = 0; p.row0 < n_row; p.row0 += batch) {
        p.n_row = n_row - p.row0 < batch ? n_row - p.row0 : batch;
        cuda_step_attend_rows(d->stream, &p, a->k->dtype == DT_BF16);
        if (!CUDA_LAUNCHED(d)) return;
    }
}
