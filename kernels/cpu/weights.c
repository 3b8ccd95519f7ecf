/* Weights: from the type they are stored in to panels of operand words, in memory that goes from a
 * weight that was let go to the next one. */
#include "kernels/cpu/cpu_impl.h"

#include "base/mem.h"

enum {
    PACK_K = CPU_PACK_K,
    PAD = 64 // vectors are padded to a multiple of the widest panel
};

const float cpu_zeros[PAD] = {0};

static struct cpu_piece *find_piece(struct cpu_dev *d, size_t bytes) {
    struct cpu_piece *best = NULL;
    for (size_t i = 0; i < d->n_piece; i++) {
        struct cpu_piece *p = d->piece + i;
        if (p->used || p->bytes < bytes || p->bytes / 2 > bytes) continue;
        if (best == NULL || p->bytes < best->bytes) best = p;
    }
    return best;
}

// A new piece; when memory is short, after those that nobody uses are gone.
static struct cpu_piece *new_piece(struct cpu_dev *d, size_t bytes) {
    struct err e = {0};
    void *mem = NULL;
    if (mem_grow(&d->piece, &d->cap_piece, d->n_piece + 1, sizeof *d->piece, &e) != OK) goto failed;
    if (mem_alloc64(&mem, bytes, 1, NULL) != OK) {
        size_t kept = 0;
        for (size_t i = 0; i < d->n_piece; i++) {
            if (d->piece[i].used)
                d->piece[kept++] = d->piece[i];
            else
                mem_free(d->piece[i].mem);
        }
        d->n_piece = kept;
        if (mem_alloc64(&mem, bytes, 1, &e) != OK) goto failed;
    }
    d->piece[d->n_piece] = (struct cpu_piece){.mem = mem, .bytes = bytes};
    return &d->piece[d->n_piece++];
failed:
    dev_fail(&d->base, e.code, "%s", e.msg);
    return NULL;
}

void *cpu_take_memory(struct cpu_dev *d, size_t bytes) {
    struct cpu_piece *p = find_piece(d, bytes);
    if (p == NULL) p = new_piece(d, bytes);
    if (p == NULL) return NULL;
    p->used = true;
    return p->mem;
}

void cpu_wt_release(struct wt *w) {
    struct cpu_dev *d = cpu_of(w->dev);
    for (size_t i = 0; i < d->n_piece; i++)
        if (d->piece[i].mem == w->state) d->piece[i].used = false;
    w->state = NULL;
}

const float *cpu_vector(const struct wt *w, int64_t at) {
    return w == NULL ? cpu_zeros : (const float *)w->state + at;
}

// Columns k.. of rows row.. of a transposed matrix as rows of x, PACK_K apart. Stored rows that lie
// side by side are converted together.
static bool read_transposed(const struct cpu_dev *d, const struct dev_weight_src *s, int64_t row,
                            int n, int64_t k, int64_t n_k, float *x) {
    float column[PAD];
    bool ok = true;
    for (int i = 0, run = 0; i < n; i += run) {
        for (run = 1; i + run < n && run < PAD &&
                      dev_src_row(s, row + i + run) == dev_src_row(s, row + i) + run;)
            run++;
        for (int64_t j = 0; j < n_k; j++) {
            ok &= d->k->floats(column, dev_src_transposed(s, row + i, k + j), s->dtype, run);
            for (int r = 0; r < run; r++) x[(i + r) * PACK_K + j] = column[r];
        }
    }
    return ok;
}

bool cpu_weight_floats(const struct cpu_dev *d, const struct dev_weight_src *s, int64_t row, int n,
                       int64_t k, int64_t n_k, float *x) {
    if (s->transposed) return read_transposed(d, s, row, n, k, n_k, x);
    bool ok = true;
    for (int i = 0; i < n; i++)
        ok &= d->k->floats(x + i * PACK_K, dev_src_ptr(s, row + i) + dtype_row_bytes(s->dtype, k),
                           s->dtype, n_k);
    return ok;
}

// Panel p of a matrix: nr of its rows, step-major. False when something in it is not finite.
static bool pack_panel(const struct cpu_dev *d, const struct dev_weight_src *s, int64_t p,
                       uint32_t *out) {
    const int nr = d->lin->nr;
    const int64_t row = p * nr;
    const int n = (int)(s->n_out - row < nr ? s->n_out - row : nr);
    float line[PACK_K], lines[PAD * PACK_K];
    uint32_t words[PAD * PACK_K];
    bool ok = true;
    for (int64_t k = 0; k < s->n_in; k += PACK_K) {
        const int64_t n_k = s->n_in - k < PACK_K ? s->n_in - k : PACK_K;
        if (s->transposed) ok &= read_transposed(d, s, row, n, k, n_k, lines);
        for (int i = 0; i < n; i++) {
            const float *x = s->transposed ? lines + i * PACK_K : line;
            if (!s->transposed)
                ok &= d->k->floats(line, dev_src_ptr(s, row + i) + dtype_row_bytes(s->dtype, k),
                                   s->dtype, n_k);
            cpu_weight_words(d, words + i * PACK_K, x, n_k);
        }
        d->lin->transpose(out + cpu_b_words(d, cpu_lin_steps(d, k)) * nr, nr, nr, words, PACK_K, n,
                          cpu_b_words(d, cpu_lin_steps(d, n_k)));
    }
    return ok;
}

static bool pack_matrix(const struct cpu_dev *d, const struct wt *w, uint32_t *out) {
    const int64_t n_panel = cpu_ceil(w->src.n_out, d->lin->nr),
                  words = cpu_b_words(d, cpu_lin_steps(d, w->src.n_in)) * d->lin->nr;
    int bad = 0;
#pragma omp parallel for num_threads(cpu_team(d, 16 * n_panel * words)) schedule(dynamic, 1)       \
    reduction(|                                                                                    \
              : bad)
    for (int64_t p = 0; p < n_panel; p++) bad |= !pack_panel(d, &w->src, p, out + p * words);
    return bad == 0;
}

static bool pack_vector(const struct wt *w, float *out, int64_t padded) {
    bool ok = true;
    for (int64_t i = 0; i < w->src.n_out; i++)
        ok &= dev_src_floats(out + i, dev_src_ptr(&w->src, i), w->src.dtype, 1);
    for (int64_t i = w->src.n_out; i < padded; i++) out[i] = 0.0f;
    return ok;
}

void cpu_wt_prepare(struct dev *dev, struct wt *w) {
    struct cpu_dev *d = cpu_of(dev);
    if (w->use == WT_TABLE) return;
    const int64_t padded = cpu_ceil(w->src.n_out, PAD) * PAD;
    const int64_t rows = cpu_ceil(w->src.n_out, d->lin->nr) * d->lin->nr;
    const int64_t words = cpu_b_words(d, cpu_lin_steps(d, w->src.n_in));
    size_t bytes = (size_t)padded * sizeof(float);
    if (w->use == WT_MATRIX && (!mem_mul((size_t)rows, (size_t)words, &bytes) ||
                                !mem_mul(bytes, sizeof(uint32_t), &bytes))) {
        dev_fail(dev, E_NOMEM, "%s is too large", w->src.name);
        return;
    }
    w->state = cpu_take_memory(d, bytes);
    if (w->state == NULL) return;
    const bool ok =
        w->use == WT_MATRIX ? pack_matrix(d, w, w->state) : pack_vector(w, w->state, padded);
    if (ok) return;
    dev_fail(dev, E_FORMAT, "%s holds NaN or infinity", w->src.name);
    cpu_wt_release(w);
}
