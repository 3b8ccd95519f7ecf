/* Every operation of the cpu backend, on every instruction set this machine has, against ref, and
 * the promise that neighbours never change a bit.
 *
 * Where a bf16 run rounds its operands, the inputs here are bf16 values already, so that products
 * are exact and the budget is that of f32 sums. */
#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

// ---- products

struct matrix_case {
    int64_t n_row, n_in, n_out;
    enum dtype stored;
    bool bias;
};
static const struct matrix_case matrix_cases[] = {
    {1, 1, 1, DT_F32, false},    {1, 7, 3, DT_F32, true},       {2, 31, 33, DT_BF16, true},
    {5, 33, 31, DT_F16, false},  {13, 64, 64, DT_F32, true},    {14, 65, 97, DT_BF16, false},
    {15, 191, 32, DT_F32, true}, {29, 193, 130, DT_F16, true},  {64, 577, 65, DT_F32, false},
    {131, 96, 48, DT_F32, true}, {400, 385, 40, DT_BF16, true},
};

static double *linear_on(struct dev *d, const struct matrix_case *m, const float *x, const float *w,
                         const float *b) {
    void *wd = NULL, *bd = NULL;
    struct wt *wt = ops_weight(d, WT_MATRIX, m->n_out, m->n_in, w, m->stored, &wd);
    struct wt *bias = m->bias ? ops_weight(d, WT_VECTOR, m->n_out, 1, b, DT_F32, &bd) : NULL;
    struct buf *bx = ops_buf(d, BUF_ACT, m->n_row, m->n_in, x);
    struct buf *by = ops_buf(d, BUF_ACT, m->n_row, m->n_out, NULL);
    dev_linear(d, by, bx, wt, bias, m->n_row);
    double *y = ops_get(d, by, m->n_row, m->n_out);
    ops_unchanged(d, bx, m->n_row, m->n_in, x);
    buf_free(bx);
    buf_free(by);
    dev_weight_free(wt);
    dev_weight_free(bias);
    free(wd);
    free(bd);
    return y;
}

static void linear_case(struct ops_run *r, const struct matrix_case *m) {
    float *x = ops_inputs(r, m->n_row * m->n_in, 1), *w = ops_inputs(r, m->n_out * m->n_in, 1);
    float *b = ops_normals(&r->seed, m->n_out, 3);
    if (m->stored == DT_F16) // what F16 stores exactly
        for (int64_t i = 0; i < m->n_out * m->n_in; i++) w[i] = (float)(int)(w[i] * 16) / 16;
    double *ref = linear_on(r->ref, m, x, w, b), *got = linear_on(r->dev, m, x, w, b);
    // A chain of n f32 additions of N(0, 1) products walks to sqrt(n) and is off by 1.2e-8 n (rms).
    const double atol = 1e-6 + 1e-7 * (double)m->n_in;
    char what[96];
    snprintf(what, sizeof what, "linear %lldx%lldx%lld %s %s", (long long)m->n_row,
             (long long)m->n_in, (long long)m->n_out, dtype_name(m->stored), dev_describe(r->dev));
    ops_compare(what, ref, got, m->n_row * m->n_out, (struct ops_budget){atol, 1e-6, 1e-11});
    free(x), free(w), free(b), free(ref), free(got);
}

struct head_case {
    int64_t n_row, d, n_vocab;
    float size; // of the logits
    double scale, softcap;
    bool bias;
};
static const struct head_case head_cases[] = {
    {1, 8, 1, 1, 1, 0, false},         {3, 31, 33, 3, 1, 0, true},
    {16, 64, 255, 20, 0.5, 30, false}, {17, 64, 257, 80, 1, 0, true},
    {33, 65, 1031, 80, 1, 0, false},   {70, 48, 512, 5, -1.5, 0, true},
};

struct head_out {
    double *logp, *logits;
};
static struct head_out head_on(struct dev *d, const struct head_case *h, const float *x,
                               const float *w, const float *b, const int32_t *target) {
    void *wd = NULL, *bd = NULL;
    struct wt *wt = ops_weight(d, WT_MATRIX, h->n_vocab, h->d, w, DT_F32, &wd);
    struct wt *bias = h->bias ? ops_weight(d, WT_VECTOR, h->n_vocab, 1, b, DT_F32, &bd) : NULL;
    struct buf *bx = ops_buf(d, BUF_ACT, h->n_row, h->d, x), *bt = ops_ids(d, h->n_row, target);
    struct buf *logp = ops_buf(d, BUF_LOGP, h->n_row, 1, NULL);
    struct buf *logits = ops_buf(d, BUF_ACT, h->n_row, h->n_vocab, NULL);
    const struct dev_head a = {.logp = logp,
                               .x = bx,
                               .w = wt,
                               .bias = bias,
                               .target = bt,
                               .scale = h->scale,
                               .softcap = h->softcap,
                               .logits = logits};
    dev_head(d, &a, h->n_row);
    const struct head_out out = {ops_get(d, logp, h->n_row, 1),
                                 ops_get(d, logits, h->n_row, h->n_vocab)};
    ops_unchanged(d, bx, h->n_row, h->d, x);
    buf_free(bx), buf_free(bt), buf_free(logp), buf_free(logits);
    dev_weight_free(wt), dev_weight_free(bias);
    free(wd), free(bd);
    return out;
}

static void head_case(struct ops_run *r, const struct head_case *h) {
    float *x = ops_inputs(r, h->n_row * h->d, 1);
    float *w = ops_inputs(r, h->n_vocab * h->d, h->size / sqrtf((float)h->d));
    float *b = ops_normals(&r->seed, h->n_vocab, 1);
    int32_t *target = malloc((size_t)h->n_row * sizeof *target);
    assert_non_null(target);
    for (int64_t i = 0; i < h->n_row; i++)
        target[i] = i % 5 == 4 ? -1 : (int32_t)(ops_uniform(&r->seed) * (double)h->n_vocab);
    target[0] = (int32_t)h->n_vocab - 1;
    const struct head_out ref = head_on(r->ref, h, x, w, b, target),
                          got = head_on(r->dev, h, x, w, b, target);
    // A logit's own error, 1e-7 of `size` times the growth of its sum; the log-sum-exp adds 1e-6.
    const struct ops_budget budget = {2e-6 + 2e-6 * (double)h->size, 2e-6, 1e-11};
    ops_compare("head logits", ref.logits, got.logits, h->n_row * h->n_vocab, budget);
    ops_compare("head logp", ref.logp, got.logp, h->n_row, budget);
    for (int64_t i = 0; i < h->n_row; i++) assert_int_equal(isnan(got.logp[i]), target[i] < 0);
    free(x), free(w), free(b), free(target);
    free(ref.logp), free(ref.logits), free(got.logp), free(got.logits);
}

// ---- rows

static void norm_case(struct ops_run *r, int64_t n_row, int64_t n_col, int n_group,
                      enum norm_kind kind, bool bias, bool in_place) {
    const int64_t n = n_col / n_group;
    float *x = ops_normals(&r->seed, n_row * n_col, 3), *w = ops_normals(&r->seed, n, 1);
    float *b = ops_normals(&r->seed, n, 1);
    for (int64_t i = 0; i < n_row * n_col; i++) x[i] += kind == NORM_LAYER ? 1.5f : 0.0f;
    double *y[2];
    for (int i = 0; i < 2; i++) {
        struct dev *d = i == 0 ? r->ref : r->dev;
        void *wd = NULL, *bd = NULL;
        struct wt *wt = ops_weight(d, WT_VECTOR, n, 1, w, DT_BF16, &wd);
        struct wt *bt = bias ? ops_weight(d, WT_VECTOR, n, 1, b, DT_F32, &bd) : NULL;
        struct buf *bx = ops_buf(d, BUF_ACT, n_row, n_col, x);
        struct buf *by = in_place ? bx : ops_buf(d, BUF_ACT, n_row, n_col, NULL);
        const struct dev_norm p = {.kind = kind,
                                   .eps = 1e-5,
                                   .weight_offset = in_place ? 1 : 0,
                                   .weight = wt,
                                   .bias = bt,
                                   .n_group = n_group};
        dev_norm(d, by, bx, &p, n_row);
        y[i] = ops_get(d, by, n_row, n_col);
        if (!in_place) ops_unchanged(d, bx, n_row, n_col, x);
        if (!in_place) buf_free(by);
        buf_free(bx);
        dev_weight_free(wt), dev_weight_free(bt);
        free(wd), free(bd);
    }
    ops_compare("norm", y[0], y[1], n_row * n_col, (struct ops_budget){2e-6, 2e-6, 1e-12});
    free(x), free(w), free(b), free(y[0]), free(y[1]);
}

static void act_case(struct ops_run *r, enum act_kind kind, int64_t n_row, int64_t n_col,
                     bool with_u) {
    float *g = ops_normals(&r->seed, n_row * n_col, 4),
          *u = ops_normals(&r->seed, n_row * n_col, 1);
    // The whole range where results are not 0 or x, densely: this bounds v_exp and erfc as well.
    for (int64_t i = 0; i < n_row * n_col / 2; i++)
        g[i] = (float)(-30.0 + 120.0 * (double)i / (double)(n_row * n_col));
    double *y[2];
    for (int i = 0; i < 2; i++) {
        struct dev *d = i == 0 ? r->ref : r->dev;
        struct buf *bg = ops_buf(d, BUF_ACT, n_row, n_col, g),
                   *bu = ops_buf(d, BUF_ACT, n_row, n_col, u);
        struct buf *by = ops_buf(d, BUF_ACT, n_row, n_col, NULL);
        dev_act(d, by, bg, with_u ? bu : NULL, kind, n_row);
        y[i] = ops_get(d, by, n_row, n_col);
        ops_unchanged(d, bg, n_row, n_col, g);
        buf_free(bg), buf_free(bu), buf_free(by);
    }
    // Relative, except that gelu_tanh cancels in 1 + tanh far out on the left.
    const double rtol = kind == ACT_GELU_ERF ? 3e-5 : 4e-6;
    ops_compare("act", y[0], y[1], n_row * n_col, (struct ops_budget){2e-7, rtol, 1e-12});
    free(g), free(u), free(y[0]), free(y[1]);
}

static void rope_case(struct ops_run *r, int64_t n_row, struct dev_rope p, bool in_place) {
    const int64_t n_col = (int64_t)p.n_head * p.d_head, n_pair = p.n_rot / 2;
    float *x = ops_normals(&r->seed, n_row * n_col, 1);
    int64_t *pos = malloc((size_t)n_row * sizeof *pos);
    double *freq = malloc((size_t)n_pair * sizeof *freq), *y[2], *ang[2];
    assert_true(pos != NULL && freq != NULL);
    for (int64_t i = 0; i < n_row; i++) pos[i] = i < 3 ? i : i < 6 ? 1020 : 10000019 + 7 * i;
    for (int64_t i = 0; i < n_pair; i++) freq[i] = pow(10000, -(double)i / (double)n_pair);
    for (int i = 0; i < 2; i++) {
        struct dev *d = i == 0 ? r->ref : r->dev;
        struct buf *bx = ops_buf(d, BUF_ACT, n_row, n_col, x), *bp = ops_pos(d, n_row, pos);
        struct buf *by = in_place ? bx : ops_buf(d, BUF_ACT, n_row, n_col, NULL);
        struct buf *ba = ops_buf(d, BUF_ANGLE, n_row, 2 * n_pair, NULL);
        dev_angles(d, ba, bp, freq, (int)n_pair, 1.25, n_row);
        dev_rope(d, by, bx, ba, &p, n_row);
        y[i] = ops_get(d, by, n_row, n_col);
        ang[i] = ops_get(d, ba, n_row, 2 * n_pair);
        if (!in_place) buf_free(by);
        buf_free(bx), buf_free(bp), buf_free(ba);
    }
    ops_compare("angles", ang[0], ang[1], n_row * 2 * n_pair,
                (struct ops_budget){1e-7, 1e-7, 1e-13});
    ops_compare("rope", y[0], y[1], n_row * n_col, (struct ops_budget){1e-6, 1e-6, 1e-12});
    free(x), free(pos), free(freq);
    free(y[0]), free(y[1]), free(ang[0]), free(ang[1]);
}

static void embed_add_case(struct ops_run *r) {
    enum { N = 9, D = 37, V = 11 };
    float *table = ops_normals(&r->seed, V * D, 1), *x = ops_normals(&r->seed, N * D, 1);
    const int32_t id[N] = {0, 10, 3, 3, 7, 1, 2, 9, 5};
    double *y[2];
    ops_round_bf16(table, V * D);
    for (int i = 0; i < 2; i++) {
        struct dev *d = i == 0 ? r->ref : r->dev;
        void *data = NULL;
        struct wt *wt = ops_weight(d, WT_TABLE, V, D, table, i == 0 ? DT_F32 : DT_BF16, &data);
        struct buf *by = ops_buf(d, BUF_ACT, N, D, NULL), *bi = ops_ids(d, N, id);
        struct buf *bx = ops_buf(d, BUF_ACT, N, D, x);
        dev_embed(d, by, wt, bi, 3.25, N);
        dev_add(d, by, bx, -0.5, N);
        y[i] = ops_get(d, by, N, D);
        ops_unchanged(d, bx, N, D, x);
        buf_free(by), buf_free(bi), buf_free(bx);
        dev_weight_free(wt);
        free(data);
    }
    ops_compare("embed, add", y[0], y[1], N * D, (struct ops_budget){1e-6, 1e-6, 1e-12});
    free(table), free(x), free(y[0]), free(y[1]);
}

static void clip_case(struct ops_run *r) {
    enum { N = 5, D = 67 };
    float *x = ops_normals(&r->seed, N * D, 2);
    double *y[2];
    x[0] = 1.5f, x[1] = -1.5f, x[2] = INFINITY, x[3] = -INFINITY, x[4] = -0.0f;
    for (int i = 0; i < 2; i++) {
        struct dev *d = i == 0 ? r->ref : r->dev;
        struct buf *b = ops_buf(d, BUF_ACT, N, D, x);
        dev_clip(d, b, 1.5, N);
        y[i] = ops_get(d, b, N, D);
        buf_free(b);
    }
    for (int k = 0; k < N * D; k++) {
        assert_true(y[0][k] == fmin(fmax((double)x[k], -1.5), 1.5) && y[0][k] == y[1][k]);
    }
    struct buf *nan = ops_buf(r->dev, BUF_ACT, 1, 3, NULL);
    dev_clip(r->dev, nan, 1, 1);
    double *still = ops_get(r->dev, nan, 1, 3);
    assert_true(isnan(still[0]) && isnan(still[1]) && isnan(still[2]));
    buf_free(nan);
    free(x), free(y[0]), free(y[1]), free(still);
}

static void linear_body(struct ops_run *r) {
    for (size_t i = 0; i < COUNTOF(matrix_cases); i++) linear_case(r, matrix_cases + i);
}
static void head_body(struct ops_run *r) {
    for (size_t i = 0; i < COUNTOF(head_cases); i++) head_case(r, head_cases + i);
}
static void rows_body(struct ops_run *r) {
    for (int i = 0; i < 2; i++) {
        norm_case(r, 1, 1, 1, NORM_RMS, false, i == 1);
        norm_case(r, 7, 577, 1, NORM_RMS, i == 0, i == 1);
        norm_case(r, 5, 96, 3, NORM_RMS, false, i == 1);
        norm_case(r, 9, 131, 1, NORM_LAYER, true, i == 1);
        rope_case(r, 11, (struct dev_rope){3, 64, 64, false}, i == 1);
        rope_case(r, 8, (struct dev_rope){2, 80, 20, false}, i == 1);
        rope_case(r, 8, (struct dev_rope){5, 24, 22, true}, i == 1);
        for (enum act_kind k = ACT_SILU; k <= ACT_RELU; k++) act_case(r, k, 9, 1001, i == 1);
    }
    embed_add_case(r);
    clip_case(r);
}

static void test_linear(void **state) {
    (void)state;
    ops_each(linear_body);
}
static void test_head(void **state) {
    (void)state;
    ops_each(head_body);
}
static void test_rows(void **state) {
    (void)state;
    ops_each(rows_body);
}
// ---- neighbours never change a bit

// One row at every position of a block, among other rows: linear and head.
static void moved_row_body(struct ops_run *r) {
    enum { N = 45, K = 211, OUT = 300 };
    float *x = ops_normals(&r->seed, N * K, 1), *w = ops_normals(&r->seed, OUT * K, 0.1f), row[K];
    memcpy(row, x, sizeof row);
    void *data = NULL;
    struct dev *one = ops_open(&r->c, 1);
    for (int th = 0; th < 2; th++) {
        struct dev *d = th == 0 ? one : r->dev;
        struct wt *wt = ops_weight(d, WT_MATRIX, OUT, K, w, DT_F32, &data);
        unsigned char *first = NULL, *first_logp = NULL;
        int32_t target[N];
        for (int i = 0; i < N; i++) target[i] = 299;
        for (int n = 1; n <= N; n++) {
            memcpy(x + (n - 1) * K, row, sizeof row);
            struct buf *bx = ops_buf(d, BUF_ACT, n, K, x), *by = ops_buf(d, BUF_ACT, n, OUT, NULL);
            struct buf *logp = ops_buf(d, BUF_LOGP, n, 1, NULL), *bt = ops_ids(d, n, target);
            dev_linear(d, by, bx, wt, NULL, n);
            const struct dev_head a = {.logp = logp, .x = bx, .w = wt, .target = bt, .scale = 1};
            dev_head(d, &a, n);
            unsigned char *y = ops_bytes(d, by, n - 1, 1), *l = ops_bytes(d, logp, n - 1, 1);
            if (first == NULL) first = y, first_logp = l;
            ops_same_bytes("linear", first, y, OUT * sizeof(float));
            ops_same_bytes("head", first_logp, l, sizeof(double));
            if (y != first) free(y), free(l);
            buf_free(bx), buf_free(by), buf_free(logp), buf_free(bt);
            for (int k = 0; k < K; k++) x[(n - 1) * K + k] = 5.0f + (float)n; // other neighbours
        }
        free(first), free(first_logp), free(data);
        dev_weight_free(wt);
    }
    dev_close(one);
    free(x), free(w);
}
static void test_moved_row(void **state) {
    (void)state;
    ops_each(moved_row_body);
}

/* A row whose logits are not finite is NaN; its neighbours keep their bits. */
static void head_nan_body(struct ops_run *r) {
    enum { N = 20, K = 64, V = 300 };
    float *x = ops_normals(&r->seed, N * K, 1), *w = ops_normals(&r->seed, V * K, 1);
    const struct head_case h = {N, K, V, 1, 1, 0, false};
    int32_t target[N];
    for (int i = 0; i < N; i++) target[i] = i;
    struct head_out clean = head_on(r->dev, &h, x, w, NULL, target);
    for (int k = 0; k < 2; k++) {
        x[7 * K + 3] = k == 0 ? NAN : INFINITY;
        void *data = NULL;
        struct wt *wt = ops_weight(r->dev, WT_MATRIX, V, K, w, DT_F32, &data);
        struct buf *bx = ops_buf(r->dev, BUF_ACT, N, K, x), *bt = ops_ids(r->dev, N, target);
        struct buf *logp = ops_buf(r->dev, BUF_LOGP, N, 1, NULL);
        const struct dev_head a = {.logp = logp, .x = bx, .w = wt, .target = bt, .scale = 1};
        dev_head(r->dev, &a, N);
        double *got = ops_get(r->dev, logp, N, 1);
        for (int i = 0; i < N; i++) assert_true(i == 7 ? isnan(got[i]) : got[i] == clean.logp[i]);
        buf_free(bx), buf_free(bt), buf_free(logp);
        dev_weight_free(wt);
        free(data), free(got);
    }
    free(clean.logp), free(clean.logits), free(x), free(w);
}
static void test_head_nan(void **state) {
    (void)state;
    ops_each(head_nan_body);
}

// ---- errors

static void expect(struct dev *d, enum status code, const char *text) {
    struct err e = {0};
    assert_int_equal(dev_sync(d, &e), code);
    if (strstr(e.msg, text) == NULL) print_error("\"%s\" lacks \"%s\"\n", e.msg, text);
    assert_non_null(strstr(e.msg, text));
    assert_int_equal(dev_sync(d, NULL), OK); // reported once
}

static void errors_on(struct dev *d) {
    float w[6] = {1, 2, 3, 4, 5, 6};
    const int32_t id[2] = {0, 9};
    void *data = NULL, *bad_data = NULL, *table_data = NULL;
    struct wt *wt = ops_weight(d, WT_MATRIX, 2, 3, w, DT_F32, &data);
    struct buf *x = ops_buf(d, BUF_ACT, 2, 3, w), *y = ops_buf(d, BUF_ACT, 2, 2, NULL);
    dev_linear(d, x, y, wt, NULL, 2); // the wrong way round
    dev_linear(d, y, x, wt, NULL, 2); // does nothing now
    expect(d, E_BUG, "linear: x is [");
    double *got = ops_get(d, y, 2, 2);
    assert_true(isnan(got[0]));
    free(got);
    dev_linear(d, y, NULL, wt, NULL, 2);
    expect(d, E_BUG, "linear: x is not a buffer");
    dev_weights_release(d, &wt, 1);
    dev_linear(d, y, x, wt, NULL, 2);
    expect(d, E_BUG, "linear: w.test is not prepared");
    w[4] = NAN;
    struct wt *bad = ops_weight(d, WT_MATRIX, 2, 3, w, DT_BF16, &bad_data);
    expect(d, E_FORMAT, "weights_prepare: w.test holds NaN or infinity");
    struct wt *table = ops_weight(d, WT_TABLE, 2, 3, w, DT_F32, &table_data);
    struct buf *bi = ops_ids(d, 2, id), *e = ops_buf(d, BUF_ACT, 2, 3, NULL);
    dev_embed(d, e, table, bi, 1, 1);
    ops_sync(d); // row 0 is good
    dev_embed(d, e, table, bi, 1, 2);
    expect(d, E_ARG, "embed: token id 9");
    dev_write(d, bi, 0, 1, &(int32_t){1});
    dev_embed(d, e, table, bi, 1, 1);
    expect(d, E_FORMAT, "embed: w.test holds NaN or infinity in row 1");
    const struct dev_seg seg = {.n_row = 2, .pos = 7, .old_row = 0, .old_pos = 0, .own_row = 2};
    struct buf *kv = ops_buf(d, BUF_KV, 4, 3, NULL), *bs = ops_segs(d, 1, &seg);
    const struct dev_attend a = {.out = e,
                                 .q_win = x,
                                 .q_sink = x,
                                 .k = kv,
                                 .v = kv,
                                 .seg = bs,
                                 .n_seg = 1,
                                 .n_head = 1,
                                 .n_kv = 1,
                                 .d_head = 3,
                                 .scale = 1};
    dev_attend(d, &a, 2);
    expect(d, E_BUG, "attend: segment 0 names rows outside");
    buf_free(x), buf_free(y), buf_free(bi), buf_free(e), buf_free(kv), buf_free(bs);
    dev_weight_free(wt), dev_weight_free(bad), dev_weight_free(table);
    free(data), free(bad_data), free(table_data);
}

static void test_errors(void **state) {
    (void)state;
    struct ops_dev list[8];
    const int n = ops_list(list);
    struct dev *ref = ops_open_ref(DT_F32);
    struct dev_peaks peaks;
    errors_on(ref);
    assert_int_equal(dev_measure(ref, 0, &peaks, NULL), E_UNSUPPORTED);
    dev_close(ref);
    for (int i = 0; i < n; i++) {
        struct dev *d = ops_open(&list[i], 2);
        errors_on(d);
        dev_close(d);
    }
    struct dev *gpu = NULL;
    struct err e = {0};
    const struct dev_config cfg = {.n_thread = 0, .compute = DT_F32};
    assert_int_equal(dev_open_ref(&gpu, &cfg, NULL), E_ARG);
    if (dev_cuda_count() == 0) assert_int_not_equal(dev_open_cuda(&gpu, 0, &cfg, &e), OK);
}

/* Prepares nest; a fused tensor is taken apart by description; copies between devices. */
static void test_weights(void **state) {
    (void)state;
    struct ops_dev list[8];
    const int n = ops_list(list);
    float stored[12 * 2];
    for (int i = 0; i < 24; i++) stored[i] = (float)i;
    for (int i = 0; i < n; i++) {
        struct dev *d = ops_open(&list[i], 2), *ref = ops_open_ref(DT_F32);
        // rows 1 2 | 5 6 | 9 10 of 12: the second and third of every four
        const struct dev_weight_src src = {.name = "fused",
                                           .data = stored,
                                           .dtype = DT_F32,
                                           .n_out = 6,
                                           .n_in = 2,
                                           .n_stored_rows = 12,
                                           .first = 1,
                                           .block = 2,
                                           .stride = 4};
        struct wt *w = NULL;
        assert_int_equal(dev_weight_new(&w, d, WT_MATRIX, &src, NULL), OK);
        dev_weights_prepare(d, &w, 1);
        dev_weights_prepare(d, &w, 1);
        dev_weights_release(d, &w, 1);
        const float x[2] = {1, 0};
        struct buf *bx = ops_buf(d, BUF_ACT, 1, 2, x), *by = ops_buf(d, BUF_ACT, 1, 6, NULL);
        dev_linear(d, by, bx, w, NULL, 1);
        double *y = ops_get(d, by, 1, 6);
        const double want[6] = {2, 4, 10, 12, 18, 20};
        for (int k = 0; k < 6; k++) assert_true(y[k] == want[k]);
        free(y);
        dev_weights_release(d, &w, 1);
        dev_weight_free(w);
        struct dev_weight_src out = src;
        out.first = 3; // the last row would be stored row 12
        assert_int_equal(dev_weight_new(&w, d, WT_MATRIX, &out, NULL), E_BUG);
        struct dev *peer = ops_open(&list[i], 1);
        struct buf *to = ops_buf(peer, BUF_ACT, 1, 6, NULL),
                   *f64 = ops_buf(ref, BUF_ACT, 1, 6, NULL);
        dev_copy_peer(peer, to, 0, d, by, 0, 1);
        double *copied = ops_get(peer, to, 1, 6);
        assert_true(copied[5] == 20);
        dev_copy_peer(ref, f64, 0, d, by, 0, 1);
        expect(ref, E_BUG, "copy_peer: buffers differ");
        buf_free(bx), buf_free(by), buf_free(to), buf_free(f64);
        free(copied);
        dev_close(d), dev_close(ref), dev_close(peer);
    }
}

/* A matrix stored the other way round, part of a fused one as well, is the same matrix; slopes and
 * biases may come in double. */
static void transposed_body(struct ops_run *r) {
    enum { IN = 300, STORED = 150, OUT = 100, N = 3 };
    float *w = ops_inputs(r, STORED * IN, 1), *x = ops_inputs(r, N * IN, 1);
    float *turned = malloc(STORED * IN * sizeof *turned);
    double bias[OUT];
    assert_non_null(turned);
    for (int i = 0; i < OUT; i++) bias[i] = 1.0 / 3 + i;
    for (int i = 0; i < STORED; i++)
        for (int k = 0; k < IN; k++) turned[k * STORED + i] = w[i * IN + k];
    for (int dev = 0; dev < 2; dev++) {
        struct dev *d = dev == 0 ? r->ref : r->dev;
        struct buf *bx = ops_buf(d, BUF_ACT, N, IN, x);
        double *y[2];
        for (int t = 0; t < 2; t++) {
            const struct dev_weight_src src = {.name = "w.fused",
                                               .data = t == 0 ? w : turned,
                                               .dtype = DT_F32,
                                               .n_out = OUT,
                                               .n_in = IN,
                                               .n_stored_rows = STORED,
                                               .first = 1,
                                               .block = 20,
                                               .stride = 30,
                                               .transposed = t == 1};
            const struct dev_weight_src vector = {.name = "b.f64",
                                                  .data = bias,
                                                  .dtype = DT_F64,
                                                  .n_out = OUT,
                                                  .n_in = 1,
                                                  .n_stored_rows = OUT,
                                                  .block = OUT};
            struct wt *both[2] = {NULL, NULL};
            struct buf *by = ops_buf(d, BUF_ACT, N, OUT, NULL);
            assert_int_equal(dev_weight_new(&both[0], d, WT_MATRIX, &src, NULL), OK);
            assert_int_equal(dev_weight_new(&both[1], d, WT_VECTOR, &vector, NULL), OK);
            dev_weights_prepare(d, both, 2);
            dev_linear(d, by, bx, both[0], both[1], N);
            y[t] = ops_get(d, by, N, OUT);
            dev_weights_release(d, both, 2);
            buf_free(by);
            dev_weight_free(both[0]), dev_weight_free(both[1]);
        }
        assert_memory_equal(y[0], y[1], N * OUT * sizeof(double));
        free(y[0]), free(y[1]);
        buf_free(bx);
    }
    free(w), free(x), free(turned);
}
static void test_transposed(void **state) {
    (void)state;
    ops_each(transposed_body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),     cmocka_unit_test(test_head),
        cmocka_unit_test(test_rows),

        cmocka_unit_test(test_moved_row),  cmocka_unit_test(test_head_nan),
        cmocka_unit_test(test_transposed), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
