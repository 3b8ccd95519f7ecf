#include "tests/support_gguf.h"
#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void put(struct sbuf *b, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) sbuf_putc(b, (char)(v >> (8 * i)));
}

static void put_text(struct sbuf *b, const char *s) {
    put(b, strlen(s), 8);
    sbuf_puts(b, s);
}

void support_write(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---- GGUF */

void gw_init(struct gw *w) {
    memset(w, 0, sizeof *w);
    w->version = 3;
    w->alignment = 32;
}

void gw_fini(struct gw *w) {
    sbuf_fini(&w->values);
    sbuf_fini(&w->infos);
    sbuf_fini(&w->data);
}

static void entry(struct gw *w, const char *key, uint32_t type) {
    w->n_value++;
    put_text(&w->values, key);
    put(&w->values, type, 4);
}

void gw_u32(struct gw *w, const char *key, uint32_t v) {
    entry(w, key, 4);
    put(&w->values, v, 4);
}

void gw_u16(struct gw *w, const char *key, uint16_t v) {
    entry(w, key, 2);
    put(&w->values, v, 2);
}

void gw_bool(struct gw *w, const char *key, bool v) {
    entry(w, key, 7);
    put(&w->values, v, 1);
}

void gw_f32(struct gw *w, const char *key, float v) {
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    entry(w, key, 6);
    put(&w->values, u, 4);
}

void gw_str(struct gw *w, const char *key, const char *v) {
    entry(w, key, 8);
    put_text(&w->values, v);
}

void gw_u32s(struct gw *w, const char *key, const uint32_t *v, size_t n) {
    entry(w, key, 9);
    put(&w->values, 4, 4);
    put(&w->values, n, 8);
    for (size_t i = 0; i < n; i++) put(&w->values, v[i], 4);
}

void gw_strs(struct gw *w, const char *key, const char *const *v, size_t n) {
    entry(w, key, 9);
    put(&w->values, 8, 4);
    put(&w->values, n, 8);
    for (size_t i = 0; i < n; i++) put_text(&w->values, v[i]);
}

static uint32_t type_id(enum dtype t) {
    static const uint8_t ids[DT_COUNT] = {28, 0, 1, 30, 26, 27, 255, 8, 2, 3, 6, 7, 12, 13, 14};
    return ids[t];
}

void gw_tensor(struct gw *w, const char *name, int n_dim, const int64_t *dim, enum dtype type,
               const void *data, size_t bytes) {
    w->n_tensor++;
    put_text(&w->infos, name);
    put(&w->infos, (uint64_t)n_dim, 4);
    for (int i = n_dim - 1; i >= 0; i--) put(&w->infos, (uint64_t)dim[i], 8);
    put(&w->infos, type_id(type), 4);
    put(&w->infos, w->data.n, 8);
    sbuf_add(&w->data, data, bytes);
    while (w->data.n % w->alignment != 0) sbuf_putc(&w->data, 0);
}

void gw_save(struct gw *w, const char *path) {
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, "GGUF");
    put(&b, w->version, 4);
    put(&b, w->n_tensor, 8);
    put(&b, w->n_value, 8);
    sbuf_add(&b, w->values.s, w->values.n);
    sbuf_add(&b, w->infos.s, w->infos.n);
    while (b.n % w->alignment != 0) sbuf_putc(&b, 0);
    sbuf_add(&b, w->data.s, w->data.n);
    assert_false(b.failed || w->values.failed || w->infos.failed || w->data.failed);
    support_write(path, b.s, b.n);
    sbuf_fini(&b);
}

/* ---- safetensors */

void sw_init(struct sw *w) {
    memset(w, 0, sizeof *w);
}

void sw_fini(struct sw *w) {
    sbuf_fini(&w->header);
    sbuf_fini(&w->data);
}

void sw_tensor(struct sw *w, const char *name, int n_dim, const int64_t *dim, const float *data) {
    size_t n = 1;
    sbuf_printf(&w->header, "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[", w->header.n ? ',' : '{',
                name);
    for (int i = 0; i < n_dim; i++) {
        sbuf_printf(&w->header, "%s%lld", i ? "," : "", (long long)dim[i]);
        n *= (size_t)dim[i];
    }
    const size_t at = w->data.n;
    sbuf_add(&w->data, data, n * sizeof *data);
    sbuf_printf(&w->header, "],\"data_offsets\":[%zu,%zu]}", at, w->data.n);
}

void sw_save(struct sw *w, const char *path) {
    struct sbuf b;
    sbuf_init(&b);
    put(&b, w->header.n + 1, 8);
    sbuf_add(&b, w->header.s, w->header.n);
    sbuf_putc(&b, '}');
    sbuf_add(&b, w->data.s, w->data.n);
    assert_false(b.failed || w->header.failed || w->data.failed);
    support_write(path, b.s, b.n);
    sbuf_fini(&b);
}

/* ---- blocks */

uint16_t support_half(double x) {
    int exp = 0;
    const double m = frexp(fabs(x), &exp);                       // m in [0.5, 1)
    const int bits = exp < -13 ? (int)lround(ldexp(m, exp + 24)) // subnormal
                               : (exp + 14) * 1024 + (int)lround(ldexp(m, 11)) - 1024;
    return (uint16_t)((x < 0 ? 0x8000 : 0) + bits);
}

static void put_half(unsigned char *p, double x) {
    const uint16_t h = support_half(x);
    p[0] = (unsigned char)h;
    p[1] = (unsigned char)(h >> 8);
}

static void block(unsigned char *p, enum dtype type, double scale, uint64_t *rng) {
    for (size_t i = 0; i < dtype_bytes(type); i++) p[i] = (unsigned char)(256 * ops_uniform(rng));
    const double d = scale * (0.5 + ops_uniform(rng));
    switch (type) {
    case DT_Q8_0: put_half(p, d / 74); break;
    case DT_Q4_0: put_half(p, -d / 5); break; // quantizers make this scale negative as often as not
    case DT_Q5_0: put_half(p, -d / 10); break;
    case DT_Q4_1: put_half(p, d / 5), put_half(p + 2, -d * 1.5); break;
    case DT_Q5_1: put_half(p, d / 10), put_half(p + 2, -d * 1.5); break;
    case DT_Q4_K: put_half(p, d / 150), put_half(p + 2, d / 20); break;
    case DT_Q5_K: put_half(p, d / 300), put_half(p + 2, d / 20); break;
    case DT_Q6_K: put_half(p + 208, d / 1200); break;
    case DT_F16: put_half(p, d * (p[0] % 2 ? 1 : -1)); break;
    case DT_BF16: {
        const bf16_t h = dtype_f32_to_bf16((float)(p[0] % 2 ? d : -d));
        memcpy(p, &h, sizeof h);
        break;
    }
    default: { // DT_F32
        const float f = (float)(p[0] % 2 ? d : -d);
        memcpy(p, &f, sizeof f);
        break;
    }
    }
}

void support_blocks(unsigned char *out, int64_t n, enum dtype type, double scale, uint64_t *rng) {
    const int64_t each = dtype_block(type);
    for (int64_t i = 0; i < n; i += each, out += dtype_bytes(type)) block(out, type, scale, rng);
}
