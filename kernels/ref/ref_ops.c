#include "kernels/ref/ref_impl.h"

#include <math.h>

void ref_embed(struct dev *d, struct buf *y, const struct wt *table, const struct buf *ids,
               double scale, int64_t n_row) {
    const int32_t *id = ids->data;
    for (int64_t r = 0; r < n_row; r++) {
        if (id[r] < 0 || id[r] >= table->src.n_out) {
            dev_fail(d, E_ARG, "token id %d is outside the table", (int)id[r]);
            return;
        }
        for (int64_t k = 0; k < y->n_col; k++) {
            const double x = ref_weight(table, id[r], k);
            if (!isfinite(x)) {
                dev_fail(d, E_FORMAT, "%s holds NaN or infinity in row %d", table->src.name,
                         (int)id[r]);
                return;
            }
            ref_row(y, r)[k] = scale * x;
        }
    }
}

static void norm_group(double *y, const double *x, int64_t n, const struct dev_norm *p) {
    double mean = 0;
    if (p->kind == NORM_LAYER) {
        for (int64_t i = 0; i < n; i++) mean += x[i];
        mean /= (double)n;
    }
    double var = 0;
    for (int64_t i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
    const double inv = 1 / sqrt(var / (double)n + p->eps);
    for (int64_t i = 0; i < n; i++) {
        const double w = ref_weight(p->weight, i, 0) + p->weight_offset;
        const double b = p->bias != NULL ? ref_weight(p->bias, i, 0) : 0;
        y[i] = (x[i] - mean) * inv * w + b;
    }
}

void ref_norm(struct dev *d, struct buf *y, const struct buf *x, const struct dev_norm *p,
              int64_t n_row) {
    (void)d;
    const int64_t n = x->n_col / p->n_group;
    for (int64_t r = 0; r < n_row; r++)
        for (int g = 0; g < p->n_group; g++)
            norm_group(ref_row(y, r) + g * n, ref_row(x, r) + g * n, n, p);
}

void ref_linear(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                const struct wt *bias, int64_t n_row) {
    (void)d;
    for (int64_t o = 0; o < w->src.n_out; o++)
        for (int64_t r = 0; r < n_row; r++) {
            double s = 0;
            for (int64_t k = 0; k < w->src.n_in; k++) s += ref_row(x, r)[k] * ref_weight(w, o, k);
            ref_row(y, r)[o] = s + (bias != NULL ? ref_weight(bias, o, 0) : 0);
        }
}

void ref_angles(struct dev *d, struct buf *ang, const struct buf *pos, const double *freq,
                int n_pair, double mscale, int64_t n_row) {
    (void)d;
    const int64_t *p = pos->data;
    for (int64_t r = 0; r < n_row; r++)
        for (int k = 0; k < n_pair; k++) {
            ref_row(ang, r)[k] = mscale * cos((double)p[r] * freq[k]);
            ref_row(ang, r)[n_pair + k] = mscale * sin((double)p[r] * freq[k]);
        }
}

void ref_rope(struct dev *d, struct buf *y, const struct buf *x, const struct buf *ang,
              const struct dev_rope *p, int64_t n_row) {
    (void)d;
    const int n_pair = p->n_rot / 2;
    for (int64_t r = 0; r < n_row; r++)
        for (int h = 0; h < p->n_head; h++) {
            const double *from = ref_row(x, r) + (int64_t)h * p->d_head;
            double *to = ref_row(y, r) + (int64_t)h * p->d_head;
            for (int k = 0; k < n_pair; k++) {
                const int i = p->interleaved ? 2 * k : k,
                          j = p->interleaved ? 2 * k + 1 : k + n_pair;
                const double a = from[i], b = from[j];
                const double c = ref_row(ang, r)[k], s = ref_row(ang, r)[n_pair + k];
                to[i] = a * c - b * s;
                to[j] = b * c + a * s;
            }
            for (int k = p->n_rot; k < p->d_head; k++) to[k] = from[k];
        }
}

static double activate(double g, enum act_kind kind) {
    switch (kind) {
    case ACT_SILU: return g / (1 + exp(-g));
    case ACT_GELU_ERF: return 0.5 * g * erfc(-g / sqrt(2.0));
    case ACT_GELU_TANH: return 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
    case ACT_RELU: break;
    }
    return g < 0 ? 0 : g; // NaN stays NaN
}

void ref_act(struct dev *d, struct buf *y, const struct buf *g, const struct buf *u,
             enum act_kind kind, int64_t n_row) {
    (void)d;
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t k = 0; k < y->n_col; k++) {
            const double a = activate(ref_row(g, r)[k], kind);
            ref_row(y, r)[k] = u != NULL ? a * ref_row(u, r)[k] : a;
        }
}

void ref_clip(struct dev *d, struct buf *y, double most, int64_t n_row) {
    (void)d;
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t k = 0; k < y->n_col; k++) {
            const double x = ref_row(y, r)[k];
            ref_row(y, r)[k] = x < -most ? -most : x > most ? most : x;
        }
}

void ref_add(struct dev *d, struct buf *y, const struct buf *x, double scale, int64_t n_row) {
    (void)d;
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t k = 0; k < y->n_col; k++) ref_row(y, r)[k] += scale * ref_row(x, r)[k];
}
