#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { GUARD_ROWS = 2, GUARD_BYTE = 0xA5 };

struct dev *ops_open_ref(enum dtype compute) {
    struct dev *d = NULL;
    const struct dev_config cfg = {.n_thread = 1, .compute = compute};
    assert_int_equal(dev_open_ref(&d, &cfg, NULL), OK);
    return d;
}

double ops_uniform(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

float ops_normal(uint64_t *state) {
    const double u = 1 - ops_uniform(state), v = ops_uniform(state);
    return (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

float *ops_normals(uint64_t *state, int64_t n, float scale) {
    float *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = scale * ops_normal(state);
    return x;
}

void ops_round_bf16(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = dtype_bf16_to_f32(dtype_f32_to_bf16(x[i]));
}

static void put(unsigned char *p, enum dtype type, float x) {
    const double f64 = (double)x;
    const bf16_t h = dtype_f32_to_bf16(x);
    if (type == DT_F64) memcpy(p, &f64, sizeof f64);
    if (type == DT_F32) memcpy(p, &x, sizeof x);
    if (type == DT_BF16) memcpy(p, &h, sizeof h);
}

static double element(const unsigned char *p, enum dtype type) {
    double f64 = 0;
    float f32 = 0;
    bf16_t h = 0;
    if (type == DT_F64) memcpy(&f64, p, sizeof f64);
    if (type == DT_F32) memcpy(&f32, p, sizeof f32);
    if (type == DT_BF16) memcpy(&h, p, sizeof h);
    if (type == DT_F64) return f64;
    return type == DT_F32 ? (double)f32 : (double)dtype_bf16_to_f32(h);
}

// A new buffer whose guard rows hold GUARD_BYTE.
static struct buf *guarded(struct dev *d, enum buf_kind kind, int64_t n_row, int64_t n_col) {
    struct buf *b = NULL;
    assert_int_equal(buf_new(&b, d, kind, n_row + GUARD_ROWS, n_col, NULL), OK);
    const size_t bytes = GUARD_ROWS * buf_row_bytes(b);
    unsigned char *guard = malloc(bytes);
    assert_non_null(guard);
    memset(guard, GUARD_BYTE, bytes);
    dev_write(d, b, n_row, GUARD_ROWS, guard);
    free(guard);
    return b;
}

struct buf *ops_buf(struct dev *d, enum buf_kind kind, int64_t n_row, int64_t n_col,
                    const float *x) {
    struct buf *b = guarded(d, kind, n_row, n_col);
    const enum dtype type = buf_dtype(b);
    const size_t element_bytes = dtype_bytes(type);
    unsigned char *bytes = malloc((size_t)n_row * buf_row_bytes(b) + 1);
    assert_non_null(bytes);
    for (int64_t i = 0; i < n_row * n_col; i++)
        put(bytes + (size_t)i * element_bytes, type, x != NULL ? x[i] : NAN);
    dev_write(d, b, 0, n_row, bytes);
    free(bytes);
    return b;
}

struct buf *ops_ids(struct dev *d, int64_t n_row, const int32_t *id) {
    struct buf *b = guarded(d, BUF_ID, n_row, 1);
    dev_write(d, b, 0, n_row, id);
    return b;
}

struct buf *ops_pos(struct dev *d, int64_t n_row, const int64_t *pos) {
    struct buf *b = guarded(d, BUF_POS, n_row, 1);
    dev_write(d, b, 0, n_row, pos);
    return b;
}

struct buf *ops_segs(struct dev *d, int n, const struct dev_seg *seg) {
    struct buf *b = NULL;
    assert_int_equal(buf_new(&b, d, BUF_SEG, n, 1, NULL), OK);
    dev_write(d, b, 0, n, seg);
    return b;
}

unsigned char *ops_bytes(struct dev *d, const struct buf *b, int64_t row, int64_t n_row) {
    unsigned char *bytes = malloc((size_t)n_row * buf_row_bytes(b) + 1);
    assert_non_null(bytes);
    dev_read(d, b, row, n_row, bytes);
    ops_sync(d);
    return bytes;
}

double *ops_get(struct dev *d, const struct buf *b, int64_t n_row, int64_t n_col) {
    const enum dtype type = buf_dtype(b);
    unsigned char *bytes = ops_bytes(d, b, 0, n_row + GUARD_ROWS);
    double *x = malloc((size_t)(n_row * n_col + 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n_row * n_col; i++)
        x[i] = element(bytes + (size_t)i * dtype_bytes(type), type);
    for (size_t i = 0; i < GUARD_ROWS * buf_row_bytes(b); i++)
        assert_int_equal(bytes[(size_t)n_row * buf_row_bytes(b) + i], GUARD_BYTE);
    free(bytes);
    return x;
}

void ops_unchanged(struct dev *d, const struct buf *b, int64_t n_row, int64_t n_col,
                   const float *x) {
    double *now = ops_get(d, b, n_row, n_col);
    for (int64_t i = 0; i < n_row * n_col; i++) assert_true(now[i] == (double)x[i]);
    free(now);
}

// Only for values that half precision holds without overflow; rounds toward zero.
static uint16_t to_f16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    const int exp = (int)(u >> 23 & 0xFF) - 112;
    if (exp <= 0) return (uint16_t)(u >> 16 & 0x8000);
    return (uint16_t)((u >> 16 & 0x8000) | (uint32_t)exp << 10 | (u >> 13 & 0x3FF));
}

struct wt *ops_weight(struct dev *d, enum wt_use use, int64_t n_out, int64_t n_in, const float *x,
                      enum dtype type, void **data) {
    const size_t element_bytes = dtype_bytes(type);
    unsigned char *bytes = malloc((size_t)(n_out * n_in) * element_bytes);
    assert_non_null(bytes);
    for (int64_t i = 0; i < n_out * n_in; i++) {
        const uint16_t h = type == DT_F16 ? to_f16(x[i]) : 0;
        if (type == DT_F16)
            memcpy(bytes + 2 * i, &h, sizeof h);
        else
            put(bytes + (size_t)i * element_bytes, type, x[i]);
    }
    *data = bytes;
    const struct dev_weight_src src = {.name = "w.test",
                                       .data = bytes,
                                       .dtype = type,
                                       .n_out = n_out,
                                       .n_in = n_in,
                                       .n_stored_rows = n_out,
                                       .block = n_out};
    struct wt *w = NULL;
    assert_int_equal(dev_weight_new(&w, d, use, &src, NULL), OK);
    dev_weights_prepare(d, &w, 1);
    return w;
}

void ops_compare(const char *what, const double *ref, const double *got, int64_t n,
                 struct ops_budget b) {
    double err2 = 0, ref2 = 0, worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs(got[i] - ref[i]), over = e / (b.atol + b.rtol * fabs(ref[i]));
        if (isnan(ref[i]) && isnan(got[i])) continue;
        if (!(over <= worst)) { // also when it is NaN
            worst = over;
            at = i;
            if (isnan(over)) break;
        }
        err2 += e * e;
        ref2 += ref[i] * ref[i];
    }
    const double nmse = ref2 > 0 ? err2 / ref2 : err2;
    if (worst <= 1 && nmse <= b.nmse) return;
    print_error("%s: element %lld is %.9g, reference %.9g: %.3g of its budget; nmse %.3g of %.3g\n",
                what, (long long)at, got[at], ref[at], worst, nmse, b.nmse);
    fail();
}

void ops_sync(struct dev *d) {
    struct err e = {0};
    if (dev_sync(d, &e) == OK) return;
    print_error("%s\n", e.msg);
    fail();
}

float *ops_inputs(struct ops_run *r, int64_t n, float scale) {
    float *x = ops_normals(&r->seed, n, scale);
    if (r->c.compute == DT_BF16) ops_round_bf16(x, n);
    return x;
}

void ops_each(void (*body)(struct ops_run *)) {
    ops_each_for(DEV_BLOCKS, body);
}

static void on_device(const struct ops_dev *c, void (*body)(struct ops_run *)) {
    struct ops_run r = {
        .ref = ops_open_ref(c->compute), .dev = ops_open(c, 2), .c = *c, .seed = 1234};
    // Only the CPU has kernels of their own for steps.
    if (c->purpose == DEV_BLOCKS || strcmp(dev_kind(r.dev), "cpu") == 0) body(&r);
    dev_close(r.ref);
    dev_close(r.dev);
}

void ops_each_for(enum dev_purpose purpose, void (*body)(struct ops_run *)) {
    struct ops_dev list[8];
    const int n = ops_list(list);
    for (int i = 0; i < n; i++) {
        list[i].purpose = purpose;
        on_device(&list[i], body);
    }
}

void ops_each_int8(void (*body)(struct ops_run *)) {
    struct ops_dev list[8];
    const int n = ops_list(list);
    for (int i = 0; i < n; i++) {
        list[i].int8 = true;
        if (list[i].compute == DT_BF16) on_device(&list[i], body);
    }
}

void ops_same_bytes(const char *what, const unsigned char *a, const unsigned char *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i]) {
            print_error("%s: byte %zu of %zu differs\n", what, i, n);
            fail();
        }
}
