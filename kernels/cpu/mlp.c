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
    int64_t steps;       // words of a row of what comes out of the activation
    size_t mid_bytes;    // those rows, packed
    size_t panel_bytes;  // a panel of gate or up
    size_t thread_bytes; // all of one thread
};

static struct mlp plan(struct cpu_dev *d, const struct dev_mlp *p, int64_t n_row) {
    struct mlp m = {.d = d, .p = p};
    const int64_t n_in = p->up->src.n_in, n_ff = p->up->src.n_out;
    m.in = cpu_cut(d, n_row, n_in + n_ff, 1);
    m.in.steps = cpu_steps(d, n_in);
    m.in.pack_bytes = cpu_pack_bytes(&m.in);
    m.n_panel = cpu_ceil(n_ff, d->k->nr);
    m.steps = cpu_steps(d, n_ff);
    m.mid_bytes = cpu_round64((size_t)(m.in.block + CPU_MR_MAX) * (size_t)m.steps * 4);
    m.panel_bytes = cpu_round64((size_t)(m.in.block * d->k->nr) * sizeof(float));
    m.thread_bytes = m.in.pack_bytes + m.mid_bytes + 2 * m.panel_bytes;
    return m;
}

// Panel j of one of the first two products, [n, nr]; zeros where the matrix has no column.
static void panel(const struct mlp *m, const struct wt *w, const struct wt *bias, const void *pack,
                  int64_t n, int64_t j, float *c) {
    const int nr = m->d->k->nr;
    const struct cpu_product p = {.w = w,
                                  .bias = bias,
                                  .pack = pack,
                                  .n = n,
                                  .steps = m->in.steps,
                                  .p0 = j,
                                  .p1 = j + 1,
                                  .c = c,
                                  .ldc = nr};
    if ((j + 1) * nr > w->src.n_out) memset(c, 0, (size_t)(n * nr) * sizeof *c);
    cpu_product(m->d, &p);
}

// Rows [n, nr] of panel j as operands of the last product.
static void pack_panel(const struct mlp *m, uint32_t *mid, int64_t n, int64_t j, float *rows) {
    const struct cpu_kernels *k = m->d->k;
    const int64_t lds = m->d->pairs ? k->nr / 2 : k->nr, at = j * lds;
    const int64_t n_k = m->steps - at < lds ? m->steps - at : lds;
    if (m->d->pairs) k->to_bf16((bf16_t *)rows, rows, n * k->nr);
    if (m->d->round) k->round_bf16(rows, rows, n * k->nr);
    for (int64_t i = 0; i < n; i += k->mr) {
        const int some = (int)(n - i < k->mr ? n - i : k->mr), tile = k->tile_rows(some);
        k->pack_a(mid + i * m->steps + at * tile, tile, (const uint32_t *)rows + i * lds, lds, some,
                  n_k);
    }
}

static void block(const struct mlp *m, unsigned char *own, int64_t row, int64_t n) {
    const struct dev_mlp *p = m->p;
    const int nr = m->d->k->nr;
    void *pack = own;
    uint32_t *mid = (uint32_t *)(void *)(own + m->in.pack_bytes);
    float *up = (float *)(void *)(own + m->in.pack_bytes + m->mid_bytes);
    float *gate = p->gate != NULL ? (float *)(void *)((unsigned char *)up + m->panel_bytes) : NULL;
    cpu_pack_rows(m->d, &m->in, pack, p->x, row, n);
    for (int64_t j = 0; j < m->n_panel; j++) {
        if (gate != NULL) panel(m, p->gate, p->gate_bias, pack, n, j, gate);
        panel(m, p->up, p->up_bias, pack, n, j, up);
        m->d->k->act(up, gate != NULL ? gate : up, gate != NULL ? up : NULL, n * nr, p->act);
        pack_panel(m, mid, n, j, up);
    }
    const struct cpu_product down = {.w = p->down,
                                     .bias = p->down_bias,
                                     .pack = mid,
                                     .n = n,
                                     .steps = m->steps,
                                     .p1 = cpu_ceil(p->down->src.n_out, nr),
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
        d->k->thread_begin();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < m.in.n_block; i++) {
            const int64_t row = i * m.in.block, left = n_row - row;
            block(&m, own, row, left < m.in.block ? left : m.in.block);
        }
        d->k->thread_end();
    }
    return true;
}
