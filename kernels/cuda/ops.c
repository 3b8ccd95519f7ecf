/* The operations besides products: arguments for the kernels. */
#include "kernels/cuda/cuda_impl.h"

void cuda_embed(struct dev *dev, struct buf *y, const struct wt *table, const struct buf *ids,
                double scale, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ROWS);
    if (n_row == 0) return;
    cuda_wrote(d, y);
    const struct cuda_embed p = {.y = cuda_at(y, 0),
                                 .ids = cuda_at(ids, 0),
                                 .table = cuda_wt_rows(table),
                                 .type = table->src.dtype,
                                 .row_bytes = dtype_row_bytes(table->src.dtype, table->src.n_in),
                                 .n_row = n_row,
                                 .n_col = y->n_col,
                                 .n_table = table->src.n_out,
                                 .scale = (float)scale,
                                 .watch = cuda_watch(d, table->src.name)};
    cuda_embed_rows(d->stream, &p);
    CUDA_LAUNCHED(d);
}

void cuda_norm(struct dev *dev, struct buf *y, const struct buf *x, const struct dev_norm *p,
               int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ROWS);
    if (n_row == 0) return;
    cuda_wrote(d, y);
    const struct cuda_norm k = {.y = cuda_at(y, 0),
                                .x = cuda_at(x, 0),
                                .w = cuda_wt_floats(p->weight),
                                .b = cuda_wt_floats(p->bias),
                                .n_row = n_row * p->n_group,
                                .n = x->n_col / p->n_group,
                                .eps = (float)p->eps,
                                .offset = (float)p->weight_offset,
                                .layer = p->kind == NORM_LAYER};
    cuda_norm_rows(d->stream, &k);
    CUDA_LAUNCHED(d);
}

void cuda_angles(struct dev *dev, struct buf *ang, const struct buf *pos, const double *freq,
                 int n_pair, double mscale, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ROWS);
    cuda_wrote(d, ang);
    for (int k = 0; n_row > 0 && k < n_pair; k += CUDA_FREQS) {
        struct cuda_angles p = {.ang = cuda_at(ang, 0),
                                .pos = cuda_at(pos, 0),
                                .n_row = n_row,
                                .n_pair = n_pair,
                                .k0 = k,
                                .n_k = n_pair - k < CUDA_FREQS ? n_pair - k : CUDA_FREQS,
                                .mscale = mscale};
        memcpy(p.freq, freq + k, (size_t)p.n_k * sizeof *freq);
        cuda_angles_rows(d->stream, &p);
        if (!CUDA_LAUNCHED(d)) return;
    }
}

void cuda_rope(struct dev *dev, struct buf *y, const struct buf *x, const struct buf *ang,
               const struct dev_rope *p, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ROWS);
    if (n_row == 0) return;
    cuda_wrote(d, y);
    cuda_rope_rows(d->stream, cuda_at(y, 0), cuda_at(x, 0), cuda_at(ang, 0), p, n_row);
    CUDA_LAUNCHED(d);
}

void cuda_act(struct dev *dev, struct buf *y, const struct buf *g, const struct buf *u,
              enum act_kind kind, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ROWS);
    if (n_row == 0) return;
    cuda_wrote(d, y);
    cuda_act_rows(d->stream, cuda_at(y, 0), cuda_at(g, 0), u != NULL ? cuda_at(u, 0) : NULL, kind,
                  n_row * y->n_col);
    CUDA_LAUNCHED(d);
}

void cuda_add(struct dev *dev, struct buf *y, const struct buf *x, double scale, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ROWS);
    if (n_row == 0) return;
    cuda_wrote(d, y);
    cuda_add_rows(d->stream, cuda_at(y, 0), cuda_at(x, 0), (float)scale, n_row * y->n_col);
    CUDA_LAUNCHED(d);
}

void cuda_clip(struct dev *dev, struct buf *y, double most, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ROWS);
    if (n_row == 0) return;
    cuda_wrote(d, y);
    cuda_clip_rows(d->stream, cuda_at(y, 0), (float)most, n_row * y->n_col);
    CUDA_LAUNCHED(d);
}

int64_t cuda_store_pieces(const struct dev_seg *seg, int n_seg) {
    int64_t most = 1;
    for (int i = 0; i < n_seg; i++)
        if (seg[i].n_row > most) most = seg[i].n_row;
    return (most + CUDA_STORE_ROWS - 1) / CUDA_STORE_ROWS;
}

void cuda_kv_store(struct dev *dev, struct buf *kv, const struct buf *x, const struct buf *seg,
                   int n_seg) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ATTEND);
    if (!dev_host_segs_ok(dev, cuda_segs(seg), n_seg, x->n_row, kv->n_row, false, false) ||
        n_seg == 0)
        return;
    cuda_wrote(d, kv);
    struct cuda_store p = {.kv = cuda_at(kv, 0),
                           .bf16 = kv->dtype == DT_BF16,
                           .x = cuda_at(x, 0),
                           .n_col = kv->n_col,
                           .seg = cuda_at(seg, 0)};
    if (cuda_steps(d)) { // segments of a row: nothing to plan, so that nothing but them changes
        p.n_item = n_seg;
        p.n_piece = cuda_store_pieces(cuda_segs(seg), n_seg);
        cuda_note_segs(d, &(struct cuda_condition){.seg = seg,
                                                   .n_seg = n_seg,
                                                   .n_row = x->n_row,
                                                   .kv_rows = kv->n_row,
                                                   .grid = p.n_piece});
    } else {
        p.item = cuda_plan_items(d, seg, 0, n_seg, CUDA_STORE_ROWS, 1, &p.n_item);
        if (p.item == NULL) return;
    }
    cuda_kv_store_rows(d->stream, &p);
    CUDA_LAUNCHED(d);
}

void cuda_attend(struct dev *dev, const struct dev_attend *a, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_ATTEND);
    if (!dev_host_segs_ok(dev, cuda_segs(a->seg), a->n_seg, n_row, a->k->n_row, true, true) ||
        n_row == 0)
        return;
    const bool bf16 = a->k->dtype == DT_BF16, steps = cuda_steps(d);
    const bool mma =
        bf16 && !steps && a->d_head <= 256 && cuda_attend_smem(a->d_head) <= d->smem_most;
    if (!mma && !steps && cuda_attend_any_smem(a->d_head) > d->smem_most) {
        dev_fail(dev, E_UNSUPPORTED, "heads of %d do not fit this GPU's shared memory", a->d_head);
        return;
    }
    cuda_wrote(d, a->out);
    struct cuda_attend p = {.out = cuda_at(a->out, 0),
                            .q_win = cuda_at(a->q_win, 0),
                            .q_sink = cuda_at(a->q_sink, 0),
                            .k = cuda_at(a->k, 0),
                            .v = cuda_at(a->v, 0),
                            .seg = cuda_at(a->seg, 0),
                            .n_head = a->n_head,
                            .n_kv = a->n_kv,
                            .d_head = a->d_head,
                            .group = a->n_head / a->n_kv,
                            .scale = (float)a->scale,
                            .cap = a->softcap > 0 ? (float)a->softcap : 0.0f,
                            .inv_cap = a->softcap > 0 ? (float)(1 / a->softcap) : 0.0f,
                            .slopes = cuda_wt_floats(a->slopes)};
    if (steps) {
        cuda_step_attend(d, a, &p, n_row);
        return;
    }
    const int rows = mma ? cuda_attend_rows(a->d_head) : CUDA_ANY_ROWS;
    p.item = cuda_plan_items(d, a->seg, 1, a->n_seg, rows, p.group, &p.n_item);
    if (p.item == NULL) return;
    if (mma)
        cuda_attend_mma(d->stream, &p);
    else
        cuda_attend_any(d->stream, &p, bf16);
    CUDA_LAUNCHED(d);
}
