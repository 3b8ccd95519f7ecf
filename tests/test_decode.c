/* A handle for steps, which keeps matrices as stored, and int8 in one for blocks, on every instruction set
 * against ref; and the promise that a row has the same bits alone, among others and on any number of
 * threads. */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/quant.h"
#include "tests/support_gguf.h"
#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const enum dtype types[] = {DT_F32,  DT_F16,  DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_1,
                                   DT_Q5_0, DT_Q5_1, DT_Q4_K, DT_Q5_K, DT_Q6_K};

enum { ROWS = 64 };
static const int64_t row_counts[] = {1, 2, 3, 7, 16, 33, ROWS};

struct how {
    enum cpu_isa isa;
    enum dtype compute;
    bool int8;
    enum dev_purpose purpose;
    const struct cpu_kernels *table; // or NULL: what the instruction set has best here
};

// Elements that share a scale in int8, or 0: not rounded. In blocks weights are, too.
static int int8_block(const struct how *h, enum dtype type) {
    if (!h->int8) return 0;
    if (h->purpose == DEV_BLOCKS) return 64;
    return type < DT_Q8_0 ? 0 : type == DT_Q6_K ? 16 : 32;
}

static struct dev *open_how(const struct how *h, int n_thread) {
    struct dev *d = NULL;
    struct err e = {0};
    const struct dev_config c = {.n_thread = n_thread,
                                 .isa = h->isa,
                                 .compute = h->compute,
                                 .purpose = h->purpose,
                                 .int8 = h->int8};
    const enum status st =
        h->table != NULL ? cpu_open_with(&d, h->table, &c, &e) : dev_open_cpu(&d, &c, &e);
    if (st != OK) fail_msg("%s", e.msg);
    return d;
}

static void each_how(void (*body)(const struct how *)) {
    for (int isa = CPU_PORTABLE; isa <= (int)cpu_isa_best(); isa++)
        for (int k = 0; k < 4; k++) {
            const struct how h = {(enum cpu_isa)isa, k == 0 ? DT_F32 : DT_BF16, k >= 2,
                                  k == 3 ? DEV_BLOCKS : DEV_STEPS, NULL};
            body(&h);
        }
#if defined(__x86_64__)
    // A CPU that has AVX-VNNI does not choose these.
    const struct how h = {CPU_AVX2, DT_BF16, true, DEV_BLOCKS, &cpu_kernels_avx2};
    if (cpu_isa_best() >= CPU_AVX2) body(&h);
#endif
}

/* ---- matrices */

struct matrix {
    enum dtype type;
    int64_t n_out, n_in;
    unsigned char *stored; // owned
    float *bias;           // owned
};

static struct matrix matrix_of(enum dtype type, int64_t n_out, int64_t n_in, uint64_t *rng) {
    struct matrix m = {.type = type, .n_out = n_out, .n_in = n_in};
    m.stored = malloc(dtype_row_bytes(type, n_in) * (size_t)n_out);
    assert_non_null(m.stored);
    support_blocks(m.stored, n_out * n_in, type, 0.3, rng);
    if (type == DT_F32) // bf16 values, so that a bf16 run rounds nothing
        ops_round_bf16((float *)(void *)m.stored, n_out * n_in);
    for (int64_t i = 0; type == DT_F16 && i < n_out * n_in; i++) m.stored[2 * i] &= 0xF8;
    m.bias = ops_normals(rng, n_out, 2);
    return m;
}

static void matrix_free(struct matrix *m) {
    free(m->stored), free(m->bias);
}

static struct wt *bind(struct dev *d, const struct matrix *m) {
    const struct dev_weight_src src = {.name = "w",
                                       .data = m->stored,
                                       .dtype = m->type,
                                       .n_out = m->n_out,
                                       .n_in = m->n_in,
                                       .n_stored_rows = m->n_out,
                                       .block = m->n_out};
    struct wt *w = NULL;
    struct err e = {0};
    if (dev_weight_new(&w, d, WT_MATRIX, &src, &e) != OK) fail_msg("%s", e.msg);
    dev_weights_prepare(d, &w, 1);
    ops_sync(d);
    return w;
}

// y [n_row, n_out] on d.
static unsigned char *linear_on(struct dev *d, const struct matrix *m, const float *x,
                                int64_t n_row, double **values) {
    void *bias_data = NULL;
    struct wt *w = bind(d, m),
              *bias = ops_weight(d, WT_VECTOR, m->n_out, 1, m->bias, DT_F32, &bias_data);
    struct buf *bx = ops_buf(d, BUF_ACT, n_row, m->n_in, x),
               *by = ops_buf(d, BUF_ACT, n_row, m->n_out, NULL);
    dev_linear(d, by, bx, w, bias, n_row);
    ops_sync(d);
    unsigned char *bytes = ops_bytes(d, by, 0, n_row);
    double *got = ops_get(d, by, n_row, m->n_out);
    ops_unchanged(d, bx, n_row, m->n_in, x);
    if (values != NULL)
        *values = got;
    else
        free(got);
    buf_free(bx), buf_free(by);
    dev_weight_free(w), dev_weight_free(bias);
    free(bias_data);
    return bytes;
}

static void elements(float *out, const struct matrix *m, int64_t row) {
    const unsigned char *p = m->stored + (size_t)row * dtype_row_bytes(m->type, m->n_in);
    if (m->type >= DT_Q8_0)
        assert_true(dev_quant_floats(out, p, m->type, m->n_in));
    else
        assert_true(dev_src_floats(out, p, m->type, m->n_in));
}

// What int8 makes of n elements that share a scale. Halves are common (bf16 over bf16), so it matters what
// is rounded on the way.
static void round_steps(float *x, int64_t n, float max) {
    const float inv = max > 0 ? 127.0f / max : 0;
    for (int64_t i = 0; i < n; i++) x[i] = rintf(x[i] * inv) * (max / 127.0f);
}
static void round_block(float *x, int64_t n, float max, bool fused) {
    float scale = max / 127.0f;
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 255) & ~255u; // up to 16 bits
    memcpy(&scale, &bits, sizeof scale);
    const float inv = max > 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < n; i++)
        x[i] = scale * (fused ? fmaf(x[i], inv, 12582912.0f) - 12582912.0f : rintf(x[i] * inv));
}
static void round_rows(const struct how *h, enum dtype type, float *x, int64_t n_row, int64_t n) {
    const int block = int8_block(h, type);
    for (int64_t r = 0; block > 0 && r < n_row; r++)
        for (int64_t b = 0; b < n; b += block) {
            float *p = x + r * n + b, max = 0;
            const int64_t some = n - b < block ? n - b : block;
            for (int64_t i = 0; i < some; i++) max = fmaxf(max, fabsf(p[i]));
            if (h->purpose == DEV_BLOCKS)
                round_block(p, some, max, h->isa != CPU_PORTABLE);
            else
                round_steps(p, some, max);
        }
}

// What the products see of a matrix: itself, or in int8 blocks its rounded elements.
static struct matrix seen_matrix(const struct how *h, const struct matrix *m) {
    struct matrix s = *m;
    const size_t n = (size_t)(m->n_out * m->n_in);
    s.bias = malloc((size_t)m->n_out * sizeof *s.bias);
    s.stored = malloc(n * sizeof(float));
    assert_true(s.bias != NULL && s.stored != NULL);
    memcpy(s.bias, m->bias, (size_t)m->n_out * sizeof *s.bias);
    if (h->int8 && h->purpose == DEV_BLOCKS) {
        float *x = (float *)(void *)s.stored;
        s.type = DT_F32;
        for (int64_t r = 0; r < m->n_out; r++) elements(x + r * m->n_in, m, r);
        round_rows(h, m->type, x, m->n_out, m->n_in);
    } else {
        memcpy(s.stored, m->stored, dtype_row_bytes(m->type, m->n_in) * (size_t)m->n_out);
    }
    return s;
}

struct shape {
    int64_t n_out, n_in;
};
static const struct shape floats_shapes[] = {{1, 1}, {3, 7}, {33, 31}, {17, 33}, {70, 577}};
static const struct shape shapes_32[] = {{1, 32}, {3, 64}, {33, 96}, {130, 352}, {17, 1536}};
static const struct shape shapes_256[] = {{1, 256}, {7, 512}, {33, 768}};

static const struct shape *shapes_of(enum dtype t, size_t *n) {
    *n = t < DT_Q8_0   ? COUNTOF(floats_shapes)
         : t < DT_Q4_K ? COUNTOF(shapes_32)
                       : COUNTOF(shapes_256);
    return t < DT_Q8_0 ? floats_shapes : t < DT_Q4_K ? shapes_32 : shapes_256;
}

static void against_ref(const struct how *h, struct dev *d, struct dev *ref, enum dtype type,
                        const struct shape *s) {
    uint64_t rng = 77 + (uint64_t)type;
    struct matrix m = matrix_of(type, s->n_out, s->n_in, &rng);
    float *x = ops_normals(&rng, 3 * s->n_in, 1), *seen = malloc(3 * (size_t)s->n_in * sizeof *x);
    assert_non_null(seen);
    if (h->compute == DT_BF16) ops_round_bf16(x, 3 * s->n_in);
    memcpy(seen, x, 3 * (size_t)s->n_in * sizeof *x);
    round_rows(h, type, seen, 3, s->n_in);
    struct matrix seen_m = seen_matrix(h, &m);
    double *want = NULL, *got = NULL;
    free(linear_on(ref, &seen_m, seen, 3, &want));
    free(linear_on(d, &m, x, 3, &got));
    /* f32 sums over products whose parts d v x and m x are up to four times as large as their sum: as
     * in test_ops.c, with a factor. */
    const double atol = 2e-6 + 2e-7 * (double)s->n_in;
    char what[96];
    snprintf(what, sizeof what, "%s %lldx%lld %s", dtype_name(type), (long long)s->n_out,
             (long long)s->n_in, dev_describe(d));
    ops_compare(what, want, got, 3 * s->n_out, (struct ops_budget){atol, 2e-6, 1e-11});
    free(want), free(got), free(x), free(seen);
    matrix_free(&m), matrix_free(&seen_m);
}

static void linear_body(const struct how *h) {
    struct dev *d = open_how(h, 2), *ref = ops_open_ref(h->compute);
    for (size_t t = 0; t < COUNTOF(types); t++) {
        size_t n = 0;
        const struct shape *s = shapes_of(types[t], &n);
        for (size_t i = 0; i < n; i++) against_ref(h, d, ref, types[t], s + i);
    }
    dev_close(d), dev_close(ref);
}
static void test_linear(void **state) {
    (void)state;
    each_how(linear_body);
}

/* ---- the same bits */

// Every count of rows, from the first and from the last row of ROWS, on one and on three threads.
static void same_bits(struct dev *d, struct dev *one, enum dtype type, const struct shape *s) {
    uint64_t rng = 5 + (uint64_t)type;
    struct matrix m = matrix_of(type, s->n_out, s->n_in, &rng);
    float *x = ops_normals(&rng, ROWS * s->n_in, 1);
    x[3] = 1e6f, x[s->n_in] = 0x1p-130f; // rows of a range of their own
    const size_t row = (size_t)s->n_out * sizeof(float);
    unsigned char *all = linear_on(d, &m, x, ROWS, NULL);
    for (size_t i = 0; i < COUNTOF(row_counts); i++) {
        const int64_t n = row_counts[i], from = ROWS - n;
        unsigned char *first = linear_on(d, &m, x, n, NULL);
        unsigned char *last = linear_on(one, &m, x + from * s->n_in, n, NULL);
        char what[96];
        snprintf(what, sizeof what, "%s %lld of %d rows, %s", dtype_name(type), (long long)n, ROWS,
                 dev_describe(d));
        ops_same_bytes(what, all, first, (size_t)n * row);
        ops_same_bytes(what, all + (size_t)from * row, last, (size_t)n * row);
        free(first), free(last);
    }
    free(all), free(x);
    matrix_free(&m);
}

static void bits_body(const struct how *h) {
    struct dev *d = open_how(h, 3), *one = open_how(h, 1);
    for (size_t t = 0; t < COUNTOF(types); t++) {
        const struct shape s = {600, dtype_block(types[t]) > 32 ? 512 : 480};
        same_bits(d, one, types[t], &s);
    }
    dev_close(d), dev_close(one);
}
static void test_same_bits(void **state) {
    (void)state;
    each_how(bits_body);
}

/* ---- the head */

struct head_out {
    double *logp, *logits;
    unsigned char *bytes;
};

static struct head_out head_on(struct dev *d, const struct matrix *m, const float *x,
                               const int32_t *target, int64_t n_row) {
    void *bias_data = NULL;
    struct wt *w = bind(d, m),
              *bias = ops_weight(d, WT_VECTOR, m->n_out, 1, m->bias, DT_F32, &bias_data);
    struct buf *bx = ops_buf(d, BUF_ACT, n_row, m->n_in, x), *bt = ops_ids(d, n_row, target);
    struct buf *logp = ops_buf(d, BUF_LOGP, n_row, 1, NULL);
    struct buf *logits = ops_buf(d, BUF_ACT, n_row, m->n_out, NULL);
    const struct dev_head a = {.logp = logp,
                               .x = bx,
                               .w = w,
                               .bias = bias,
                               .target = bt,
                               .scale = 0.5,
                               .softcap = 30,
                               .logits = logits};
    dev_head(d, &a, n_row);
    ops_sync(d);
    const struct head_out out = {ops_get(d, logp, n_row, 1), ops_get(d, logits, n_row, m->n_out),
                                 ops_bytes(d, logits, 0, n_row)};
    buf_free(bx), buf_free(bt), buf_free(logp), buf_free(logits);
    dev_weight_free(w), dev_weight_free(bias);
    free(bias_data);
    return out;
}

static void head_free(struct head_out *h) {
    free(h->logp), free(h->logits), free(h->bytes);
}

static void head_body(const struct how *h) {
    enum { N = 9, D = 256, V = 1031 };
    static const enum dtype kinds[] = {DT_BF16, DT_Q8_0, DT_Q4_1, DT_Q6_K};
    struct dev *d = open_how(h, 2), *ref = ops_open_ref(h->compute);
    for (size_t t = 0; t < COUNTOF(kinds); t++) {
        uint64_t rng = 3;
        struct matrix m = matrix_of(kinds[t], V, D, &rng);
        float x[N * D], *normals = ops_normals(&rng, N * D, 1);
        int32_t target[N] = {0, V - 1, 256, 255, -1, 511, 512, 1024, 700};
        memcpy(x, normals, sizeof x);
        if (h->compute == DT_BF16) ops_round_bf16(x, N * D);
        round_rows(h, kinds[t], x, N, D);
        struct matrix seen = seen_matrix(h, &m);
        struct head_out want = head_on(ref, &seen, x, target, N),
                        got = head_on(d, &m, x, target, N);
        // int8: a row that is rounded once more may move by a step of its scale where it is a tie.
        const double loose = h->int8 ? 50 : 1;
        const struct ops_budget b = {3e-5 * loose, 5e-6 * loose, 1e-9 * loose};
        ops_compare("head logits", want.logits, got.logits, N * V, b);
        ops_compare("head logp", want.logp, got.logp, N, b);
        for (int i = 0; i < N; i++) {
            assert_int_equal(isnan(got.logp[i]), target[i] < 0);
            struct head_out one = head_on(d, &m, x + i * D, target + i, 1);
            ops_same_bytes("logits alone", got.bytes + (size_t)i * V * 4, one.bytes, V * 4);
            if (target[i] >= 0) assert_true(one.logp[0] == got.logp[i]);
            head_free(&one);
        }
        x[2 * D + 5] = NAN, x[3 * D] = INFINITY;
        struct head_out bad = head_on(d, &m, x, target, N);
        for (int i = 0; i < N; i++) {
            if (i == 2 || i == 3)
                assert_true(isnan(bad.logp[i]));
            else if (target[i] >= 0)
                assert_true(bad.logp[i] == got.logp[i]);
        }
        head_free(&want), head_free(&got), head_free(&bad);
        free(normals);
        matrix_free(&m), matrix_free(&seen);
    }
    dev_close(d), dev_close(ref);
}
static void test_head(void **state) {
    (void)state;
    each_how(head_body);
}

/* ---- what is refused */

static void refused_body(const struct how *h) {
    struct dev *d = open_how(h, 1);
    for (size_t t = 0; t < COUNTOF(types); t++) {
        uint64_t rng = 5;
        const int64_t n_in = dtype_block(types[t]) > 32 ? 512 : 96;
        struct matrix m = matrix_of(types[t], 4, n_in, &rng);
        const size_t last = dtype_row_bytes(types[t], n_in) * 4 - dtype_bytes(types[t]);
        unsigned char *scale = m.stored + last + (types[t] == DT_Q6_K ? 208 : 0);
        if (types[t] == DT_F32) scale += 2;
        scale[0] = 0x80, scale[1] = 0x7F;
        const struct dev_weight_src src = {.name = "w.bad",
                                           .data = m.stored,
                                           .dtype = types[t],
                                           .n_out = 4,
                                           .n_in = n_in,
                                           .n_stored_rows = 4,
                                           .block = 4};
        struct wt *w = NULL;
        struct err e = {0};
        assert_int_equal(dev_weight_new(&w, d, WT_MATRIX, &src, &e), OK);
        dev_weights_prepare(d, &w, 1);
        assert_int_equal(dev_sync(d, &e), E_FORMAT);
        assert_non_null(strstr(e.msg, "w.bad holds NaN or infinity"));
        dev_weight_free(w);
        matrix_free(&m);
    }
    dev_close(d);
}
static void test_refused(void **state) {
    (void)state;
    each_how(refused_body);
    struct dev *d = NULL;
    const struct dev_config c = {.n_thread = 1, .compute = DT_F32, .int8 = true};
    assert_int_equal(dev_open_cpu(&d, &c, NULL), E_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
