#include "kernels/ref/ref_impl.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

struct item {
    double y;
    int32_t id;
};

// The largest first, the lower id first on ties.
static int by_rank(const void *pa, const void *pb) {
    const struct item *a = pa, *b = pb;
    if (a->y != b->y) return a->y > b->y ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

struct work {
    const struct dev_sample *a;
    int64_t n_vocab;
    const double *raw;   // [n_vocab] borrowed: logits as they are
    double *y;           // [n_vocab] changed
    struct item *sorted; // [n_vocab] by y; n of them are not banned
    int64_t n;
    bool *kept; // [n_vocab]
};

static void change(struct work *w, const struct dev_sample_row *r) {
    const struct dev_adjust *entry = w->a->adjust != NULL ? w->a->adjust->data : NULL;
    memcpy(w->y, w->raw, (size_t)w->n_vocab * sizeof *w->y);
    for (int64_t i = r->adjust; i < r->adjust + r->n_adjust; i++) {
        double *l = w->y + entry[i].id;
        *l += entry[i].before;
        *l = *l > 0 ? *l / entry[i].scale : *l * entry[i].scale;
        *l += entry[i].after;
    }
    w->n = 0;
    for (int64_t v = 0; v < w->n_vocab; v++)
        if (w->y[v] > -INFINITY) w->sorted[w->n++] = (struct item){w->y[v], (int32_t)v};
    qsort(w->sorted, (size_t)w->n, sizeof *w->sorted, by_rank);
}

// How many of the sorted are at least the top_k-th largest.
static int64_t count_top_k(const struct work *w, int32_t top_k) {
    if (top_k == 0 || top_k >= w->n) return w->n;
    int64_t n = top_k;
    while (n < w->n && w->sorted[n].y == w->sorted[top_k - 1].y) n++;
    return n;
}

static int32_t draw(const struct work *w, const struct dev_sample_row *r) {
    const double most = w->sorted[0].y;
    int64_t n = count_top_k(w, r->top_k);
    if (r->top_p < 1) {
        double all = 0, some = 0;
        for (int64_t i = 0; i < n; i++) all += exp((w->sorted[i].y - most) / r->temperature);
        int64_t k = 0;
        while (k < n && some < r->top_p * all)
            some += exp((w->sorted[k++].y - most) / r->temperature);
        n = k;
    }
    while (n > 1 && exp((w->sorted[n - 1].y - most) / r->temperature) < r->min_p) n--;
    memset(w->kept, 0, (size_t)w->n_vocab * sizeof *w->kept);
    for (int64_t i = 0; i < n; i++) w->kept[w->sorted[i].id] = true;
    double all = 0, some = 0;
    for (int64_t v = 0; v < w->n_vocab; v++)
        if (w->kept[v]) all += exp((w->y[v] - most) / r->temperature);
    int32_t last = w->sorted[0].id;
    for (int64_t v = 0; v < w->n_vocab; v++) {
        const double p = w->kept[v] ? exp((w->y[v] - most) / r->temperature) : 0;
        if (p == 0) continue;
        some += p;
        last = (int32_t)v;
        if (some > r->u * all) break;
    }
    return last;
}

// log softmax as ref_head takes it: NaN when a logit is not finite.
static double log_sum(const double *l, int64_t n, double *max) {
    double sum = 0;
    bool finite = true;
    *max = -INFINITY;
    for (int64_t v = 0; v < n; v++) {
        finite = finite && isfinite(l[v]);
        if (l[v] > *max) *max = l[v];
    }
    for (int64_t v = 0; v < n; v++) sum += exp(l[v] - *max);
    return finite ? log(sum) : (double)NAN;
}

static void top_list(struct work *w, const struct dev_sample_row *r, int64_t row, double max,
                     double lse) {
    const struct dev_sample *a = w->a;
    int32_t *id = a->top_id->data;
    double *logp = a->top_logp->data, *adjusted = a->top_adjusted->data;
    double sum = 0;
    for (int64_t i = 0; i < w->n; i++) sum += exp(w->sorted[i].y - w->sorted[0].y);
    const double most = w->n > 0 ? w->sorted[0].y : 0;
    if (!r->top_adjusted) {
        for (int64_t v = 0; v < w->n_vocab; v++)
            w->sorted[v] = (struct item){w->raw[v], (int32_t)v};
        w->n = w->n_vocab;
        qsort(w->sorted, (size_t)w->n, sizeof *w->sorted, by_rank);
    }
    for (int64_t k = 0; k < a->n_top; k++) {
        const int64_t at = row * a->n_top + k;
        const int32_t v = k < r->n_top && k < w->n ? w->sorted[k].id : -1;
        id[at] = v;
        logp[at] = v < 0 ? (double)NAN : w->raw[v] - max - lse;
        adjusted[at] = v < 0 || !r->top_adjusted ? (double)NAN : w->y[v] - most - log(sum);
    }
}

static void sample_row(struct work *w, int64_t i) {
    const struct dev_sample *a = w->a;
    const struct dev_sample_row *r = (const struct dev_sample_row *)a->rows->data + i;
    int32_t *id = (int32_t *)a->id->data + i;
    double *logp = (double *)a->logp->data + i, max = 0;
    w->raw = ref_row(a->logits, r->logits_row);
    const double lse = log_sum(w->raw, w->n_vocab, &max);
    *logp = (double)NAN;
    *id = -1;
    if (isnan(lse)) {
        for (int64_t k = 0; k < a->n_top; k++) {
            ((int32_t *)a->top_id->data)[i * a->n_top + k] = -1;
            ((double *)a->top_logp->data)[i * a->n_top + k] = (double)NAN;
            ((double *)a->top_adjusted->data)[i * a->n_top + k] = (double)NAN;
        }
        return;
    }
    change(w, r);
    *id = w->n == 0 ? -2 : r->temperature > 0 ? draw(w, r) : w->sorted[0].id;
    if (*id >= 0) *logp = w->raw[*id] - max - lse;
    if (a->n_top > 0) top_list(w, r, i, max, lse);
}

void ref_sample(struct dev *d, const struct dev_sample *a, int64_t n_row) {
    enum status st = OK;
    struct err e = {0};
    struct work w = {.a = a, .n_vocab = a->logits->n_col};
    if (!dev_host_sample_ok(d, a, n_row)) return;
    TRY(mem_zalloc(&w.y, (size_t)w.n_vocab, sizeof *w.y, &e));
    TRY(mem_zalloc(&w.sorted, (size_t)w.n_vocab, sizeof *w.sorted, &e));
    TRY(mem_zalloc(&w.kept, (size_t)w.n_vocab, sizeof *w.kept, &e));
    for (int64_t i = 0; i < n_row; i++) sample_row(&w, i);
done:
    if (st != OK) dev_fail(d, e.code, "%s", e.msg);
    mem_free(w.y);
    mem_free(w.sorted);
    mem_free(w.kept);
}

static double product(const double *a, const double *b, int64_t n) {
    double s = 0;
    for (int64_t k = 0; k < n; k++) s += a[k] * b[k];
    return s;
}

void ref_similar(struct dev *d, const struct dev_similar *a, int64_t n_row) {
    (void)d;
    const int64_t n = a->y->n_col;
    for (int64_t i = 0; i < n_row; i++) {
        const double *x = ref_row(a->x, a->row + i), xx = product(x, x, n);
        double most = isfinite(xx) ? -INFINITY : (double)NAN;
        for (int64_t j = 0; j < a->n_y; j++) {
            const double *y = ref_row(a->y, j), yy = product(y, y, n);
            const double c = xx > 0 && yy > 0 ? product(x, y, n) / (sqrt(xx) * sqrt(yy)) : 0;
            if (c > most) most = c; // never above NaN
        }
        ((double *)a->out->data)[a->out_row + i] = most;
    }
}
