#include "kernels/dev_impl.h"

#include "base/mem.h"
#include "kernels/quant.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

// ---- the handle

void dev_fail(struct dev *d, enum status code, const char *fmt, ...) {
    if (d->err.code != OK) return;
    char text[sizeof d->err.msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_fail(&d->err, code, "%s: %s", d->op, text);
}

enum status dev_config_check(const struct dev_config *c, struct err *e) {
    if (c->n_thread < 1) return err_fail(e, E_ARG, "threads: %d is less than 1", c->n_thread);
    if (c->compute != DT_F32 && c->compute != DT_BF16)
        return err_fail(e, E_ARG, "compute dtype must be f32 or bf16");
    if (c->int8 && c->compute != DT_BF16) return err_fail(e, E_ARG, "int8 is for a bf16 run");
    return OK;
}

void dev_close(struct dev *d) {
    if (d != NULL) d->ops->close(d);
}

struct dev_memory dev_memory(struct dev *d) {
    if (d->ops->memory != NULL) return d->ops->memory(d);
    return (struct dev_memory){.free_bytes = cpu_memory_bytes()};
}

const char *dev_kind(const struct dev *d) {
    return d->ops->kind;
}

int dev_ordinal(const struct dev *d) {
    return d->ordinal;
}

const char *dev_describe(const struct dev *d) {
    return d->describe;
}

enum dtype dev_kv_dtype(const struct dev *d) {
    return d->kv;
}

bool dev_makes(const struct dev *d) {
    return d->ops->makes;
}

enum status dev_sync(struct dev *d, struct err *e) {
    d->ops->sync(d);
    const struct err err = d->err;
    d->err = (struct err){0};
    return err.code == OK ? OK : err_fail(e, err.code, "%s", err.msg);
}

void dev_times(const struct dev *d, double seconds[DEV_STAGE_COUNT]) {
    d->ops->times(d, seconds);
}

enum status dev_measure(struct dev *d, double seconds, struct dev_peaks *out, struct err *e) {
    *out = (struct dev_peaks){.flops = 0};
    if (d->ops->measure == NULL) {
        return err_fail(e, E_UNSUPPORTED, "the %s device is not measured", d->ops->kind);
    }
    return d->ops->measure(d, seconds, out, e);
}

// ---- buffers

static enum dtype buf_element(const struct dev *d, enum buf_kind kind) {
    switch (kind) {
    case BUF_ACT:
    case BUF_ANGLE: return d->act;
    case BUF_KV: return d->kv;
    case BUF_ID: return DT_I32;
    case BUF_POS: return DT_I64;
    case BUF_LOGP: return DT_F64;
    case BUF_SEG:
    case BUF_SAMPLE:
    case BUF_ADJUST: break;
    }
    return DT_U8;
}

// Bytes of an element; structs are one.
static size_t element_bytes(enum buf_kind kind, enum dtype type) {
    switch (kind) {
    case BUF_SEG: return sizeof(struct dev_seg);
    case BUF_SAMPLE: return sizeof(struct dev_sample_row);
    case BUF_ADJUST: return sizeof(struct dev_adjust);
    case BUF_ACT:
    case BUF_ANGLE:
    case BUF_KV:
    case BUF_ID:
    case BUF_POS:
    case BUF_LOGP: break;
    }
    return dtype_bytes(type);
}

enum status buf_new(struct buf **out, struct dev *d, enum buf_kind kind, int64_t n_row,
                    int64_t n_col, struct err *e) {
    enum status st = OK;
    struct buf *b = NULL; // owned until *out takes it
    size_t bytes = 0;
    *out = NULL;
    if (n_row < 0 || n_col < 1)
        FAIL(e, E_BUG, "buffer of %lld x %lld", (long long)n_row, (long long)n_col);
    TRY(mem_zalloc(&b, 1, sizeof *b, e));
    b->dev = d;
    b->kind = kind;
    b->dtype = buf_element(d, kind);
    b->n_row = n_row;
    const bool wide = kind == BUF_ACT || kind == BUF_ANGLE || kind == BUF_KV;
    b->n_col = wide ? n_col : 1;
    const size_t element = element_bytes(kind, b->dtype);
    if (!mem_mul((size_t)b->n_col, element, &b->row_bytes) ||
        !mem_mul((size_t)n_row, b->row_bytes, &bytes))
        FAIL(e, E_NOMEM, "a buffer of %lld x %lld is too large", (long long)n_row,
             (long long)n_col);
    TRY(d->ops->buf_alloc(b, e));
    *out = b;
    b = NULL;
done:
    mem_free(b);
    return st;
}

void buf_free(struct buf *b) {
    if (b == NULL) return;
    b->dev->ops->buf_release(b);
    mem_free(b);
}

int64_t buf_rows(const struct buf *b) {
    return b->n_row;
}

size_t buf_row_bytes(const struct buf *b) {
    return b->row_bytes;
}

enum dtype buf_dtype(const struct buf *b) {
    CHECK(b->kind != BUF_SEG && b->kind != BUF_SAMPLE && b->kind != BUF_ADJUST);
    return b->dtype;
}

// ---- weights

// The stored rows that blocks of the source reach, checked without a product that could overflow.
static bool src_in_bounds(const struct dev_weight_src *s) {
    if (s->first < 0 || s->block < 1 || s->stride < 0 || s->n_stored_rows < 1) return false;
    const int64_t last_block = (s->n_out - 1) / s->block;
    const int64_t in_block = s->n_out < s->block ? s->n_out : s->block;
    int64_t last = 0;
    if (__builtin_mul_overflow(last_block, s->stride, &last) ||
        __builtin_add_overflow(last, s->first, &last) ||
        __builtin_add_overflow(last, in_block - 1, &last))
        return false;
    size_t n = 0;
    return last < s->n_stored_rows &&
           mem_mul((size_t)(s->n_in / dtype_block(s->dtype)), dtype_bytes(s->dtype), &n) &&
           mem_mul(n, (size_t)s->n_stored_rows, &n) && n <= INT64_MAX;
}

enum status dev_weight_new(struct wt **out, struct dev *d, enum wt_use use,
                           const struct dev_weight_src *src, struct err *e) {
    *out = NULL;
    if (src == NULL || src->name == NULL ||
        (src->data == NULL && (src->made == 0 || !d->ops->makes)))
        return err_fail(e, E_BUG, "a weight without name or data");
    if (src->made != 0 && (src->dtype != DT_BF16 || use == WT_VECTOR))
        return err_fail(e, E_BUG, "%s: made up, and not a matrix of bf16", src->name);
    if (!dtype_is_weight(src->dtype) && !(use == WT_VECTOR && src->dtype == DT_F64))
        return err_fail(e, E_UNSUPPORTED, "%s: weights of type %s", src->name,
                        dtype_name(src->dtype));
    if (src->n_in % dtype_block(src->dtype) != 0)
        return err_fail(e, E_UNSUPPORTED, "%s: rows of %lld elements are not whole blocks of %s",
                        src->name, (long long)src->n_in, dtype_name(src->dtype));
    if (src->transposed && (use != WT_MATRIX || dtype_block(src->dtype) > 1))
        return err_fail(e, E_BUG, "%s: transposed, and not a matrix of single elements", src->name);
    if (src->n_out < 1 || src->n_in < 1 || (use == WT_VECTOR && src->n_in != 1) ||
        !src_in_bounds(src))
        return err_fail(e, E_BUG, "%s: rows [%lld x %lld] outside the stored %lld rows", src->name,
                        (long long)src->n_out, (long long)src->n_in, (long long)src->n_stored_rows);
    struct wt *w = NULL;
    const enum status st = mem_zalloc(&w, 1, sizeof *w, e);
    if (st != OK) return st;
    w->dev = d;
    w->use = use;
    w->src = *src;
    *out = w;
    return OK;
}

void dev_weight_free(struct wt *w) {
    if (w == NULL) return;
    if (w->state != NULL) w->dev->ops->wt_drop(w);
    mem_free(w);
}

// Value number i, from 0, of splitmix64 after `seed`.
static uint64_t made_word(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void dev_made_fill(bf16_t *out, uint64_t seed, int shift, int64_t first, int64_t n, int n_thread) {
    bf16_t value[256];
    CHECK(first % 8 == 0);
    for (int b = 0; b < 256; b++)
        value[b] = dtype_f32_to_bf16(ldexpf((float)(b < 128 ? b : b - 256), -shift));
#pragma omp parallel for num_threads(n_thread) schedule(static)
    for (int64_t i = 0; i < (n + 7) / 8; i++) {
        const uint64_t w = made_word(seed, (uint64_t)(first / 8 + i));
        for (int64_t j = 0; j < 8 && 8 * i + j < n; j++)
            out[8 * i + j] = value[w >> (8 * j) & 0xFF];
    }
}

bool dev_src_floats(float *out, const unsigned char *p, enum dtype type, int64_t n) {
    uint32_t bad = 0; // counts exponents of all ones
    if (dtype_block(type) > 1) return dev_quant_floats(out, p, type, n);
    if (type == DT_F32) {
        memcpy(out, p, (size_t)n * sizeof *out);
    } else if (type == DT_F64) {
        for (int64_t i = 0; i < n; i++) {
            double x;
            memcpy(&x, p + 8 * i, sizeof x);
            out[i] = (float)x;
        }
    } else if (type == DT_BF16) {
        for (int64_t i = 0; i < n; i++) {
            bf16_t h;
            memcpy(&h, p + 2 * i, sizeof h);
            out[i] = dtype_bf16_to_f32(h);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, sizeof h);
            out[i] = dtype_f16_to_f32(h);
        }
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, out + i, sizeof u);
        bad += (u & 0x7F800000u) == 0x7F800000u;
    }
    return bad == 0;
}
