/* From logits to tokens: dev_sample and dev_similar against an oracle written from their definitions
 * (membership by counting, no sorting), and core/sample.h against the formulas of vLLM and Hugging
 * Face applied to a whole history. */
#include "core/sample.h"
#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the operation on a device ---- */

struct out {
    int32_t *id, *top_id;
    double *logp, *top_logp, *top_adjusted;
};

static void out_free(struct out *o) {
    free(o->id);
    free(o->top_id);
    free(o->logp);
    free(o->top_logp);
    free(o->top_adjusted);
}

static int32_t *get_ids(struct dev *d, const struct buf *b, int64_t n) {
    return (int32_t *)(void *)ops_bytes(d, b, 0, n);
}

/* logits [n_logits, n_vocab]. */
static struct out sample(struct dev *d, const float *logits, int64_t n_logits, int64_t n_vocab,
                         const struct dev_sample_row *rows, int n_row,
                         const struct dev_adjust *adjust, int n_adjust, int n_top) {
    struct buf *b_rows = NULL, *b_adjust = NULL;
    const int64_t n_list = (int64_t)n_row * n_top;
    assert_int_equal(buf_new(&b_rows, d, BUF_SAMPLE, n_row, 1, NULL), OK);
    assert_int_equal(buf_new(&b_adjust, d, BUF_ADJUST, n_adjust, 1, NULL), OK);
    dev_write(d, b_rows, 0, n_row, rows);
    dev_write(d, b_adjust, 0, n_adjust, adjust);
    struct buf *l = ops_buf(d, BUF_ACT, n_logits, n_vocab, logits);
    struct buf *id = ops_buf(d, BUF_ID, n_row, 1, NULL),
               *logp = ops_buf(d, BUF_LOGP, n_row, 1, NULL);
    struct buf *top_id = ops_buf(d, BUF_ID, n_list, 1, NULL);
    struct buf *top_logp = ops_buf(d, BUF_LOGP, n_list, 1, NULL);
    struct buf *top_adjusted = ops_buf(d, BUF_LOGP, n_list, 1, NULL);
    const struct dev_sample a = {.logits = l,
                                 .rows = b_rows,
                                 .adjust = b_adjust,
                                 .id = id,
                                 .logp = logp,
                                 .n_top = n_top,
                                 .top_id = top_id,
                                 .top_logp = top_logp,
                                 .top_adjusted = top_adjusted};
    dev_sample(d, &a, n_row);
    ops_sync(d);
    ops_unchanged(d, l, n_logits, n_vocab, logits);
    struct out o = {.id = get_ids(d, id, n_row),
                    .top_id = get_ids(d, top_id, n_list),
                    .logp = ops_get(d, logp, n_row, 1),
                    .top_logp = ops_get(d, top_logp, n_list, 1),
                    .top_adjusted = ops_get(d, top_adjusted, n_list, 1)};
    struct buf *const all[] = {b_rows, b_adjust, l, id, logp, top_id, top_logp, top_adjusted};
    for (size_t i = 0; i < COUNTOF(all); i++) buf_free(all[i]);
    return o;
}

/* ---- the oracle ---- */

enum { V_MOST = 700 };

struct truth {
    double y[V_MOST], e[V_MOST]; // changed logits; exp((y - largest) / temperature) or 0
    bool kept[V_MOST];
    double all;    // of the kept
    double margin; // how far the nearest choice was from falling the other way, relative
    double raw_lse, y_lse;
};

static bool ranks_before(const struct truth *t, int a, int b) {
    return t->y[a] > t->y[b] || (t->y[a] == t->y[b] && a < b);
}

static double lse(const double *x, int n) {
    double sum = 0, most = -INFINITY;
    for (int v = 0; v < n; v++) most = fmax(most, x[v]);
    for (int v = 0; v < n; v++) sum += exp(x[v] - most);
    return most + log(sum);
}

// top_k and banned ids.
static void keep_top_k(struct truth *t, int n, int top_k) {
    for (int v = 0; v < n; v++) {
        int larger = 0;
        for (int w = 0; w < n; w++) larger += t->y[w] > t->y[v];
        t->kept[v] = t->y[v] > -INFINITY && (top_k == 0 || larger < top_k);
    }
}

static void keep_top_p(struct truth *t, int n, double top_p) {
    double all = 0;
    bool stays[V_MOST];
    for (int v = 0; v < n; v++) all += t->kept[v] ? t->e[v] : 0;
    for (int v = 0; v < n; v++) {
        double above = 0; // mass of what ranks before v
        for (int w = 0; w < n; w++)
            if (t->kept[w] && ranks_before(t, w, v)) above += t->e[w];
        stays[v] = t->kept[v] && above < top_p * all;
        if (t->kept[v] && above > 0) t->margin = fmin(t->margin, fabs(above / all - top_p));
    }
    memcpy(t->kept, stays, sizeof stays);
}

static void find_truth(struct truth *t, const float *logits, int n, const struct dev_sample_row *r,
                       const struct dev_adjust *adjust) {
    double raw[V_MOST], most = -INFINITY;
    t->margin = 1;
    for (int v = 0; v < n; v++) t->y[v] = raw[v] = (double)logits[v];
    for (int64_t i = r->adjust; i < r->adjust + r->n_adjust; i++) {
        double x = t->y[adjust[i].id] + adjust[i].before;
        if (x > 0)
            x /= adjust[i].scale;
        else
            x *= adjust[i].scale;
        // As the operand is kept in float by some devices.
        t->y[adjust[i].id] = (double)(float)(x + adjust[i].after);
    }
    for (int v = 0; v < n; v++) most = fmax(most, t->y[v]);
    const double temperature = r->temperature > 0 ? r->temperature : 1;
    for (int v = 0; v < n; v++) t->e[v] = exp((t->y[v] - most) / temperature);
    t->raw_lse = lse(raw, n);
    t->y_lse = lse(t->y, n);
    keep_top_k(t, n, r->top_k);
    if (r->top_p < 1) keep_top_p(t, n, r->top_p);
    t->all = 0;
    for (int v = 0; v < n; v++) {
        if (r->min_p > 0 && t->kept[v]) {
            t->margin = fmin(t->margin, fabs(t->e[v] / r->min_p - 1));
            t->kept[v] = t->e[v] >= r->min_p;
        }
        t->all += t->kept[v] ? t->e[v] : 0;
    }
}

// Fails unless `id` is what u picks, or a neighbour of it within rounding.
static void check_id(const char *what, const struct truth *t, int n, const struct dev_sample_row *r,
                     int32_t id, double tol) {
    if (r->temperature == 0) {
        for (int v = 0; v < n; v++)
            if (v != id && ranks_before(t, v, id))
                fail_msg("%s: %d is larger than %d", what, v, id);
        return;
    }
    double below = 0;
    for (int v = 0; v < id; v++) below += t->kept[v] ? t->e[v] : 0;
    const double upto = below + t->e[id], u = r->u * t->all;
    if (!t->kept[id] || u < below - tol * t->all || u > upto + tol * t->all)
        fail_msg("%s: %d (kept %d) for u = %.9g of %.9g..%.9g", what, id, t->kept[id], r->u,
                 below / t->all, upto / t->all);
}

static void check_top(const char *what, const struct truth *t, const float *logits, int n,
                      const struct dev_sample_row *r, const struct out *o, int64_t at, int n_top) {
    struct truth by = *t;
    if (!r->top_adjusted)
        for (int v = 0; v < n; v++) by.y[v] = (double)logits[v];
    int there = 0;
    for (int v = 0; v < n; v++) there += by.y[v] > -INFINITY;
    for (int k = 0; k < n_top; k++) {
        const int32_t id = o->top_id[at + k];
        if (k >= r->n_top || k >= there) {
            assert_int_equal(id, -1);
            assert_true(isnan(o->top_logp[at + k]) && isnan(o->top_adjusted[at + k]));
            continue;
        }
        int before = 0;
        for (int v = 0; v < n; v++) before += v != id && ranks_before(&by, v, id);
        if (before != k)
            fail_msg("%s: %d is number %d of the list, and ranks %d", what, id, k, before);
        assert_true(fabs(o->top_logp[at + k] - ((double)logits[id] - t->raw_lse)) <= 2e-5);
        if (r->top_adjusted)
            assert_true(fabs(o->top_adjusted[at + k] - (t->y[id] - t->y_lse)) <= 2e-5);
        else
            assert_true(isnan(o->top_adjusted[at + k]));
    }
}

/* ---- cases ---- */

enum { ROWS = 24, ENTRIES = 6, TOP = 7 };

static void make_row(struct dev_sample_row *r, int i, int n_logits, uint64_t *rng) {
    static const double temperatures[] = {0, 1, 0.2, 3}, top_ps[] = {1, 0.9, 0.37, 0.003};
    *r = (struct dev_sample_row){.logits_row = i % n_logits,
                                 .n_top = i % (TOP + 1),
                                 .top_adjusted = i % 3 == 1,
                                 .top_k = i % 5 == 0 ? 0 : 1 + (int)(ops_uniform(rng) * 40),
                                 .temperature = temperatures[i % 4],
                                 .top_p = top_ps[i / 4 % 4],
                                 .min_p = i % 7 == 3 ? 0.08 : 0,
                                 .u = i == 5   ? 0
                                      : i == 6 ? 0x1.fffffffffffffp-1
                                               : ops_uniform(rng),
                                 .adjust = (int64_t)i * ENTRIES,
                                 .n_adjust = i % 2 == 0 ? ENTRIES : 0};
}

static void make_entries(struct dev_adjust *a, int n, int n_vocab, uint64_t *rng) {
    for (int i = 0; i < n; i++) {
        const int step = n_vocab / ENTRIES > 0 ? n_vocab / ENTRIES : 1;
        a[i] = (struct dev_adjust){.id = i % ENTRIES * step % n_vocab,
                                   .before = i % 3 == 0 ? 3 : 0,
                                   .scale = i % 2 == 0 ? 1 + ops_uniform(rng) : 1,
                                   .after = i % 5 == 1 ? -INFINITY : -ops_uniform(rng)};
    }
}

static void one_case(struct ops_run *run, int n_vocab, float scale, bool ties) {
    enum { LOGITS = 5 };
    static struct truth t;
    struct dev_sample_row rows[ROWS];
    struct dev_adjust adjust[ROWS * ENTRIES];
    float *logits = ops_normals(&run->seed, LOGITS * n_vocab, scale);
    for (int i = 0; ties && i < LOGITS * n_vocab; i++) logits[i] = rintf(logits[i] * 2) / 2;
    make_entries(adjust, ROWS * ENTRIES, n_vocab, &run->seed);
    for (int i = 0; i < ROWS; i++) {
        make_row(&rows[i], i, LOGITS, &run->seed);
        if (n_vocab < ENTRIES) rows[i].n_adjust = 0;
        // A boundary that rounding could move is not what is tested here.
        for (;;) {
            find_truth(&t, logits + rows[i].logits_row * n_vocab, n_vocab, &rows[i], adjust);
            if (t.margin > 1e-5) break;
            rows[i].top_p *= rows[i].top_p < 1 ? 0.999 : 1;
            rows[i].min_p *= 0.999;
        }
    }
    struct dev *const devs[2] = {run->ref, run->dev};
    for (int k = 0; k < 2; k++) {
        struct out o =
            sample(devs[k], logits, LOGITS, n_vocab, rows, ROWS, adjust, ROWS * ENTRIES, TOP);
        for (int i = 0; i < ROWS; i++) {
            char what[96];
            snprintf(what, sizeof what, "%s, %d ids, row %d", dev_kind(devs[k]), n_vocab, i);
            const float *l = logits + rows[i].logits_row * n_vocab;
            find_truth(&t, l, n_vocab, &rows[i], adjust);
            assert_true(o.id[i] >= 0 && o.id[i] < n_vocab);
            check_id(what, &t, n_vocab, &rows[i], o.id[i], k == 0 ? 1e-12 : 1e-6);
            assert_true(fabs(o.logp[i] - ((double)l[o.id[i]] - t.raw_lse)) <= 2e-5);
            check_top(what, &t, l, n_vocab, &rows[i], &o, (int64_t)i * TOP, TOP);
        }
        out_free(&o);
    }
    free(logits);
}

static void body_sample(struct ops_run *run) {
    static const int sizes[] = {1, 2, 7, 255, 256, 257, 700};
    for (size_t i = 0; i < COUNTOF(sizes); i++) {
        one_case(run, sizes[i], 2, false);
        if (ops_slow() && run->c.compute == DT_F32) continue; // the others have all of them
        one_case(run, sizes[i], 0.02f, false);
        one_case(run, sizes[i], 30, false);
        one_case(run, sizes[i], 2, true);
    }
}
static void test_sample(void **state) {
    (void)state;
    ops_each(body_sample);
}

/* Logits that are not numbers, and rows with nothing left, say so; others are what they are alone. */
static void body_bad_rows(struct ops_run *run) {
    enum { N = 300, R = 5 };
    struct dev_sample_row rows[R] = {{0}};
    struct dev_adjust ban[N];
    float *logits = ops_normals(&run->seed, R * N, 3);
    logits[1 * N + 250] = NAN;
    logits[2 * N + 7] = INFINITY;
    logits[3 * N + 299] = -INFINITY;
    for (int v = 0; v < N; v++) ban[v] = (struct dev_adjust){v, 0, 1, -INFINITY};
    for (int i = 0; i < R; i++)
        rows[i] = (struct dev_sample_row){.logits_row = i,
                                          .temperature = i % 2,
                                          .top_p = 1,
                                          .u = 0.5,
                                          .n_adjust = i == 4 ? N : 0};
    struct dev *const devs[2] = {run->ref, run->dev};
    for (int k = 0; k < 2; k++) {
        struct buf *l = ops_buf(devs[k], BUF_ACT, R, N, logits), *b_rows = NULL, *b_ban = NULL;
        assert_int_equal(buf_new(&b_rows, devs[k], BUF_SAMPLE, R, 1, NULL), OK);
        assert_int_equal(buf_new(&b_ban, devs[k], BUF_ADJUST, N, 1, NULL), OK);
        dev_write(devs[k], b_rows, 0, R, rows);
        dev_write(devs[k], b_ban, 0, N, ban);
        struct buf *id = ops_buf(devs[k], BUF_ID, R, 1, NULL);
        struct buf *logp = ops_buf(devs[k], BUF_LOGP, R, 1, NULL);
        const struct dev_sample a = {
            .logits = l, .rows = b_rows, .adjust = b_ban, .id = id, .logp = logp};
        dev_sample(devs[k], &a, R);
        ops_sync(devs[k]);
        int32_t *got = get_ids(devs[k], id, R);
        double *p = ops_get(devs[k], logp, R, 1);
        assert_true(got[0] >= 0 && !isnan(p[0]));
        for (int i = 1; i < R; i++) {
            assert_int_equal(got[i], i == 4 ? -2 : -1);
            assert_true(isnan(p[i]));
        }
        free(got);
        free(p);
        struct buf *const all[] = {l, b_rows, b_ban, id, logp};
        for (size_t i = 0; i < COUNTOF(all); i++) buf_free(all[i]);
    }
    free(logits);
}
static void test_bad_rows(void **state) {
    (void)state;
    ops_each(body_bad_rows);
}

/* A token's log-probability is the head's, bit for bit, and no row depends on the others. */
static void body_same_as_head(struct ops_run *run) {
    enum { V = 1000, D = 48, R = 9 };
    struct dev_sample_row rows[R];
    int32_t target[R];
    void *data = NULL;
    struct dev *const devs[2] = {run->ref, run->dev};
    float *w = ops_inputs(run, V * D, 0.3f), *x = ops_inputs(run, R * D, 1);
    for (int k = 0; k < 2; k++) {
        struct dev *d = devs[k];
        struct wt *head = ops_weight(d, WT_MATRIX, V, D, w, DT_F32, &data);
        struct buf *bx = ops_buf(d, BUF_ACT, R, D, x), *logits = ops_buf(d, BUF_ACT, R, V, NULL);
        struct buf *logp = ops_buf(d, BUF_LOGP, R, 1, NULL), *none = NULL;
        struct dev_head h = {.logp = logp, .x = bx, .w = head, .scale = 1.3, .softcap = 20};
        for (int i = 0; i < R; i++) target[i] = -1;
        h.target = none = ops_ids(d, R, target);
        h.logits = logits;
        dev_head(d, &h, R);
        double *l = ops_get(d, logits, R, V);
        float *lf = malloc(R * V * sizeof *lf);
        for (int i = 0; i < R * V; i++) lf[i] = (float)l[i];
        for (int i = 0; i < R; i++)
            rows[i] = (struct dev_sample_row){
                .logits_row = i, .temperature = 1, .top_p = 0.95, .top_k = 100, .u = 0.1 * i};
        if (k == 1) { // ref's logits are doubles, which sample() does not carry
            struct out o = sample(d, lf, R, V, rows, R, NULL, 0, 0);
            struct buf *targets = ops_ids(d, R, o.id);
            h.target = targets;
            dev_head(d, &h, R);
            double *want = ops_get(d, logp, R, 1);
            assert_memory_equal(want, o.logp, R * sizeof *want);
            for (int i = 0; i < R; i++) {
                struct out alone = sample(d, lf, R, V, rows + i, 1, NULL, 0, 0);
                assert_int_equal(alone.id[0], o.id[i]);
                assert_memory_equal(alone.logp, o.logp + i, sizeof *o.logp);
                out_free(&alone);
            }
            free(want);
            out_free(&o);
            buf_free(targets);
        }
        free(l);
        free(lf);
        dev_weights_release(d, &head, 1);
        dev_weight_free(head);
        struct buf *const all[] = {bx, logits, logp, none};
        for (size_t i = 0; i < COUNTOF(all); i++) buf_free(all[i]);
        free(data);
    }
    free(w);
    free(x);
}
static void test_same_as_head(void **state) {
    (void)state;
    ops_each(body_same_as_head);
}

/* What is drawn has the distribution that was asked for, and not another one. */
static double chi_square(const double *p, const int *count, int n, int draws) {
    double sum = 0;
    for (int v = 0; v < n; v++) {
        const double want = p[v] * draws;
        if (want > 0) sum += ((double)count[v] - want) * ((double)count[v] - want) / want;
    }
    return sum;
}

static void body_distribution(struct ops_run *run) {
    enum { V = 60, DRAWS = 20000, BATCH = 2000, TOP_K = 24 };
    static struct dev_sample_row rows[BATCH];
    static struct truth t, other;
    struct dev *const devs[2] = {run->ref, run->dev};
    const int n_draw = ops_slow() ? DRAWS / 5 : DRAWS;
    uint64_t seed = 99;
    if (ops_slow() && run->c.compute == DT_F32) return;
    float *logits = ops_normals(&seed, V, 1.5f);
    const struct dev_sample_row r = {.temperature = 1.3, .top_k = TOP_K, .top_p = 1};
    struct dev_sample_row wrong = r;
    wrong.temperature = 1.1;
    find_truth(&t, logits, V, &r, NULL);
    find_truth(&other, logits, V, &wrong, NULL);
    for (int k = 0; k < 2; k++) {
        int count[V] = {0};
        const struct samp_key key = samp_key(5, "chi", 3, 0);
        for (int b = 0; b < n_draw / BATCH; b++) {
            for (int i = 0; i < BATCH; i++) {
                rows[i] = r;
                rows[i].u = samp_uniform(&key, b * BATCH + i);
            }
            struct out o = sample(devs[k], logits, 1, V, rows, BATCH, NULL, 0, 0);
            for (int i = 0; i < BATCH; i++) count[o.id[i]]++;
            out_free(&o);
        }
        double p[V], q[V];
        for (int v = 0; v < V; v++) {
            p[v] = t.kept[v] ? t.e[v] / t.all : 0;
            q[v] = other.kept[v] ? other.e[v] / other.all : 0;
            if (!t.kept[v]) assert_int_equal(count[v], 0);
        }
        // 23 degrees of freedom: 56.6 is passed by chance once in 10,000 times.
        assert_true(chi_square(p, count, V, n_draw) < 56.6);
        assert_true(chi_square(q, count, V, n_draw) > 56.6);
    }
    free(logits);
}
static void test_distribution(void **state) {
    (void)state;
    ops_each(body_distribution);
}

/* ---- similarity ---- */

static void body_similar(struct ops_run *run) {
    static const int widths[] = {1, 7, 64, 129}, ys[] = {1, 5, 300};
    for (size_t k = 0; k < COUNTOF(widths) * COUNTOF(ys); k++) {
        const int w = widths[k % 4], n_y = ys[k / 4], n_x = k % 2 == 0 ? 3 : 70;
        float *x = ops_normals(&run->seed, (int64_t)n_x * w, 2);
        float *y = ops_normals(&run->seed, (int64_t)n_y * w, 1);
        memset(x + w, 0, (size_t)w * sizeof *x); // row 1
        if (n_y > 3) memset(y + 2 * w, 0, (size_t)w * sizeof *y);
        struct dev *const devs[2] = {run->ref, run->dev};
        for (int i = 0; i < 2; i++) {
            struct buf *bx = ops_buf(devs[i], BUF_ACT, n_x, w, x),
                       *by = ops_buf(devs[i], BUF_ACT, n_y, w, y);
            struct buf *out = ops_buf(devs[i], BUF_LOGP, n_x + 1, 1, NULL);
            const struct dev_similar a = {
                .out = out, .out_row = 2, .x = bx, .row = 1, .y = by, .n_y = n_y};
            dev_similar(devs[i], &a, n_x - 1);
            double *got = ops_get(devs[i], out, n_x + 1, 1);
            assert_true(isnan(got[0]) && isnan(got[1]) && got[2] == 0);
            for (int r = 2; r < n_x; r++) {
                double most = -2;
                for (int j = 0; j < n_y; j++) {
                    double ab = 0, aa = 0, bb = 0;
                    for (int c = 0; c < w; c++) {
                        const double p = (double)x[r * w + c], q = (double)y[j * w + c];
                        ab += p * q, aa += p * p, bb += q * q;
                    }
                    most = fmax(most, bb > 0 ? ab / sqrt(aa * bb) : 0);
                }
                assert_true(fabs(got[r + 1] - most) <= (i == 0 ? 1e-14 : 1e-6));
            }
            free(got);
            buf_free(bx);
            buf_free(by);
            buf_free(out);
        }
        free(x);
        free(y);
    }
}
static void test_similar(void **state) {
    (void)state;
    ops_each(body_similar);
}

/* ---- core/sample.h ---- */

static void test_random_numbers(void **state) {
    (void)state;
    const struct samp_key a = samp_key(7, "a.txt", 5, 0), again = samp_key(7, "a.txt", 5, 0);
    assert_memory_equal(&a, &again, sizeof a);
    const struct samp_key others[] = {samp_key(8, "a.txt", 5, 0), samp_key(7, "b.txt", 5, 0),
                                      samp_key(7, "a.txt", 5, 1), samp_key(7, "a.tx", 4, 0)};
    for (size_t i = 0; i < COUNTOF(others); i++)
        assert_true(samp_uniform(&a, 0) != samp_uniform(&others[i], 0));
    // Uniform over 64 cells (63 degrees of freedom: 118 once in 30,000), and so are successive pairs.
    double p[64];
    int count[64] = {0}, pairs[64] = {0};
    for (int i = 0; i < 64; i++) p[i] = 1.0 / 64;
    for (int i = 0; i < 32000; i++) {
        const double u = samp_uniform(&a, i), v = samp_uniform(&a, i + 1);
        assert_true(u >= 0 && u < 1);
        count[(int)(u * 64)]++;
        pairs[(int)(u * 8) * 8 + (int)(v * 8)]++;
    }
    assert_true(chi_square(p, count, 64, 32000) < 118);
    assert_true(chi_square(p, pairs, 64, 32000) < 118);
}

enum { HV = 40 };

/* logits changed as the definitions say, from the whole history. */
static void by_hand(double *l, const struct samp_params *p, const int32_t *prompt, int n_prompt,
                    const int32_t *output, int n_output, const int32_t *ban, int n_ban) {
    for (int i = 0; i < p->n_bias; i++) l[p->bias[i].id] += p->bias[i].add;
    for (int v = 0; v < HV; v++) {
        bool seen = false;
        int times = 0;
        for (int i = 0; i < n_prompt; i++) seen = seen || prompt[i] == v;
        for (int i = 0; i < n_output; i++) times += output[i] == v;
        if (seen || times > 0)
            l[v] = l[v] > 0 ? l[v] / p->repetition_penalty : l[v] * p->repetition_penalty;
        l[v] -= p->frequency_penalty * times;
        if (times > 0) l[v] -= p->presence_penalty;
    }
    int32_t all[512];
    const int n = n_prompt + n_output;
    memcpy(all, prompt, (size_t)n_prompt * sizeof *all);
    for (int i = 0; i < n_output; i++) all[n_prompt + i] = output[i]; // may be NULL
    for (int i = 0; i < p->n_bad; i++) {
        const int k = p->bad[i].n_id - 1;
        if (k <= n && memcmp(all + n - k, p->bad[i].ids, (size_t)k * sizeof *all) == 0)
            l[p->bad[i].ids[k]] = -INFINITY;
    }
    for (int i = 0; i < n_ban; i++) l[ban[i]] = -INFINITY;
}

static void table_against_hand(const struct samp_params *p, struct samp_table *t,
                               const struct samp_seen *s, const int32_t *prompt, int n_prompt,
                               const int32_t *output, int n_output) {
    static const int32_t eos[] = {4, 4}, stop[] = {9};
    const struct samp_ban ban[2] = {{eos, 2}, {stop, n_output < 10 ? 1 : 0}};
    static const int32_t both[] = {4, 9};
    struct dev_sample_row row = {0};
    struct err e = {0};
    double l[HV], want[HV];
    uint64_t rng = (uint64_t)n_output;
    for (int v = 0; v < HV; v++) want[v] = l[v] = (double)ops_normal(&rng) * 3;
    assert_int_equal(samp_table_add(t, p, s, ban, &row, &e), OK);
    by_hand(want, p, prompt, n_prompt, output, n_output, both, n_output < 10 ? 2 : 1);
    int64_t n = 0;
    const struct dev_adjust *entry = samp_table_entries(t, &n);
    assert_int_equal(row.adjust + row.n_adjust, n);
    bool met[HV] = {false};
    for (int64_t i = row.adjust; i < n; i++) {
        double *x = &l[entry[i].id];
        assert_false(met[entry[i].id]); // an id once
        met[entry[i].id] = true;
        *x += entry[i].before;
        *x = *x > 0 ? *x / entry[i].scale : *x * entry[i].scale;
        *x += entry[i].after;
    }
    for (int v = 0; v < HV; v++)
        assert_true(l[v] == want[v] || fabs(l[v] - want[v]) <= 1e-12 * fabs(want[v]));
}

static void test_changes_to_logits(void **state) {
    (void)state;
    static const struct samp_bias bias[] = {{3, 2.5}, {11, -7}};
    static const int32_t w0[] = {5}, w1[] = {1, 2, 3}, w2[] = {7, 7};
    const struct samp_word bad[] = {{w0, 1}, {w1, 3}, {w2, 2}};
    for (int k = 0; k < 16; k++) {
        struct samp_params p;
        struct samp_seen *s = NULL, *back = NULL;
        struct samp_table *t = NULL;
        struct err e = {0};
        struct sbuf saved;
        int32_t prompt[100], output[200];
        uint64_t rng = 3 + (uint64_t)k;
        size_t used = 0;
        samp_neutral(&p);
        if (k & 1) p.repetition_penalty = 1.3;
        if (k & 2) p.presence_penalty = 0.7, p.frequency_penalty = -0.2;
        if (k & 4) p.bias = bias, p.n_bias = 2;
        if (k & 8) p.bad = bad, p.n_bad = 3;
        assert_int_equal(samp_check(&p, HV, &e), OK);
        assert_int_equal(samp_seen_open(&s, &p, HV, &e), OK);
        assert_int_equal(samp_table_open(&t, HV, &e), OK);
        for (int i = 0; i < 100; i++) prompt[i] = (int32_t)(ops_uniform(&rng) * 12);
        samp_seen_prompt(s, prompt, 70);
        samp_seen_prompt(s, prompt + 70, 30);
        for (int i = 0; i < 200; i++) {
            if (i % 40 == 0) samp_table_clear(t);
            table_against_hand(&p, t, s, prompt, 100, output, i);
            output[i] = (int32_t)(ops_uniform(&rng) * 9);
            samp_seen_output(s, output[i]);
            if (i != 90) continue;
            sbuf_init(&saved);
            samp_seen_save(s, &saved);
            assert_int_equal(samp_seen_open(&back, &p, HV, &e), OK);
            assert_int_equal(samp_seen_restore(back, saved.s, saved.n, &used, &e), OK);
            assert_int_equal(used, saved.n);
            samp_seen_close(s);
            s = back;
            sbuf_fini(&saved);
        }
        int32_t all[300]; // the next turn: all of it is prompt
        memcpy(all, prompt, sizeof prompt);
        memcpy(all + 100, output, sizeof output);
        samp_seen_turn(s);
        table_against_hand(&p, t, s, all, 300, NULL, 0);
        samp_seen_close(s);
        samp_table_close(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_bad_rows),
        cmocka_unit_test(test_same_as_head),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_similar),
        cmocka_unit_test(test_random_numbers),
        cmocka_unit_test(test_changes_to_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
