/* Quantized types: every block against a naive transcription of the format's definition, for the block
 * expansion (dev_quant_floats), for ref's element by element reading, and in matrices and tables on every
 * backend. */
#include "kernels/quant.h"
#include "kernels/ref/ref_impl.h"
#include "tests/support_gguf.h"
#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const enum dtype types[] = {DT_Q8_0, DT_Q4_0, DT_Q4_1, DT_Q5_0,
                                   DT_Q5_1, DT_Q4_K, DT_Q5_K, DT_Q6_K};

/* ---- the definition, byte by byte */

struct block {
    const unsigned char *p;
    double out[256];
};

static double half_of(const unsigned char *p) {
    const int bits = p[0] + 256 * p[1], exp = bits / 1024 % 32, man = bits % 1024;
    const double m = exp == 0 ? ldexp(man, -24) : ldexp(1024 + man, exp - 25);
    return bits >= 32768 ? -m : m;
}

// The float32 nearest to a + b, of which both are exact in double.
static double sum32(double a, double b) {
    return (double)(float)(a + b);
}

static void by_32(struct block *b, enum dtype type) {
    const unsigned char *p = b->p;
    const double d = half_of(p);
    for (int byte = 0; byte < 16; byte++) {
        for (int upper = 0; upper < 2; upper++) {
            const int i = byte + 16 * upper;
            const int shift = upper ? 4 : 0;
            switch (type) {
            case DT_Q4_0: b->out[i] = (((p[2 + byte] >> shift) & 0xF) - 8) * d; break;
            case DT_Q4_1:
                b->out[i] = sum32(((p[4 + byte] >> shift) & 0xF) * d, half_of(p + 2));
                break;
            case DT_Q5_0: {
                const int fifth = (p[2 + i / 8] >> (i % 8)) & 1;
                b->out[i] = ((((p[6 + byte] >> shift) & 0xF) | fifth << 4) - 16) * d;
                break;
            }
            case DT_Q5_1: {
                const int fifth = (p[4 + i / 8] >> (i % 8)) & 1;
                b->out[i] =
                    sum32((((p[8 + byte] >> shift) & 0xF) | fifth << 4) * d, half_of(p + 2));
                break;
            }
            default: b->out[i] = (double)(signed char)p[2 + i] * d; break; // Q8_0
            }
        }
    }
}

// The eight 6-bit scales and minima in 12 bytes, unpacked the way they are packed: as four words.
static void unpack_scales(const unsigned char *s, int scale[8], int min[8]) {
    for (int k = 0; k < 4; k++) {
        const int a = s[k], b = s[4 + k], c = s[8 + k];
        scale[k] = a & 0x3F;
        min[k] = b & 0x3F;
        scale[k + 4] = (c & 0x0F) + ((a & 0xC0) >> 2);
        min[k + 4] = ((c & 0xF0) >> 4) + ((b & 0xC0) >> 2);
    }
}

static void by_256(struct block *b, enum dtype type) {
    const unsigned char *p = b->p, *q = p + (type == DT_Q5_K ? 48 : 16);
    int scale[8], min[8], n = 0;
    unpack_scales(p + 4, scale, min);
    for (int pair = 0; pair < 4; pair++) { // 64 elements out of 32 bytes
        for (int upper = 0; upper < 2; upper++) {
            const int group = 2 * pair + upper;
            for (int r = 0; r < 32; r++) {
                int v = (q[32 * pair + r] >> (upper ? 4 : 0)) & 0xF;
                if (type == DT_Q5_K && (p[16 + r] & (1 << group)) != 0) v += 16;
                b->out[n++] = sum32(half_of(p) * scale[group] * v, -half_of(p + 2) * min[group]);
            }
        }
    }
}

static void by_q6(struct block *b) {
    const unsigned char *low = b->p, *high = b->p + 128, *scale = b->p + 192;
    const double d = half_of(b->p + 208);
    for (int half = 0; half < 2; half++, low += 64, high += 32, scale += 8) {
        for (int r = 0; r < 32; r++) {
            const int v[4] = {
                (low[r] & 0xF) | (high[r] & 0x03) << 4, (low[r + 32] & 0xF) | (high[r] & 0x0C) << 2,
                low[r] >> 4 | (high[r] & 0x30), low[r + 32] >> 4 | (high[r] & 0xC0) >> 2};
            for (int k = 0; k < 4; k++) {
                b->out[128 * half + 32 * k + r] =
                    d * (double)(signed char)scale[2 * k + r / 16] * (v[k] - 32);
            }
        }
    }
}

static void define(struct block *b, enum dtype type) {
    if (type == DT_Q6_K) {
        by_q6(b);
    } else if (type == DT_Q4_K || type == DT_Q5_K) {
        by_256(b, type);
    } else {
        by_32(b, type);
    }
}

/* ---- blocks */

static void check_block(const unsigned char *p, enum dtype type, const char *what) {
    struct block b = {.p = p};
    float got[256];
    define(&b, type);
    dev_quant_floats(got, p, type, dtype_block(type));
    for (int i = 0; i < (int)dtype_block(type); i++) {
        if ((double)got[i] != b.out[i])
            fail_msg("%s %s, element %d: %.9g, not %.9g", dtype_name(type), what, i, (double)got[i],
                     b.out[i]);
        const double ref = ref_element(p, type, i);
        if (ref != b.out[i])
            fail_msg("%s %s, element %d on ref: %.17g, not %.17g", dtype_name(type), what, i, ref,
                     b.out[i]);
    }
}

static int half_places(enum dtype type, size_t at[2]) {
    at[0] = type == DT_Q6_K ? 208 : 0;
    at[1] = 2;
    return type == DT_Q4_1 || type == DT_Q5_1 || type == DT_Q4_K || type == DT_Q5_K ? 2 : 1;
}

// Random bytes everywhere; scales of every finite half in turn.
static void test_blocks(void **state) {
    (void)state;
    static const uint16_t extremes[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400,
                                        0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x5555, 0x8400};
    uint64_t rng = 7;
    for (size_t t = 0; t < COUNTOF(types); t++) {
        size_t at[2];
        const int n_half = half_places(types[t], at);
        unsigned char p[211];
        for (int round = 0; round < 1000; round++) {
            for (size_t i = 0; i < sizeof p; i++) p[i] = (unsigned char)(256 * ops_uniform(&rng));
            unsigned char *block = p + round % 2; // any alignment
            for (int h = 0; h < n_half; h++) {
                unsigned char *s = block + at[h];
                if (round < 144) {
                    const uint16_t v = extremes[(h ? round / 12 : round) % 12];
                    s[0] = (unsigned char)v;
                    s[1] = (unsigned char)(v >> 8);
                } else if ((s[1] & 0x7C) == 0x7C) {
                    s[1] ^= 0x40; // finite
                }
            }
            check_block(block, types[t], round < 144 ? "extreme scales" : "random");
        }
    }
}

// All bits clear and all bits set but the scales: the ends of every range.
static void test_ends(void **state) {
    (void)state;
    for (size_t t = 0; t < COUNTOF(types); t++) {
        for (int fill = 0; fill < 2; fill++) {
            size_t at[2];
            unsigned char p[210];
            memset(p, fill ? 0xFF : 0, sizeof p);
            const int n_half = half_places(types[t], at);
            for (int h = 0; h < n_half; h++) {
                p[at[h]] = 0;
                p[at[h] + 1] = 0x3C; // 1
            }
            check_block(p, types[t], fill ? "ones" : "zeros");
        }
    }
}

static void test_sizes(void **state) {
    (void)state;
    static const size_t bytes[] = {34, 18, 20, 22, 24, 144, 176, 210};
    for (size_t t = 0; t < COUNTOF(types); t++) {
        assert_int_equal(dtype_bytes(types[t]), bytes[t]);
        assert_int_equal(DTYPE_MOST_BLOCK % dtype_block(types[t]), 0);
        assert_int_equal(dtype_row_bytes(types[t], 512),
                         bytes[t] * (size_t)(512 / dtype_block(types[t])));
        assert_true(dtype_is_weight(types[t]));
    }
    assert_false(dtype_is_weight(DT_F64));
    assert_false(dtype_is_weight(DT_COUNT));
    assert_int_equal(dtype_row_bytes(DT_BF16, 7), 14);
}

/* ---- weights on a device */

struct weights {
    unsigned char *stored;
    float *f32;
    int64_t n_out, n_in;
};

static struct weights weights_of(enum dtype type, int64_t n_out, int64_t n_in, uint64_t *rng) {
    struct weights w = {.n_out = n_out, .n_in = n_in};
    w.stored = malloc(dtype_row_bytes(type, n_in) * (size_t)n_out);
    w.f32 = malloc((size_t)(n_out * n_in) * sizeof(float));
    support_blocks(w.stored, n_out * n_in, type, 0.1, rng);
    dev_quant_floats(w.f32, w.stored, type, n_out * n_in);
    return w;
}

static struct wt *bind(struct dev *d, const struct weights *w, enum wt_use use, enum dtype type) {
    const struct dev_weight_src src = {.name = "w",
                                       .data = type == DT_F32 ? (const void *)w->f32 : w->stored,
                                       .dtype = type,
                                       .n_out = w->n_out,
                                       .n_in = w->n_in,
                                       .n_stored_rows = w->n_out,
                                       .block = w->n_out};
    struct wt *wt = NULL;
    struct err e = {0};
    if (dev_weight_new(&wt, d, use, &src, &e) != OK) fail_msg("%s", e.msg);
    dev_weights_prepare(d, &wt, 1);
    ops_sync(d);
    return wt;
}

// The same bytes come out as from the floats that the blocks stand for: of products and of look-ups.
static void compare_device(struct dev *d, enum dtype type, int64_t n_out, int64_t n_in) {
    enum { ROWS = 5 };
    uint64_t rng = 11 + (uint64_t)type;
    const struct weights w = weights_of(type, n_out, n_in, &rng);
    float *x = ops_normals(&rng, ROWS * n_in, 1);
    const int32_t ids[ROWS] = {0, (int32_t)n_out - 1, 3, 3, 1};
    struct buf *bx = ops_buf(d, BUF_ACT, ROWS, n_in, x), *id = ops_ids(d, ROWS, ids);
    unsigned char *bytes[2][2];
    for (int k = 0; k < 2; k++) {
        const enum dtype as = k == 0 ? DT_F32 : type;
        struct buf *y = ops_buf(d, BUF_ACT, ROWS, n_out, NULL);
        struct buf *rows = ops_buf(d, BUF_ACT, ROWS, n_in, NULL);
        struct wt *matrix = bind(d, &w, WT_MATRIX, as), *table = bind(d, &w, WT_TABLE, as);
        dev_linear(d, y, bx, matrix, NULL, ROWS);
        dev_embed(d, rows, table, id, 1, ROWS);
        ops_sync(d);
        bytes[k][0] = ops_bytes(d, y, 0, ROWS);
        bytes[k][1] = ops_bytes(d, rows, 0, ROWS);
        if (k == 1) {
            assert_memory_equal(bytes[0][0], bytes[1][0], ROWS * buf_row_bytes(y));
            assert_memory_equal(bytes[0][1], bytes[1][1], ROWS * buf_row_bytes(rows));
        }
        dev_weights_release(d, &matrix, 1);
        dev_weights_release(d, &table, 1);
        dev_weight_free(matrix);
        dev_weight_free(table);
        buf_free(y);
        buf_free(rows);
    }
    for (int k = 0; k < 4; k++) free(bytes[k / 2][k % 2]);
    buf_free(bx);
    buf_free(id);
    free(x);
    free(w.stored);
    free(w.f32);
}

static void test_devices(void **state) {
    (void)state;
    struct ops_dev list[8];
    const int n = ops_list(list);
    for (size_t t = 0; t < COUNTOF(types); t++) {
        const int64_t block = dtype_block(types[t]);
        for (int i = 0; i <= n; i++) {
            struct dev *d = i < n ? ops_open(&list[i], 2) : ops_open_ref(DT_F32);
            compare_device(d, types[t], 7, block);
            compare_device(d, types[t], 70,
                           3 * block); // panels cut, and for blocks of 32 also their columns
            compare_device(d, types[t], 33, block == 32 ? 32 * 11 : 512);
            dev_close(d);
        }
    }
}

/* ---- what is refused */

static void test_not_finite(void **state) {
    (void)state;
    static const uint16_t bad[] = {0x7C00, 0xFC00, 0x7E00};
    struct ops_dev list[8];
    const int n = ops_list(list);
    for (size_t t = 0; t < COUNTOF(types); t++) {
        size_t at[2];
        const int n_half = half_places(types[t], at);
        for (int i = 0; i < 3 * n_half * (n + 1); i++) {
            const int k = i % (n + 1), h = i / (n + 1) % n_half;
            struct dev *d = k < n ? ops_open(&list[k], 1) : ops_open_ref(DT_F32);
            uint64_t rng = 5;
            const struct weights w = weights_of(types[t], 4, dtype_block(types[t]), &rng);
            unsigned char *s = w.stored + 2 * dtype_bytes(types[t]) + at[h];
            const uint16_t v = bad[i / (n + 1) / n_half];
            s[0] = (unsigned char)v;
            s[1] = (unsigned char)(v >> 8);
            const struct dev_weight_src src = {.name = "w.bad",
                                               .data = w.stored,
                                               .dtype = types[t],
                                               .n_out = 4,
                                               .n_in = w.n_in,
                                               .n_stored_rows = 4,
                                               .block = 4};
            struct wt *wt = NULL;
            struct err e = {0};
            assert_int_equal(dev_weight_new(&wt, d, WT_MATRIX, &src, &e), OK);
            dev_weights_prepare(d, &wt, 1);
            assert_int_equal(dev_sync(d, &e), E_FORMAT);
            assert_non_null(strstr(e.msg, "w.bad"));
            dev_weights_release(d, &wt, 1);
            dev_weight_free(wt);
            dev_close(d);
            free(w.stored);
            free(w.f32);
        }
    }
}

static void test_partial_blocks(void **state) {
    (void)state;
    struct dev *d = ops_open_ref(DT_F32);
    unsigned char p[1024] = {0};
    for (size_t t = 0; t < COUNTOF(types); t++) {
        const struct dev_weight_src src = {.name = "w.odd",
                                           .data = p,
                                           .dtype = types[t],
                                           .n_out = 1,
                                           .n_in = dtype_block(types[t]) + 16,
                                           .n_stored_rows = 1,
                                           .block = 1};
        struct wt *wt = NULL;
        struct err e = {0};
        assert_int_equal(dev_weight_new(&wt, d, WT_MATRIX, &src, &e), E_UNSUPPORTED);
        assert_non_null(strstr(e.msg, "w.odd"));
        assert_non_null(strstr(e.msg, dtype_name(types[t])));
    }
    dev_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),     cmocka_unit_test(test_ends),
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_devices),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_partial_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
