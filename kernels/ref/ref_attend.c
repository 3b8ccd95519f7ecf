#include "kernels/ref/ref_impl.h"

#include "base/mem.h"

#include <math.h>

void ref_kv_store(struct dev *d, struct buf *kv, const struct buf *x, const struct buf *seg,
                  int n_seg) {
    const struct dev_seg *segs = seg->data;
    if (!dev_host_segs_ok(d, segs, n_seg, x->n_row, kv->n_row, false, false)) return;
    for (int i = 0; i < n_seg; i++)
        for (int64_t r = 0; r < segs[i].n_row; r++) {
            const struct dev_seg *s = segs + i;
            const double *from = ref_row(x, s->first_row + r);
            for (int64_t k = 0; k < x->n_col; k++) {
                const double v = d->cfg.compute == DT_BF16
                                     ? (double)dtype_bf16_to_f32(dtype_f32_to_bf16((float)from[k]))
                                     : from[k];
                ref_row(kv, s->own_row + r)[k] = v;
                if (s->pos + r < s->n_sink) ref_row(kv, s->sink_row + s->pos + r)[k] = v;
            }
        }
}

static double score(const struct dev_attend *a, const struct dev_seg *s, int64_t r, int h,
                    int64_t j) {
    const bool sink = j < s->n_sink;
    const int kv = h / (a->n_head / a->n_kv);
    const double *q =
        ref_row(sink ? a->q_sink : a->q_win, s->first_row + r) + (int64_t)h * a->d_head;
    const double *k = ref_row(a->k, dev_seg_key_row(s, j)) + (int64_t)kv * a->d_head;
    double x = 0;
    for (int i = 0; i < a->d_head; i++) x += q[i] * k[i];
    x *= a->scale;
    if (a->softcap > 0) x = a->softcap * tanh(x / a->softcap);
    if (a->slopes != NULL) {
        const int64_t query = sink ? dev_seg_query_pos(s, r) : s->pos + r;
        x -= ref_weight(a->slopes, h, 0) * (double)(query - j);
    }
    return x;
}

// One row and head: scores of the visible keys into p (their number is the longest row's at most).
static void attend_row(const struct dev_attend *a, const struct dev_seg *s, int64_t r, int h,
                       double *p) {
    const int64_t t = s->pos + r, first = dev_seg_first_win(s, r);
    const int kv = h / (a->n_head / a->n_kv);
    int64_t n = 0;
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j <= t; j++) {
        if (j >= s->n_sink && j < first) {
            j = first - 1; // keys between the sinks and the window are gone
            continue;
        }
        p[n++] = score(a, s, r, h, j);
        if (p[n - 1] > max) max = p[n - 1];
    }
    for (int64_t i = 0; i < n; i++) sum += p[i] = exp(p[i] - max);
    double *out = ref_row(a->out, s->first_row + r) + (int64_t)h * a->d_head;
    for (int i = 0; i < a->d_head; i++) out[i] = 0;
    n = 0;
    for (int64_t j = 0; j <= t; j++) {
        if (j >= s->n_sink && j < first) {
            j = first - 1;
            continue;
        }
        const double *v = ref_row(a->v, dev_seg_key_row(s, j)) + (int64_t)kv * a->d_head;
        for (int i = 0; i < a->d_head; i++) out[i] += p[n] / sum * v[i];
        n++;
    }
}

void ref_attend(struct dev *d, const struct dev_attend *a, int64_t n_row) {
    const struct dev_seg *segs = a->seg->data;
    if (!dev_host_segs_ok(d, segs, a->n_seg, n_row, a->k->n_row, true, true)) return;
    int64_t longest = 0;
    for (int i = 0; i < a->n_seg; i++) {
        const int64_t n = segs[i].n_sink + segs[i].pos + segs[i].n_row - segs[i].low;
        if (n > longest) longest = n;
    }
    double *p = NULL;
    struct err e = {0};
    if (mem_alloc64(&p, (size_t)longest, sizeof *p, &e) != OK) {
        dev_fail(d, e.code, "%s", e.msg);
        return;
    }
    for (int i = 0; i < a->n_seg; i++)
        for (int64_t r = 0; r < segs[i].n_row; r++)
            for (int h = 0; h < a->n_head; h++) attend_row(a, segs + i, r, h, p);
    mem_free(p);
}

// Logits of one row, in double.
static void logits_row(const struct dev_head *a, int64_t r, double *l) {
    const struct dev_weight_src *w = &a->w->src;
    for (int64_t o = 0; o < w->n_out; o++) {
        double s = 0;
        for (int64_t k = 0; k < w->n_in; k++) s += ref_row(a->x, r)[k] * ref_weight(a->w, o, k);
        s = a->scale * (s + (a->bias != NULL ? ref_weight(a->bias, o, 0) : 0));
        l[o] = a->softcap > 0 ? a->softcap * tanh(s / a->softcap) : s;
    }
}

void ref_head(struct dev *d, const struct dev_head *a, int64_t n_row) {
    const int64_t n_vocab = a->w->src.n_out;
    const int32_t *target = a->target->data;
    double *l = NULL, *logp = a->logp->data;
    struct err e = {0};
    if (mem_alloc64(&l, (size_t)n_vocab, sizeof *l, &e) != OK) {
        dev_fail(d, e.code, "%s", e.msg);
        return;
    }
    for (int64_t r = 0; r < n_row; r++) {
        if (target[r] < -1 || target[r] >= n_vocab) {
            dev_fail(d, E_ARG, "target %d is outside the vocabulary", (int)target[r]);
            break;
        }
        logits_row(a, r, l);
        double max = -INFINITY, sum = 0;
        bool finite = true;
        for (int64_t o = 0; o < n_vocab; o++) {
            finite = finite && isfinite(l[o]);
            if (l[o] > max) max = l[o];
        }
        for (int64_t o = 0; o < n_vocab; o++) sum += exp(l[o] - max);
        logp[r] = finite && target[r] >= 0 ? l[target[r]] - max - log(sum) : (double)NAN;
        if (a->logits != NULL) memcpy(ref_row(a->logits, r), l, (size_t)n_vocab * sizeof *l);
    }
    mem_free(l);
}
