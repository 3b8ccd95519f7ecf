/* Linear layers and the head: products by cuBLASLt.
 *
 * So that a row has the same bits whatever runs beside it, every product has tune.rows rows, the last one filled
 * up with zeros, and each (n, k) one algorithm for the handle's life, chosen among those that sum in one
 * sequence: no reduction between blocks of the grid, which would cut a sum where the tiles happen to end. A
 * workspace of 0 bytes keeps out what needs one for that. */
#include "kernels/cuda/cuda_impl.h"

#include "base/mem.h"

static cudaDataType_t operand_type(const struct cuda_dev *d) {
    return d->base.cfg.compute == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static int64_t blocks_of(const struct cuda_dev *d, int64_t n_row) {
    return (n_row + d->tune.rows - 1) / d->tune.rows;
}

bool cuda_gemm_choose(struct cuda_dev *d, struct cuda_gemm *g, int64_t rows) {
    cublasLtMatmulHeuristicResult_t found = {.workspaceSize = 0};
    int n = 0;
    const bool ok = CUDA_BLAS_OK(d, d->blas.layout_create(&g->w, operand_type(d), (uint64_t)g->k,
                                                          (uint64_t)g->n, g->k)) &&
                    CUDA_BLAS_OK(d, d->blas.layout_create(&g->x, operand_type(d), (uint64_t)g->k,
                                                          (uint64_t)rows, g->k)) &&
                    CUDA_BLAS_OK(d, d->blas.layout_create(&g->y, CUDA_R_32F, (uint64_t)g->n,
                                                          (uint64_t)rows, g->n)) &&
                    CUDA_BLAS_OK(d, d->blas.heuristic(d->lt, d->desc, g->w, g->x, g->y, g->y,
                                                      d->pref, 1, &found, &n));
    if (ok && n == 0)
        dev_fail(&d->base, E_DEVICE, "cuBLAS has no algorithm for a product of %lld x %lld x %lld",
                 (long long)rows, (long long)g->n, (long long)g->k);
    g->algo = found.algo;
    return ok && n > 0;
}

void cuda_gemm_close(struct cuda_dev *d, struct cuda_gemm *g) {
    cublasLtMatrixLayout_t *all[] = {&g->w, &g->x, &g->y};
    for (size_t i = 0; i < COUNTOF(all); i++) {
        if (*all[i] != NULL) d->blas.layout_destroy(*all[i]);
        *all[i] = NULL;
    }
}

void cuda_gemm_free(struct cuda_dev *d) {
    for (size_t i = 0; i < d->n_gemm; i++) cuda_gemm_close(d, &d->gemm[i]);
    mem_free(d->gemm);
}

static const struct cuda_gemm *gemm_of(struct cuda_dev *d, int64_t n, int64_t k) {
    struct err e = {.code = OK};
    for (size_t i = 0; i < d->n_gemm; i++)
        if (d->gemm[i].n == n && d->gemm[i].k == k) return &d->gemm[i];
    const enum status st = mem_grow(&d->gemm, &d->cap_gemm, d->n_gemm + 1, sizeof *d->gemm, &e);
    if (st != OK) {
        dev_fail(&d->base, st, "%s", e.msg);
        return NULL;
    }
    struct cuda_gemm *g = &d->gemm[d->n_gemm];
    *g = (struct cuda_gemm){.n = n, .k = k};
    if (!cuda_gemm_choose(d, g, d->tune.rows)) {
        cuda_gemm_close(d, g);
        return NULL;
    }
    d->n_gemm++;
    return g;
}

bool cuda_gemm_run(struct cuda_dev *d, const struct cuda_gemm *g, const void *w, const void *x,
                   float *y) {
    const float one = 1, zero = 0;
    return CUDA_BLAS_OK(d, d->blas.matmul(d->lt, d->desc, &one, w, g->w, x, g->x, &zero, y, g->y, y,
                                          g->y, &g->algo, NULL, 0, d->stream));
}

// y [tune.rows, n] = x [tune.rows, k] w [n, k]^T
static bool product(struct cuda_dev *d, int64_t n, int64_t k, const void *w, const void *x,
                    float *y) {
    const struct cuda_gemm *g = gemm_of(d, n, k);
    return g != NULL && cuda_gemm_run(d, g, w, x, y);
}

// Rows of x as operands, whole blocks of them. They stay for the next layer that reads the same rows.
static const void *operands(struct cuda_dev *d, const struct buf *x, int64_t n_row) {
    const int64_t k_pad = cuda_padded(d, x->n_col), n_pad = blocks_of(d, n_row) * d->tune.rows;
    if (d->operand_of == x && d->operand_rows == n_row) return d->operand.p;
    d->operand_of = NULL;
    if (cuda_scratch(d, &d->operand, (size_t)(n_pad * k_pad) * cuda_word(d)) == NULL) return NULL;
    cuda_stage_rows(d->stream, d->operand.p, d->base.cfg.compute == DT_BF16, cuda_at(x, 0), n_row,
                    n_pad, x->n_col, k_pad);
    if (!CUDA_LAUNCHED(d)) return NULL;
    d->operand_of = x;
    d->operand_rows = n_row;
    return d->operand.p;
}

static const void *operand_block(const struct cuda_dev *d, const void *x, int64_t block,
                                 int64_t k_pad) {
    return (const unsigned char *)x + (size_t)(block * d->tune.rows * k_pad) * cuda_word(d);
}

void cuda_linear(struct dev *dev, struct buf *y, const struct buf *x, const struct wt *w,
                 const struct wt *bias, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_LINEAR);
    const int64_t n = w->src.n_out, k = cuda_padded(d, w->src.n_in), rows = d->tune.rows;
    if (n_row == 0) return;
    cuda_wrote(d, y);
    if (cuda_steps(d)) {
        cuda_step_linear(d, y, x, w, bias, n_row);
        return;
    }
    const void *xs = operands(d, x, n_row), *ws = xs != NULL ? cuda_wt_panel(d, w, 0, n) : NULL;
    if (ws == NULL) return;
    for (int64_t b = 0; b < blocks_of(d, n_row); b++) {
        const int64_t row = b * rows, left = n_row - row;
        // Rows behind the last one are not y's: they go elsewhere.
        float *to = left >= rows ? cuda_at(y, row)
                                 : cuda_scratch(d, &d->partial, (size_t)(rows * n) * sizeof(float));
        if (to == NULL || !product(d, n, k, ws, operand_block(d, xs, b, k), to)) return;
        if (left < rows &&
            !CUDA_OK(d, cudaMemcpyAsync(cuda_at(y, row), to, (size_t)left * y->row_bytes,
                                        cudaMemcpyDeviceToDevice, d->stream)))
            return;
    }
    if (bias == NULL) return;
    cuda_bias_rows(d->stream, cuda_at(y, 0), cuda_wt_floats(bias), n_row, n);
    CUDA_LAUNCHED(d);
}

/* ---- the head: one block of the vocabulary at a time, whose logits are read at once and never kept. */

static bool head_rows(struct cuda_dev *d, const struct dev_head *a, const struct cuda_head *h,
                      int64_t row, int64_t n_row) {
    struct cuda_head p = *h;
    p.part += row * p.n_part;
    p.target_logit += row;
    p.target += row;
    if (p.logits != NULL) p.logits += row * p.n_vocab;
    p.n_row = n_row - row < d->tune.rows ? n_row - row : d->tune.rows;
    if (a->bias != NULL) p.bias = cuda_wt_floats(a->bias) + p.col;
    cuda_head_block(d->stream, &p);
    return CUDA_LAUNCHED(d);
}

static bool head_block(struct cuda_dev *d, const struct dev_head *a, const struct cuda_head *h,
                       const void *xs, int64_t n_row) {
    const int64_t k = cuda_padded(d, a->w->src.n_in);
    const void *ws = cuda_wt_panel(d, a->w, h->col, h->n_col);
    bool ok = ws != NULL;
    for (int64_t b = 0; ok && b < blocks_of(d, n_row); b++)
        ok = product(d, h->n_col, k, ws, operand_block(d, xs, b, k), d->logits.p) &&
             head_rows(d, a, h, b * d->tune.rows, n_row);
    return ok;
}

bool cuda_head_begin(struct cuda_dev *d, const struct dev_head *a, int64_t n_row,
                     struct cuda_head *h) {
    const int64_t n_vocab = a->w->src.n_out, n_part = (n_vocab + CUDA_PART - 1) / CUDA_PART;
    const size_t parts = (size_t)(n_row * n_part) * sizeof *h->part;
    if (a->logits != NULL) cuda_wrote(d, a->logits);
    *h = (struct cuda_head){.logp = cuda_at(a->logp, 0),
                            .logits = a->logits != NULL ? cuda_at(a->logits, 0) : NULL,
                            .target = cuda_at(a->target, 0),
                            .n_row = n_row,
                            .n_vocab = n_vocab,
                            .n_part = n_part,
                            .scale = (float)a->scale,
                            .cap = a->softcap > 0 ? (float)a->softcap : 0.0f,
                            .inv_cap = a->softcap > 0 ? (float)(1 / a->softcap) : 0.0f,
                            .watch = cuda_watch(d, "")};
    h->part = cuda_scratch(d, &d->heads, parts + (size_t)n_row * sizeof *h->target_logit);
    if (h->part == NULL) return false;
    h->target_logit = (float *)(void *)((unsigned char *)h->part + parts);
    return true;
}

void cuda_head(struct dev *dev, const struct dev_head *a, int64_t n_row) {
    struct cuda_dev *d = cuda_begin(dev, DEV_HEAD);
    struct cuda_head h;
    if (n_row > 0 && cuda_steps(d)) cuda_step_head(d, a, n_row);
    if (n_row == 0 || cuda_steps(d) || !cuda_head_begin(d, a, n_row, &h)) return;
    const int64_t most = h.n_vocab < d->tune.vocab ? h.n_vocab : d->tune.vocab;
    const void *xs = operands(d, a->x, n_row);
    h.c = cuda_scratch(d, &d->logits, (size_t)(d->tune.rows * most) * sizeof(float));
    if (xs == NULL || h.c == NULL) return;
    for (h.col = 0; h.col < h.n_vocab; h.col += most) {
        h.n_col = h.n_vocab - h.col < most ? h.n_vocab - h.col : most;
        if (!head_block(d, a, &h, xs, n_row)) return;
    }
    cuda_head_join(d->stream, &h);
    CUDA_LAUNCHED(d);
}
