/* Packed rows times packed panels: the matrix product under linear and head. */
#include "kernels/cpu/cpu_impl.h"

enum {
    A_BYTES = 768 * 1024, // packed A of a block: well inside L2
    BLOCK_TILES = 12      // and no more row tiles than this, for the balance of threads
};

void cpu_words(const struct cpu_dev *d, uint32_t *out, const float *x, int64_t n) {
    if (d->word == WORD_PAIRS) {
        bf16_t *h = (bf16_t *)out;
        d->k->to_bf16(h, x, n);
        for (int64_t i = n; i < 2 * cpu_steps(d->k, d->word, n); i++) h[i] = 0;
    } else if (d->round) {
        d->k->round_bf16((float *)out, x, n);
    } else {
        memcpy(out, x, (size_t)n * sizeof *x);
    }
}

void cpu_row_words(const struct cpu_dev *d, uint32_t *out, const float *x, int64_t n) {
    if (d->lin_word == WORD_INT8)
        d->lin->int8_a(out, x, n);
    else
        cpu_words(d, out, x, n);
}

void cpu_weight_words(const struct cpu_dev *d, uint32_t *out, const float *x, int64_t n) {
    if (d->lin_word == WORD_INT8)
        d->lin->int8_b(out, x, n);
    else
        cpu_words(d, out, x, n);
}

struct cpu_rows cpu_cut(const struct cpu_dev *d, int64_t n_row, int64_t n_in, int64_t n_unit) {
    const int mr = d->lin->mr;
    struct cpu_rows c = {.n_row = n_row, .steps = cpu_lin_steps(d, n_in)};
    c.words = cpu_a_words(d, c.steps);
    int64_t tiles = A_BYTES / (c.words * mr * 4);
    if (tiles > BLOCK_TILES) tiles = BLOCK_TILES;
    if (tiles < 1) tiles = 1;
    const int64_t all = cpu_ceil(n_row, mr);
    // As many blocks as the threads share evenly, unless rows are too few for that.
    int64_t n = cpu_ceil(all, tiles);
    if (n > 1 || all >= 2 * d->n_thread) n = cpu_ceil(n, d->n_thread) * d->n_thread;
    c.block = cpu_ceil(all, n) * mr;
    c.n_block = cpu_ceil(n_row, c.block);
    const int64_t want = 4 * d->n_thread;
    const int64_t groups = c.n_block >= want || d->n_thread == 1 ? 1 : cpu_ceil(want, c.n_block);
    c.group = cpu_ceil(n_unit, groups);
    c.n_group = cpu_ceil(n_unit, c.group);
    c.pack_bytes = cpu_pack_bytes(&c);
    return c;
}

void cpu_pack_rows(const struct cpu_dev *d, const struct cpu_rows *cut, void *pack,
                   const struct buf *x, int64_t row, int64_t n) {
    const int mr = d->lin->mr;
    uint32_t *out = pack, *words = out + cut->block * cut->words;
    for (int64_t i = 0; i < n; i += mr) {
        const int rows = (int)(n - i < mr ? n - i : mr), m = d->lin->tile_rows(rows);
        const uint32_t *from = words;
        int64_t lds = cut->words;
        if (d->lin_word == WORD_F32 && !d->round) {
            from = dev_host_row(x, row + i);
            lds = x->n_col;
        } else {
            for (int r = 0; r < rows; r++)
                cpu_row_words(d, words + r * lds, cpu_row(x, row + i + r), x->n_col);
        }
        d->lin->pack_a(out + i * cut->words, m, from, lds, rows, cut->words);
    }
}

// One tile whose rows or columns are not all there: by way of a whole one.
static void edge_tile(const struct cpu_dev *d, int m, int64_t steps, const void *a, const void *b,
                      float *c, int64_t ldc, const float *first, int rows, int cols) {
    float t[CPU_MR_MAX * 64] = {0};
    const int nr = d->lin->nr;
    if (first == NULL)
        for (int i = 0; i < rows; i++) memcpy(t + i * nr, c + i * ldc, (size_t)cols * sizeof *t);
    d->lin->tile(d->lin_word, m, steps, a, b, t, nr, first);
    for (int i = 0; i < rows; i++) memcpy(c + i * ldc, t + i * nr, (size_t)cols * sizeof *t);
}

void cpu_product(const struct cpu_dev *d, const struct cpu_product *p) {
    const int mr = d->lin->mr, nr = d->lin->nr;
    const int64_t n_out = p->w->src.n_out, kc = d->lin->kc;
    const int64_t a_words = cpu_a_words(d, p->steps), b_words = cpu_b_words(d, p->steps);
    for (int64_t s = 0; s < p->steps; s += kc) {
        const int64_t n_s = p->steps - s < kc ? p->steps - s : kc;
        const int64_t s_a = cpu_a_words(d, s), s_b = cpu_b_words(d, s);
        for (int64_t j = p->p0; j < p->p1; j++) {
            const uint32_t *b = (const uint32_t *)p->w->state + (j * b_words + s_b) * nr;
            const float *first = s > 0 ? NULL : cpu_vector(p->bias, j * nr);
            const int cols = (int)(n_out - j * nr < nr ? n_out - j * nr : nr);
            for (int64_t i = 0; i < p->n; i += mr) {
                const int rows = (int)(p->n - i < mr ? p->n - i : mr), m = d->lin->tile_rows(rows);
                const uint32_t *a = (const uint32_t *)p->pack + i * a_words + s_a * m;
                float *c = p->c + i * p->ldc + (j - p->p0) * nr;
                if (rows == m && cols == nr)
                    d->lin->tile(d->lin_word, m, n_s, a, b, c, p->ldc, first);
                else
                    edge_tile(d, m, n_s, a, b, c, p->ldc, first, rows, cols);
            }
        }
    }
}
