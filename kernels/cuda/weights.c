/* Weights: uploaded once and kept while there is room. A matrix lies on the device as operands where they are no
 * larger than what the file holds (or must be turned round), else as it is stored, to be expanded when it is
 * used; for steps as it is stored, unless it must be turned round; a table as it is stored; a vector as floats.
 *
 * When room is short, the weight that was let go last goes first: layers are used in a circle, and this way
 * the first ones stay. */
#include "kernels/cuda/cuda_impl.h"

#include "base/mem.h"

#include <math.h>

enum form { FLOATS, PANEL, STORED };

struct cuda_wt {
    enum form form;
    void *mem;    // owned: NULL when it had to make room
    size_t bytes; // of mem
    bool checked; // its elements are finite
    bool used;
    uint64_t released; // when, by the handle's clock
};

int64_t cuda_padded(const struct cuda_dev *d, int64_t n_in) {
    const int64_t per = 16 / (int64_t)cuda_word(d);
    return (n_in + per - 1) / per * per;
}

const float *cuda_wt_floats(const struct wt *w) {
    return w != NULL ? ((const struct cuda_wt *)w->state)->mem : NULL;
}

const unsigned char *cuda_wt_rows(const struct wt *w) {
    return ((const struct cuda_wt *)w->state)->mem;
}

bool cuda_wt_evict(struct cuda_dev *d) {
    struct cuda_wt *last = NULL;
    for (size_t i = 0; i < d->n_kept; i++) {
        struct cuda_wt *k = d->kept[i];
        if (k->mem == NULL || k->used) continue;
        if (last == NULL || k->released > last->released) last = k;
    }
    if (last == NULL) return false;
    cuda_give(d, last->mem);
    last->mem = NULL;
    return true;
}

// ---- what the file holds, as one run of bytes: the logical rows, one behind the other

static void fill_rows(const void *ctx, size_t at, size_t k, unsigned char *out) {
    const struct dev_weight_src *s = ctx;
    const size_t row_bytes = dtype_row_bytes(s->dtype, s->n_in);
    while (k > 0) {
        const int64_t row = (int64_t)(at / row_bytes), in_block = row % s->block;
        const size_t skip = at % row_bytes;
        // Rows up to the end of a block lie together.
        const size_t run = (size_t)(s->block - in_block) * row_bytes - skip, n = k < run ? k : run;
        memcpy(out, dev_src_ptr(s, row) + skip, n);
        out += n;
        at += n;
        k -= n;
    }
}

// A slice of that run.
struct slice {
    const struct dev_weight_src *src;
    size_t at;
};
static void fill_slice(const void *ctx, size_t at, size_t k, unsigned char *out) {
    const struct slice *s = ctx;
    fill_rows(s->src, s->at + at, k, out);
}

// Brings bytes at .. at + n of that run to the device: out of the file, or made there.
static void bring(struct cuda_dev *d, void *dst, const struct dev_weight_src *s, size_t at,
                  size_t n) {
    const struct slice from = {s, at};
    if (s->made == 0) {
        cuda_upload(d, dst, n, fill_slice, &from);
        return;
    }
    const struct cuda_make p = {.dst = dst,
                                .seed = s->made,
                                .scale = ldexpf(1, -s->made_shift),
                                .at = (int64_t)(at / sizeof(bf16_t)),
                                .n = (int64_t)(n / sizeof(bf16_t)),
                                .n_in = s->n_in,
                                .first = s->first,
                                .block = s->block,
                                .stride = s->stride};
    cuda_make_rows(d->stream, &p);
    CUDA_LAUNCHED(d);
}

// ---- uploads

static struct cuda_expand expand_of(struct cuda_dev *d, const struct dev_weight_src *s, void *dst) {
    return (struct cuda_expand){.dst = dst,
                                .bf16 = d->base.cfg.compute == DT_BF16,
                                .type = s->dtype,
                                .n_in = s->n_in,
                                .k_pad = cuda_padded(d, s->n_in),
                                .row_bytes = dtype_row_bytes(s->dtype, s->n_in)};
}

// Rows pass through raw memory on the device, a few at a time.
static void upload_panel(struct cuda_dev *d, const struct dev_weight_src *s, void *dst,
                         struct cuda_watch watch) {
    struct cuda_expand x = expand_of(d, s, dst);
    int64_t step = (int64_t)(d->tune.raw_bytes / x.row_bytes);
    step = step < 1 ? 1 : step < s->n_out ? step : s->n_out;
    x.watch = watch;
    x.src = cuda_scratch(d, &d->raw, (size_t)step * x.row_bytes);
    for (int64_t row = 0; row < s->n_out && d->base.err.code == OK; row += step) {
        x.n_row = s->n_out - row < step ? s->n_out - row : step;
        x.dst = (unsigned char *)dst + (size_t)(row * x.k_pad) * cuda_word(d);
        bring(d, d->raw.p, s, (size_t)row * x.row_bytes, (size_t)x.n_row * x.row_bytes);
        cuda_expand_rows(d->stream, &x);
        CUDA_LAUNCHED(d);
    }
}

static void upload_turned(struct cuda_dev *d, const struct dev_weight_src *s, void *dst,
                          struct cuda_watch watch) {
    struct cuda_turn t = {
        .x = expand_of(d, s, dst), .first = s->first, .block = s->block, .stride = s->stride};
    t.x.row_bytes = (size_t)s->n_stored_rows * dtype_bytes(s->dtype);
    t.x.n_row = s->n_out;
    t.x.watch = watch;
    int64_t step = (int64_t)(d->tune.raw_bytes / t.x.row_bytes);
    step = step < 1 ? 1 : step < s->n_in ? step : s->n_in;
    t.x.src = cuda_scratch(d, &d->raw, (size_t)step * t.x.row_bytes);
    // The tensor as it is stored, row by row.
    struct dev_weight_src whole = *s;
    whole.n_out = s->n_in;
    whole.n_in = s->n_stored_rows;
    whole.first = 0;
    whole.block = s->n_in;
    for (t.k0 = 0; t.k0 < s->n_in && d->base.err.code == OK; t.k0 += step) {
        t.n_k = s->n_in - t.k0 < step ? s->n_in - t.k0 : step;
        bring(d, d->raw.p, &whole, (size_t)t.k0 * t.x.row_bytes, (size_t)t.n_k * t.x.row_bytes);
        cuda_expand_turned(d->stream, &t);
        CUDA_LAUNCHED(d);
    }
}

// As it is stored; a matrix is looked through for what is not finite.
static void upload_stored(struct cuda_dev *d, const struct wt *w, const struct cuda_wt *k,
                          struct cuda_watch watch) {
    bring(d, k->mem, &w->src, 0, k->bytes);
    if (k->checked || w->use == WT_TABLE || d->base.err.code != OK) return;
    struct cuda_expand x = expand_of(d, &w->src, NULL);
    x.src = k->mem;
    x.n_row = w->src.n_out;
    x.watch = watch;
    cuda_expand_rows(d->stream, &x);
    CUDA_LAUNCHED(d);
}

static void upload_floats(struct cuda_dev *d, const struct wt *w, struct cuda_wt *k) {
    float *x = NULL;
    bool ok = true;
    struct err e = {.code = OK};
    const enum status st = mem_zalloc(&x, (size_t)w->src.n_out, sizeof *x, &e);
    if (st != OK) {
        dev_fail(&d->base, st, "%s", e.msg);
        return;
    }
    for (int64_t i = 0; i < w->src.n_out; i++)
        ok &= dev_src_floats(x + i, dev_src_ptr(&w->src, i), w->src.dtype, 1);
    if (!ok) dev_fail(&d->base, E_FORMAT, "%s holds NaN or infinity", w->src.name);
    k->checked = ok;
    if (ok) cuda_upload_bytes(d, k->mem, x, k->bytes);
    mem_free(x);
}

// Where and in which form the weight is to lie. False when its size overflows.
static bool shape(const struct cuda_dev *d, const struct wt *w, struct cuda_wt *k) {
    const struct dev_weight_src *s = &w->src;
    size_t stored = 0, panel = 0;
    k->form = FLOATS;
    k->bytes = (size_t)s->n_out * sizeof(float);
    if (w->use == WT_VECTOR) return true;
    if (!mem_mul((size_t)s->n_out, dtype_row_bytes(s->dtype, s->n_in), &stored) ||
        !mem_mul((size_t)s->n_out, (size_t)cuda_padded(d, s->n_in), &panel) ||
        !mem_mul(panel, cuda_word(d), &panel))
        return false;
    const bool steps = d->base.cfg.purpose == DEV_STEPS;
    const bool as_panel =
        w->use == WT_MATRIX &&
        (s->transposed || (!steps && (panel <= stored || cuda_padded(d, s->n_in) != s->n_in)));
    k->form = as_panel ? PANEL : STORED;
    k->bytes = as_panel ? panel : stored;
    return true;
}

static void upload(struct cuda_dev *d, struct wt *w, struct cuda_wt *k) {
    struct err e = {.code = OK};
    struct cuda_watch watch = {.fault = d->fault};
    const enum status st = cuda_take(d, k->bytes, &k->mem, &e);
    if (st != OK) {
        dev_fail(&d->base, st, "%s: %s", w->src.name, e.msg);
        return;
    }
    if (k->form == FLOATS) {
        upload_floats(d, w, k);
        return;
    }
    if (k->checked || w->use == WT_TABLE)
        watch.fault = NULL;
    else
        watch = cuda_watch(d, w->src.name);
    // What is stored as operands are needs no expansion.
    const bool same =
        w->src.dtype == d->base.cfg.compute && cuda_padded(d, w->src.n_in) == w->src.n_in;
    if (k->form == STORED || (same && !w->src.transposed))
        upload_stored(d, w, k, watch);
    else if (w->src.transposed)
        upload_turned(d, &w->src, k->mem, watch);
    else
        upload_panel(d, &w->src, k->mem, watch);
    if (k->checked || w->use == WT_TABLE) return;
    cuda_settle(d); // once per weight: an error of prepare is prepare's
    k->checked = d->base.err.code == OK;
}

// ---- entries

static struct cuda_wt *new_state(struct cuda_dev *d, struct wt *w) {
    struct err e = {.code = OK};
    struct cuda_wt *k = NULL;
    enum status st = mem_grow(&d->kept, &d->cap_kept, d->n_kept + 1, sizeof *d->kept, &e);
    if (st == OK) st = mem_zalloc(&k, 1, sizeof *k, &e);
    if (st != OK || !shape(d, w, k)) {
        mem_free(k);
        dev_fail(&d->base, E_NOMEM, "%s is too large", w->src.name);
        return NULL;
    }
    d->kept[d->n_kept++] = k;
    w->state = k;
    return k;
}

void cuda_wt_prepare(struct dev *dev, struct wt *w) {
    struct cuda_dev *d = cuda_begin(dev, DEV_PREPARE);
    struct cuda_wt *k = w->state != NULL ? w->state : new_state(d, w);
    if (k == NULL) return;
    k->used = true;
    if (k->mem == NULL) upload(d, w, k);
    if (d->base.err.code != OK) cuda_wt_drop(w);
}

void cuda_wt_release(struct wt *w) {
    struct cuda_wt *k = w->state;
    struct cuda_dev *d = cuda_of(w->dev);
    if (k == NULL) return;
    k->used = false;
    k->released = ++d->clock;
}

void cuda_wt_drop(struct wt *w) {
    struct cuda_wt *k = w->state;
    struct cuda_dev *d = cuda_of(w->dev);
    if (k == NULL) return;
    cudaSetDevice(d->ordinal);
    cuda_give(d, k->mem);
    for (size_t i = 0; i < d->n_kept; i++)
        if (d->kept[i] == k) d->kept[i--] = d->kept[--d->n_kept];
    mem_free(k);
    w->state = NULL;
}

const void *cuda_wt_panel(struct cuda_dev *d, const struct wt *w, int64_t row, int64_t n) {
    const struct cuda_wt *k = w->state;
    struct cuda_expand x = expand_of(d, &w->src, NULL);
    const size_t row_bytes = (size_t)x.k_pad * cuda_word(d);
    if (k->form == PANEL) return (const unsigned char *)k->mem + (size_t)row * row_bytes;
    x.dst = cuda_scratch(d, &d->panel, (size_t)n * row_bytes);
    if (x.dst == NULL) return NULL;
    x.src = (const unsigned char *)k->mem + (size_t)row * x.row_bytes;
    x.n_row = n;
    cuda_expand_rows(d->stream, &x);
    return CUDA_LAUNCHED(d) ? x.dst : NULL;
}

const unsigned char *cuda_wt_stored(const struct cuda_dev *d, const struct wt *w, enum dtype *type,
                                    size_t *row_bytes) {
    const struct cuda_wt *k = w->state;
    *type = k->form == PANEL ? d->base.cfg.compute : w->src.dtype;
    *row_bytes = k->form == PANEL ? (size_t)cuda_padded(d, w->src.n_in) * cuda_word(d)
                                  : dtype_row_bytes(w->src.dtype, w->src.n_in);
    return k->mem;
}
