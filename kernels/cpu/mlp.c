/* The MLP of a layer in one go: a thread takes a block of rows through gate, up, activation and
 * down, and what lies between never leaves its L2. Each element goes through the same operations in
 * the same order as in cpu_linear, cpu_act, cpu_linear: the bytes are the same. */
#include "kernels/cpu/cpu_impl.h"

#include <omp.h>

struct mlp {
    struct cpu_dev *d;
    const struct dev_mlp *p;
    struct cpu_rows in;  // how x is packed
    int64_t n_panel;     // of gate and up
    int64_t steps;       // of a row of what comes out of the activation
    int64_t words;       // of that row, packed
    int64_t width;       // its columns that are packed together: whole panels, and blocks of int8
    size_t mid_bytes;    // those rows, packed
    size_t panel_bytes;  // `width` columns of gate or up
    size_t thread_bytes; // all of one thread
};

static struct mlp plan(struct cpu_dev *d, const struct dev_mlp *p, int64_t n_row) {
    struct mlp m = {.d = d, .p = p};
    const int64_t n_in = p->up->src.n_in, n_ff = p->up->src.n_out;
    m.in = cpu_cut(d, n_row, n_in + n_ff, 1);
    m.in.steps = cpu_lin_steps(d, n_in);
    m.in.words = cpu_a_words(d, m.in.steps);
    m.in.pack_bytes = cpu_pack_bytes(&m.in);
    m.n_panel = cpu_ceil(n_ff, d->lin->nr);
    m.steps = cpu_lin_steps(d, n_ff);
    m.words = cpu_a_words(d, m.steps);
    m.width = d->lin_word == WORD_INT8 ? 4 * CPU_INT8_STEPS : d->lin->nr;
    m.mid_bytes = cpu_round64((size_t)(m.in.block + CPU_MR_MAX) * (size_t)m.words * 4);
    m.panel_bytes = cpu_round64((size_t)(m.in.block * m.width) * sizeof(float));
    m.thread_bytes = m.in.pack_bytes + m.mid_bytes + 2 * m.panel_bytes;
    return m;
}

// Columns col..col+width-1 of one of the first two products, [n, width]; zeros where the matrix has
// no column.
static void columns(const struct mlp *m, const struct wt *w, const struct wt *bias,
                    const void *pack, int64_t n, int64_t col, float *c) {
    const int64_t nr = m->d->lin->nr, p1 = (col + m->width) / nr;
    const struct cpu_product p = {.w = w,
                                  .bias = bias,
                                  .pack = pack,
                                  .n = n,
                                  .steps = m->in.steps,
                                  .p0 = col / nr,
                                  .p1 = p1 < m->n_panel ? p1 : m->n_panel,
                                  .c = c,
                                  .ldc = m->width};
    if (col + m->width > w->src.n_out) memset(c, 0, (size_t)(n * m->width) * sizeof *c);
    cpu_product(m->d, &p);
}

// Those columns [n, width] as operands of the last product.
static void pack_columns(const struct mlp *m, uint32_t *mid, int64_t n, int64_t col, float *rows) {
    const struct cpu_kernels *k = m->d->lin;
    const int64_t at = cpu_a_words(m->d, cpu_lin_steps(m->d, col)), left = m->words - at;
    const int64_t most = cpu_a_words(m->d, cpu_lin_steps(m->d, m->width)),
                  n_k = left < most ? left : most;
    int64_t lds = m->width;
    uint32_t words[CPU_MR_MAX * (CPU_INT8_STEPS + 2)];
    if (m->d->lin_word == WORD_PAIRS) {
        k->to_bf16((bf16_t *)rows, rows, n * m->width);
        lds /= 2;
    } else if (m->d->lin_word == WORD_INT8) {
        lds = CPU_INT8_STEPS + 2;
    } else if (m->d->round) {
        k->round_bf16(rows, rows, n * m->width);
    }
    for (int64_t i = 0; i < n; i += k->mr) {
        const int some = (int)(n - i < k->mr ? n - i : k->mr), tile = k->tile_rows(some);
        const uint32_t *from = (const uint32_t *)rows + i * lds;
        if (m->d->lin_word == WORD_INT8) {
            const int64_t all = m->p->down->src.n_in - col;
            for (int r = 0; r < some; r++)
                k->int8_a(words + r * lds, rows + (i + r) * m->width,
                          all < m->width ? all : m->width);
            from = words;
        }
        k->pack_a(mid + i * m->words + at * tile, tile, from, lds, some, n_k);
    }
}

static void block(const struct mlp *m, unsigned char *own, int64_t row, int64_t n) {
    const struct dev_mlp *p = m->p;
    void *pack = own;
    uint32_t *mid = (uint32_t *)(void *)(own + m->in.pack_bytes);
    float *up = (float *)(void *)(own + m->in.pack_bytes + m->mid_bytes);
    float *gate = p->gate != NULL ? (float *)(void *)((unsigned char *)up + m->panel_bytes) : NULL;
    cpu_pack_rows(m->d, &m->in, pack, p->x, row, n);
    for (int64_t col = 0; col < p->up->src.n_out; col += m->width) {
        if (gate != NULL) columns(m, p->gate, p->gate_bias, pack, n, col, gate);
        columns(m, p->up, p->up_bias, pack, n, col, up);
        m->d->k->act(up, gate != NULL ? gate : up, gate != NULL ? up : NULL, n * m->width, p->act);
        pack_columns(m, mid, n, col, up);
    }
    const struct cpu_product down = {.w = p->down,
                                     .bias = p->down_bias,
                                     .pack = mid,
                                     .n = n,
                                     .steps = m->steps,
                                     .p1 = cpu_ceil(p->down->src.n_out, m->d->lin->nr),
                                     .c = cpu_row(p->y, row),
                                     .ldc = p->y->n_col};
    cpu_product(m->d, &down);
}

bool cpu_mlp(struct dev *dev, const struct dev_mlp *p, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    const struct mlp m = plan(d, p, n_row);
    if (m.in.n_block < d->n_thread) return false; // too few rows to be cut for all threads
    unsigned char *scratch = cpu_scratch(d, m.thread_bytes * (size_t)d->n_thread);
    if (scratch == NULL) return true;
#pragma omp parallel num_threads(d->n_thread)
    {
        unsigned char *own = scratch + m.thread_bytes * (size_t)omp_get_thread_num();
        d->lin->thread_begin();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < m.in.n_block; i++) {
            const int64_t row = i * m.in.block, left = n_row - row;
            block(&m, own, row, left < m.in.block ? left : m.in.block);
        }
        d->lin->thread_end();
    }
    return true;
}
