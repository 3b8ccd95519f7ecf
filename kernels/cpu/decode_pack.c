/* Matrices of a handle for steps: from rows of blocks, as files have them, to panels of columns, as
 * decode.h says. One pass; no number changes, floats of a bf16 run excepted, which are rounded. */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/decode.h"
#include "kernels/quant.h"

#include "base/mem.h"

enum { LANES_MAX = 16 };

enum dtype cpu_decode_type(const struct cpu_dev *d, enum dtype stored) {
    if (dtype_block(stored) > 1) return stored;
    return d->base.cfg.compute == DT_BF16 || stored == DT_BF16 ? DT_BF16 : DT_F32;
}

int64_t cpu_decode_blocks(enum dtype type, int64_t n_in) {
    return cpu_ceil(n_in, cpu_plane_block(cpu_form_of(type).plane));
}

size_t cpu_decode_panel_bytes(const struct cpu_dev *d, enum dtype type, int64_t n_in) {
    const struct cpu_form f = cpu_form_of(type);
    const size_t group = (size_t)cpu_form_group(f);
    const size_t n = (size_t)cpu_decode_blocks(type, n_in) / group;
    const size_t bytes =
        (size_t)cpu_form_head(f) + group * (size_t)cpu_form_block(f); // of a group, per lane
    return n * bytes * (size_t)d->decode->lanes;
}

/* ---- quantized: a block of the file, its unsigned integers, a block of a panel */

// Where the parts of a type's block lie in it; high bits are in front of the nibbles (Q6: behind).
struct places {
    int nibbles, high;
};
static struct places places_of(enum dtype t) {
    switch (t) {
    case DT_Q8_0:
    case DT_Q4_0: return (struct places){2, 0};
    case DT_Q4_1: return (struct places){4, 0};
    case DT_Q5_0: return (struct places){6, 2};
    case DT_Q5_1: return (struct places){8, 4};
    case DT_Q4_K: return (struct places){16, 0};
    case DT_Q5_K: return (struct places){48, 16};
    default: return (struct places){0, 128}; // Q6_K
    }
}

// Of the 32 elements that begin at element 32 g of the block at p.
static void integers(uint8_t v[32], const unsigned char *p, enum dtype type, int g) {
    const enum cpu_plane plane = cpu_form_of(type).plane;
    const struct places at = places_of(type);
    const unsigned char *q = p + at.nibbles, *h = p + at.high;
    if (type == DT_Q8_0) {
        for (int r = 0; r < 32; r++) v[r] = q[r] ^ 128;
    } else if (type == DT_Q6_K) {
        const int half = g / 4, part = g % 4;
        q += 64 * half + 32 * (part % 2), h += 32 * half;
        for (int r = 0; r < 32; r++)
            v[r] = (uint8_t)((q[r] >> part / 2 * 4 & 15) | (h[r] >> 2 * part & 3) << 4);
    } else if (type == DT_Q4_K || type == DT_Q5_K) {
        q += g / 2 * 32;
        for (int r = 0; r < 32; r++) v[r] = q[r] >> g % 2 * 4 & 15;
        if (plane == PLANE_Q5)
            for (int r = 0; r < 32; r++) v[r] |= (uint8_t)((h[r] >> g & 1) << 4);
    } else {
        for (int r = 0; r < 16; r++) v[r] = q[r] & 15, v[16 + r] = q[r] >> 4;
        if (plane == PLANE_Q5)
            for (int r = 0; r < 32; r++) v[r] |= (uint8_t)((h[r / 8] >> r % 8 & 1) << 4);
    }
}

// The words of one lane; `lanes` words apart.
static void put_words(unsigned char *out, int lanes, enum cpu_plane plane, const uint8_t *v) {
    const int n = cpu_plane_block(plane);
    uint32_t words[8] = {0};
    if (plane == PLANE_Q8) {
        memcpy(words, v, 32);
    } else {
        for (int k = 0; k < n; k++) {
            const int byte = k % 4, upper = k / 4 % 2;
            words[k / 8] |= (uint32_t)(v[k] & 15) << (8 * byte + 4 * upper);
            if (plane == PLANE_Q5) words[4] |= (uint32_t)(v[k] >> 4) << (8 * byte + k / 4);
            if (plane == PLANE_Q6) words[2] |= (uint32_t)(v[k] >> 4) << (8 * byte + k / 4 * 2);
        }
    }
    for (int w = 0; w < cpu_plane_words(plane); w++)
        memcpy(out + (size_t)w * (size_t)lanes * 4, words + w, 4);
}

// S and M of block i of a K type.
static void byte_scales(const unsigned char *p, enum dtype type, int i, uint8_t *scale,
                        uint8_t *min) {
    const unsigned char *s = p + 4;
    if (type == DT_Q6_K) {
        *scale = p[192 + i];
    } else if (i < 4) {
        *scale = s[i] & 63, *min = s[i + 4] & 63;
    } else {
        *scale = (uint8_t)((s[i + 4] & 15) | s[i - 4] >> 6 << 4);
        *min = (uint8_t)(s[i + 4] >> 4 | s[i] >> 6 << 4);
    }
}

// One lane of a panel: a row of the matrix. False when a scale is not finite.
static bool pack_lane(unsigned char *out, int lanes, int lane, const unsigned char *p,
                      enum dtype type, int64_t n_in) {
    const struct cpu_form f = cpu_form_of(type);
    const int group = cpu_form_group(f), block = cpu_plane_block(f.plane);
    bool ok = true;
    for (int64_t k = 0; k < n_in; k += dtype_block(type), p += dtype_bytes(type)) {
        const unsigned char *d = type == DT_Q6_K ? p + 208 : p;
        ok &= dev_quant_finite(p, type);
        memcpy(out + 2 * lane, d, 2);
        if (f.min) memcpy(out + 2 * lanes + 2 * lane, p + 2, 2);
        out += cpu_form_head(f) * lanes;
        uint8_t v[32];
        for (int i = 0; i < group; i++) {
            unsigned char *words =
                out + cpu_form_block(f) * lanes - 4 * cpu_plane_words(f.plane) * lanes + 4 * lane;
            if (f.k) byte_scales(p, type, i, out + lane, out + lanes + lane);
            const int at = i * block;
            if (at % 32 == 0) integers(v, p, type, at / 32);
            put_words(words, lanes, f.plane, v + at % 32);
            out += cpu_form_block(f) * lanes;
        }
    }
    return ok;
}

/* ---- floats */

static bool pack_floats(const struct cpu_dev *d, const struct dev_weight_src *s, int64_t row, int n,
                        enum dtype type, unsigned char *out) {
    const int lanes = d->decode->lanes, per = type == DT_BF16 ? 2 : 1;
    float x[LANES_MAX * CPU_PACK_K];
    bf16_t h[LANES_MAX * CPU_PACK_K];
    bool ok = true;
    for (int64_t k = 0; k < s->n_in; k += CPU_PACK_K) {
        const int64_t n_k = s->n_in - k < CPU_PACK_K ? s->n_in - k : CPU_PACK_K;
        const int64_t padded = cpu_decode_blocks(type, n_k) * 32, words = padded / per;
        memset(x, 0, sizeof x);
        ok &= cpu_weight_floats(d, s, row, n, k, n_k, x);
        if (type == DT_BF16) d->k->to_bf16(h, x, LANES_MAX * CPU_PACK_K);
        const void *from = type == DT_BF16 ? (const void *)h : x;
        d->k->transpose((uint32_t *)(void *)out, lanes, lanes, from, CPU_PACK_K / per, n, words);
        out += words * lanes * 4;
    }
    return ok;
}

static bool pack_panel(const struct cpu_dev *d, const struct dev_weight_src *s, int64_t p,
                       enum dtype type, unsigned char *out) {
    const int lanes = d->decode->lanes;
    const int64_t row = p * lanes;
    const int n = (int)(s->n_out - row < lanes ? s->n_out - row : lanes);
    if (dtype_block(type) == 1) return pack_floats(d, s, row, n, type, out);
    bool ok = true;
    if (n < lanes) memset(out, 0, cpu_decode_panel_bytes(d, type, s->n_in));
    for (int i = 0; i < n; i++)
        ok &= pack_lane(out, lanes, i, dev_src_ptr(s, row + i), type, s->n_in);
    return ok;
}

void cpu_decode_prepare(struct dev *dev, struct wt *w) {
    struct cpu_dev *d = cpu_of(dev);
    if (w->use != WT_MATRIX) {
        cpu_wt_prepare(dev, w);
        return;
    }
    const enum dtype type = cpu_decode_type(d, w->src.dtype);
    const int64_t n_panel = cpu_ceil(w->src.n_out, d->decode->lanes);
    const size_t panel = cpu_decode_panel_bytes(d, type, w->src.n_in);
    size_t bytes = 0;
    if (!mem_mul((size_t)n_panel, panel, &bytes)) {
        dev_fail(dev, E_NOMEM, "%s is too large", w->src.name);
        return;
    }
    w->state = cpu_take_memory(d, bytes);
    if (w->state == NULL) return;
    unsigned char *out = w->state;
    int bad = 0;
#pragma omp parallel for num_threads(cpu_team(d, (int64_t)bytes)) schedule(dynamic, 1)             \
    reduction(|                                                                                    \
              : bad)
    for (int64_t p = 0; p < n_panel; p++)
        bad |= !pack_panel(d, &w->src, p, type, out + (size_t)p * panel);
    if (bad == 0) return;
    dev_fail(dev, E_FORMAT, "%s holds NaN or infinity", w->src.name);
    cpu_wt_release(w);
}
