/* Attention of the cpu backend on every instruction set against ref, ref's against a brute-force
 * one, and the promise that it does not matter where a document is cut or what runs beside it. */
#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

// A document of n tokens under (sinks, window), cut into segments.

struct doc {
    int64_t n_tok;
    int n_sink;
    int64_t window; // keys before the row's own; < 0: dense
    int n_head, n_kv, d_head;
    double softcap;
    bool alibi;
    float size; // of the scores
};

struct doc_data {
    float *q_win, *q_sink, *k, *v, *slopes;
};

static struct doc_data doc_data(struct ops_run *r, const struct doc *c) {
    struct doc_data x;
    const int64_t q = c->n_tok * c->n_head * c->d_head, kv = c->n_tok * c->n_kv * c->d_head;
    x.q_win = ops_inputs(r, q, c->size);
    x.q_sink = ops_inputs(r, q, c->size);
    x.k = ops_inputs(r, kv, 1);
    x.v = ops_inputs(r, kv, 1);
    x.slopes = ops_normals(&r->seed, c->n_head, 0.05f);
    for (int i = 0; i < c->n_head; i++) x.slopes[i] = fabsf(x.slopes[i]);
    return x;
}

static void doc_free(struct doc_data *x) {
    free(x->q_win), free(x->q_sink), free(x->k), free(x->v), free(x->slopes);
}

static int64_t doc_low(const struct doc *c, int64_t t) {
    const int64_t low = t - c->window;
    return c->window < 0 || low < c->n_sink ? c->n_sink : low;
}

/* The segments of rows pos..pos+n-1: where `low` stands still and where it moves are two. */
static int doc_segs(const struct doc *c, int64_t pos, int64_t n, struct dev_seg base,
                    struct dev_seg out[2]) {
    const int64_t turn =
        c->window < 0 ? INT64_MAX : c->n_sink + c->window; // low moves after this row
    int n_seg = 0;
    for (int64_t t = pos; t < pos + n;) {
        const bool moves = t >= turn;
        const int64_t end = moves || turn > pos + n ? pos + n : turn;
        struct dev_seg s = base;
        s.first_row = base.first_row + (int32_t)(t - pos);
        s.n_row = (int32_t)(end - t);
        s.pos = t;
        s.low = doc_low(c, t);
        s.n_sink = c->n_sink;
        s.moves = moves;
        s.own_row = base.own_row + (t - pos);
        if (t > pos)
            s.old_row = base.own_row + (base.old_pos - pos); // reads what the first one stored
        out[n_seg++] = s;
        t = end;
    }
    return n_seg;
}

struct attend_set {
    struct buf *out, *q_win, *q_sink, *k, *v;
    struct wt *slopes;
    void *slope_data;
};

/* Runs a document in blocks of `step` rows. Keys lie in one line behind the sinks (row n_sink + t),
 * so that those of earlier blocks come in as old ones. Returns the outputs' bytes. */
static unsigned char *attend_blocks(struct dev *d, const struct doc *c, const struct doc_data *x,
                                    int64_t step, double **values) {
    const int64_t q_col = (int64_t)c->n_head * c->d_head, kv_col = (int64_t)c->n_kv * c->d_head;
    const int64_t lead = c->n_sink;
    struct buf *k = ops_buf(d, BUF_KV, lead + c->n_tok, kv_col, NULL);
    struct buf *v = ops_buf(d, BUF_KV, lead + c->n_tok, kv_col, NULL);
    struct buf *all = ops_buf(d, BUF_ACT, c->n_tok, q_col, NULL);
    void *slope_data = NULL;
    struct wt *slopes =
        c->alibi ? ops_weight(d, WT_VECTOR, c->n_head, 1, x->slopes, DT_F32, &slope_data) : NULL;
    for (int64_t t = 0; t < c->n_tok; t += step) {
        const int64_t n = c->n_tok - t < step ? c->n_tok - t : step;
        struct dev_seg seg[2];
        const struct dev_seg base = {
            .sink_row = 0, .old_row = lead, .old_pos = 0, .own_row = lead + t};
        const int n_seg = doc_segs(c, t, n, base, seg);
        for (int i = 0; i < n_seg; i++) seg[i].old_row = lead, seg[i].old_pos = 0;
        struct buf *bs = ops_segs(d, n_seg, seg);
        struct buf *qw = ops_buf(d, BUF_ACT, n, q_col, x->q_win + t * q_col);
        struct buf *qs = ops_buf(d, BUF_ACT, n, q_col, x->q_sink + t * q_col);
        struct buf *bk = ops_buf(d, BUF_ACT, n, kv_col, x->k + t * kv_col);
        struct buf *bv = ops_buf(d, BUF_ACT, n, kv_col, x->v + t * kv_col);
        struct buf *out = ops_buf(d, BUF_ACT, n, q_col, NULL);
        dev_kv_store(d, k, bk, bs, n_seg);
        dev_kv_store(d, v, bv, bs, n_seg);
        const struct dev_attend a = {.out = out,
                                     .q_win = qw,
                                     .q_sink = qs,
                                     .k = k,
                                     .v = v,
                                     .seg = bs,
                                     .n_seg = n_seg,
                                     .n_head = c->n_head,
                                     .n_kv = c->n_kv,
                                     .d_head = c->d_head,
                                     .scale = 1 / sqrt(c->d_head),
                                     .softcap = c->softcap,
                                     .slopes = slopes};
        dev_attend(d, &a, n);
        free(ops_get(d, out, n, q_col)); // guards
        ops_unchanged(d, qw, n, q_col, x->q_win + t * q_col);
        dev_copy(d, all, t, out, 0, n);
        ops_sync(d);
        buf_free(bs), buf_free(qw), buf_free(qs), buf_free(bk), buf_free(bv), buf_free(out);
    }
    free(ops_get(d, k, lead + c->n_tok, kv_col));
    unsigned char *bytes = ops_bytes(d, all, 0, c->n_tok);
    if (values != NULL) *values = ops_get(d, all, c->n_tok, q_col);
    buf_free(k), buf_free(v), buf_free(all);
    dev_weight_free(slopes);
    free(slope_data);
    return bytes;
}

static const struct doc docs[] = {
    {1, 0, -1, 1, 1, 20, 0, false, 1},    {37, 4, 12, 3, 1, 24, 0, false, 1},
    {130, 4, 60, 4, 1, 64, 0, false, 1},  {300, 4, 124, 3, 3, 64, 0, false, 1},
    {200, 0, 64, 8, 1, 80, 0, true, 1},   {150, 70, 33, 4, 2, 96, 0, true, 1},
    {131, 1, 1, 6, 2, 128, 30, false, 4}, {97, 5, -1, 2, 2, 31, 0, false, 1},
    {66, 4, 59, 2, 1, 256, 50, false, 8}, {193, 4, 64, 16, 1, 20, 0, false, 30},
    {530, 3, 400, 5, 1, 64, 0, true, 2},  {290, 270, 5, 2, 1, 32, 0, false, 1},
    {70, 4, 33, 2, 1, 300, 0, false, 1},
};

static void attend_case(struct ops_run *r, const struct doc *c) {
    struct doc_data x = doc_data(r, c);
    double *ref = NULL, *got = NULL;
    free(attend_blocks(r->ref, c, &x, 50, &ref));
    free(attend_blocks(r->dev, c, &x, c->n_tok, &got));
    /* f32: scores are off by 1e-6 of their size, and p with them. bf16: p is rounded to 2^-9, and
     * a score of size s by the rounding of q is off by s / 500, sometimes by 5 times that; for steps
     * neither is rounded. */
    const bool bf16 = r->c.compute == DT_BF16 && r->c.purpose == DEV_BLOCKS;
    const struct ops_budget f32 = {4e-6 * (1 + (double)c->size), 4e-6, 1e-9};
    const struct ops_budget half = {2e-2 + 1e-2 * (double)c->size, 1e-2, 3e-4};
    char what[128];
    snprintf(what, sizeof what, "attend n %lld sinks %d window %lld heads %d/%d d %d, %s %s",
             (long long)c->n_tok, c->n_sink, (long long)c->window, c->n_head, c->n_kv, c->d_head,
             dev_describe(r->dev), r->c.purpose == DEV_STEPS ? "steps" : "blocks");
    ops_compare(what, ref, got, c->n_tok * c->n_head * c->d_head, bf16 ? half : f32);
    free(ref), free(got);
    doc_free(&x);
}

static void attend_body(struct ops_run *r) {
    const bool few = ops_slow() && r->c.purpose == DEV_STEPS; // each document on one device
    for (size_t i = 0; i < COUNTOF(docs); i++)
        if (!few || i % 2 == (r->c.compute == DT_BF16)) attend_case(r, docs + i);
}
static void test_attend(void **state) {
    (void)state;
    ops_each(attend_body);
    ops_each_for(DEV_STEPS, attend_body);
}

// ---- neighbours never change a bit

static void attend_cuts_body(struct ops_run *r) {
    static const int64_t steps[] = {1, 7, 64, 256};
    struct dev *one = ops_open(&r->c, 1);
    const bool few = ops_slow() && r->c.purpose == DEV_STEPS;
    for (size_t i = 0; i < COUNTOF(docs); i++) {
        const struct doc *c = docs + i;
        if (few && (r->c.isa != CPU_AVX2 || i % 3 == 0 || c->n_tok > 200)) continue;
        struct doc_data x = doc_data(r, c);
        const size_t bytes = (size_t)(c->n_tok * c->n_head * c->d_head) * sizeof(float);
        unsigned char *whole = attend_blocks(r->dev, c, &x, c->n_tok, NULL);
        unsigned char *single = attend_blocks(one, c, &x, c->n_tok, NULL);
        ops_same_bytes("one thread", whole, single, bytes);
        for (size_t k = 0; k < COUNTOF(steps); k++) {
            if (few && steps[k] != 7) continue;
            if (steps[k] == 1 && c->n_tok > (ops_slow() ? 70 : 150)) continue;
            unsigned char *cut = attend_blocks(r->dev, c, &x, steps[k], NULL);
            ops_same_bytes("cut", whole, cut, bytes);
            free(cut);
        }
        free(whole), free(single);
        doc_free(&x);
    }
    dev_close(one);
}
static void test_attend_cuts(void **state) {
    (void)state;
    ops_each(attend_cuts_body);
    ops_each_for(DEV_STEPS, attend_cuts_body);
}

/* Several documents in one block, keys of all in one buffer, against each of them alone. */
static void attend_packed_body(struct ops_run *r) {
    static const struct doc c[] = {{5, 4, 30, 6, 2, 64, 0, false, 1},
                                   {90, 4, 30, 6, 2, 64, 0, false, 1},
                                   {1, 4, 30, 6, 2, 64, 0, false, 1},
                                   {41, 4, 30, 6, 2, 64, 0, false, 1}};
    enum { N = COUNTOF(c), Q = 6 * 64, KV = 2 * 64, TOK = 5 + 90 + 1 + 41 };
    float *q = malloc(2 * TOK * Q * sizeof *q), *kv = malloc(2 * TOK * KV * sizeof *kv);
    unsigned char *alone = malloc(TOK * Q * sizeof(float));
    assert_true(q != NULL && kv != NULL && alone != NULL);
    struct dev_seg seg[2 * N];
    int n_seg = 0;
    int64_t at = 0;
    for (int i = 0; i < (int)N; i++) {
        struct doc_data x = doc_data(r, c + i);
        const int64_t n = c[i].n_tok;
        unsigned char *out = attend_blocks(r->dev, c + i, &x, n, NULL);
        memcpy(alone + at * Q * (int64_t)sizeof(float), out, (size_t)(n * Q) * sizeof(float));
        memcpy(q + at * Q, x.q_win, (size_t)(n * Q) * sizeof *q);
        memcpy(q + (TOK + at) * Q, x.q_sink, (size_t)(n * Q) * sizeof *q);
        memcpy(kv + at * KV, x.k, (size_t)(n * KV) * sizeof *kv);
        memcpy(kv + (TOK + at) * KV, x.v, (size_t)(n * KV) * sizeof *kv);
        const struct dev_seg base = {
            .first_row = (int32_t)at, .sink_row = 4 * i, .own_row = 4 * N + at};
        const int more = doc_segs(c + i, 0, n, base, seg + n_seg);
        for (int k = 0; k < more; k++)
            seg[n_seg + k].old_row = 4 * N + at, seg[n_seg + k].old_pos = 0;
        n_seg += more;
        at += n;
        free(out);
        doc_free(&x);
    }
    struct dev *d = r->dev;
    struct buf *k = ops_buf(d, BUF_KV, 4 * N + TOK, KV, NULL),
               *v = ops_buf(d, BUF_KV, 4 * N + TOK, KV, NULL);
    struct buf *qw = ops_buf(d, BUF_ACT, TOK, Q, q), *qs = ops_buf(d, BUF_ACT, TOK, Q, q + TOK * Q);
    struct buf *bk = ops_buf(d, BUF_ACT, TOK, KV, kv),
               *bv = ops_buf(d, BUF_ACT, TOK, KV, kv + TOK * KV);
    struct buf *out = ops_buf(d, BUF_ACT, TOK, Q, NULL), *bs = ops_segs(d, n_seg, seg);
    dev_kv_store(d, k, bk, bs, n_seg);
    dev_kv_store(d, v, bv, bs, n_seg);
    const struct dev_attend a = {.out = out,
                                 .q_win = qw,
                                 .q_sink = qs,
                                 .k = k,
                                 .v = v,
                                 .seg = bs,
                                 .n_seg = n_seg,
                                 .n_head = 6,
                                 .n_kv = 2,
                                 .d_head = 64,
                                 .scale = 0.125};
    dev_attend(d, &a, TOK);
    unsigned char *packed = ops_bytes(d, out, 0, TOK);
    ops_same_bytes("packed documents", alone, packed, TOK * Q * sizeof(float));
    buf_free(k), buf_free(v), buf_free(qw), buf_free(qs), buf_free(bk), buf_free(bv), buf_free(out),
        buf_free(bs);
    free(packed), free(alone), free(q), free(kv);
}
static void test_attend_packed(void **state) {
    (void)state;
    ops_each(attend_packed_body);
    ops_each_for(DEV_STEPS, attend_packed_body);
}

// ---- ref's attention against raw keys that are rotated at read

static void rotate(double *y, const float *x, int d_head, double pos) {
    for (int k = 0; k < d_head / 2; k++) {
        const double a = pos * pow(10000, -2.0 * k / d_head), c = cos(a), s = sin(a);
        y[k] = (double)x[k] * c - (double)x[k + d_head / 2] * s;
        y[k + d_head / 2] = (double)x[k + d_head / 2] * c + (double)x[k] * s;
    }
}

/* The rule said plainly: the cache of token t is a list of raw keys, sinks then window; key i of
 * the list is rotated at i and the query at the end of the list. */
static void brute_force(double *out, const struct doc *c, const struct doc_data *x, int64_t t) {
    const int d = c->d_head;
    int64_t list[256];
    int n = 0;
    for (int64_t j = 0; j <= t; j++)
        if (j < c->n_sink || j >= doc_low(c, t)) list[n++] = j;
    for (int h = 0; h < c->n_head; h++) {
        const int kv = h / (c->n_head / c->n_kv);
        double q[128], k[128], p[256], sum = 0;
        rotate(q, x->q_win + (t * c->n_head + h) * d, d, n - 1);
        for (int i = 0; i < n; i++) {
            rotate(k, x->k + (list[i] * c->n_kv + kv) * d, d, i);
            p[i] = 0;
            for (int e = 0; e < d; e++) p[i] += q[e] * k[e] / sqrt(d);
            sum += p[i] = exp(p[i]);
        }
        for (int e = 0; e < d; e++) {
            out[h * d + e] = 0;
            for (int i = 0; i < n; i++)
                out[h * d + e] += p[i] / sum * (double)x->v[(list[i] * c->n_kv + kv) * d + e];
        }
    }
}

static void test_ref_attend(void **state) {
    (void)state;
    const struct doc c = {90, 4, 20, 4, 2, 16, 0, false, 1};
    enum { N = 90, Q = 4 * 16, KV = 2 * 16 };
    struct ops_run r = {.ref = ops_open_ref(DT_F32), .c = {CPU_PORTABLE, DT_F32}, .seed = 99};
    struct doc_data x = doc_data(&r, &c);
    struct dev *d = r.ref;
    int64_t at[N], p[N];
    double freq[8];
    for (int i = 0; i < 8; i++) freq[i] = pow(10000, -2.0 * i / 16);
    for (int t = 0; t < N; t++) at[t] = t, p[t] = t < 24 ? t : 24;
    struct buf *bt = ops_pos(d, N, at), *bp = ops_pos(d, N, p);
    struct buf *ang = ops_buf(d, BUF_ANGLE, N, 16, NULL),
               *ang_p = ops_buf(d, BUF_ANGLE, N, 16, NULL);
    struct buf *q = ops_buf(d, BUF_ACT, N, Q, x.q_win), *qs = ops_buf(d, BUF_ACT, N, Q, x.q_win);
    struct buf *xk = ops_buf(d, BUF_ACT, N, KV, x.k), *xv = ops_buf(d, BUF_ACT, N, KV, x.v);
    struct buf *k = ops_buf(d, BUF_KV, 4 + N, KV, NULL), *v = ops_buf(d, BUF_KV, 4 + N, KV, NULL);
    struct buf *out = ops_buf(d, BUF_ACT, N, Q, NULL);
    struct dev_seg seg[2];
    const struct dev_seg base = {.own_row = 4};
    const int n_seg = doc_segs(&c, 0, N, base, seg);
    for (int i = 0; i < n_seg; i++) seg[i].old_row = 4, seg[i].old_pos = 0;
    struct buf *bs = ops_segs(d, n_seg, seg);
    dev_angles(d, ang, bt, freq, 8, 1, N);
    dev_angles(d, ang_p, bp, freq, 8, 1, N);
    dev_rope(d, q, q, ang, &(struct dev_rope){4, 16, 16, false}, N);
    dev_rope(d, qs, qs, ang_p, &(struct dev_rope){4, 16, 16, false}, N);
    dev_rope(d, xk, xk, ang, &(struct dev_rope){2, 16, 16, false}, N);
    dev_kv_store(d, k, xk, bs, n_seg);
    dev_kv_store(d, v, xv, bs, n_seg);
    const struct dev_attend a = {.out = out,
                                 .q_win = q,
                                 .q_sink = qs,
                                 .k = k,
                                 .v = v,
                                 .seg = bs,
                                 .n_seg = n_seg,
                                 .n_head = 4,
                                 .n_kv = 2,
                                 .d_head = 16,
                                 .scale = 0.25};
    dev_attend(d, &a, N);
    double *got = ops_get(d, out, N, Q), want[N * Q];
    for (int t = 0; t < N; t++) brute_force(want + t * Q, &c, &x, t);
    ops_compare("ref attend", want, got, N * Q, (struct ops_budget){1e-12, 1e-12, 1e-24});
    buf_free(bt), buf_free(bp), buf_free(ang), buf_free(ang_p), buf_free(q), buf_free(qs);
    buf_free(xk), buf_free(xv), buf_free(k), buf_free(v), buf_free(out), buf_free(bs);
    free(got);
    doc_free(&x);
    dev_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref_attend),
        cmocka_unit_test(test_attend),
        cmocka_unit_test(test_attend_cuts),
        cmocka_unit_test(test_attend_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
