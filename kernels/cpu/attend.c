/* Attention. Keys and values are first packed into tiles of CPU_KEYS, per segment and kv head:
 * sinks in tiles of their own, window keys in tiles cut at absolute multiples of CPU_KEYS. Then
 * tasks of a few tokens times the heads of a group go over the tiles their rows see, with an online
 * softmax.
 *
 * Why the result of a row has the same bits wherever its segment begins: a row meets the same tiles
 * in the same order; a score is one chain over d_head; the softmax of a row looks at its own
 * visible keys only, in fixed lanes; the product with V is one chain over the keys of a tile, in
 * which a key that the row does not see has p = 0. A tile in which it sees nothing does not touch
 * it. What the zeros of unseen keys can change is the sign of a zero, and scale_out() makes zeros
 * positive. */
#include "kernels/cpu/cpu_impl.h"

#include <omp.h>

enum {
    TASK_TILES = 8, // register tiles of rows in a task: they share a tile of K and V in L1
    PACK_BYTES = 64 * 1024 * 1024 // keys are packed in batches of units of about this size
};

// A segment and kv head: its tiles and tasks. Counts run on within a batch.
struct unit {
    const struct dev_seg *seg;
    int kv;
    int64_t n_sink_tile, n_tile; // sink tiles first
    int64_t win0;                // position at which the first window tile begins
    int64_t tile, task;          // tiles and tasks before this unit in its batch
};

struct attend {
    struct cpu_dev *d;
    const struct dev_attend *a;
    int group;             // query heads of a kv head
    float cap, inv_cap;    // softcap and its inverse; 0: none
    int64_t steps, panels; // words of a head of q or k; panels of a head of v
    int64_t k_words, tile_words;
    int64_t task_tok, task_rows; // tokens of a task; rows that its scratch holds
    struct unit *unit;
    int64_t n_unit;
    uint32_t *tiles;
    unsigned char *own; // scratch of thread 0
    size_t own_bytes;
};

// A row of a task.
struct row {
    int64_t t, first; // its token, and its lowest window key
    int64_t p;        // its position among the keys it sees
    float slope;
};

// Scratch of one thread.
struct own {
    uint32_t *words; // [CPU_KEYS, steps]: a tile of keys, or rows of q, before they are packed
    float *line;     // [CPU_KEYS or d_head floats]
    uint32_t *q_win, *q_sink; // [task_rows, steps] packed
    float *o;                 // [task_rows, panels * nr]
    float *max, *sum;         // [task_rows]
    bool *seen;               // [task_rows]
    struct row *row;          // [task_rows]
    float *pv;                // [CPU_MR_MAX, panels * nr]
    float *s;                 // [CPU_MR_MAX, CPU_KEYS]
    uint32_t *p;              // [CPU_MR_MAX, CPU_KEYS]
};

static void *carve(unsigned char *base, size_t *at, size_t n, size_t size) {
    void *p = base != NULL ? base + *at : NULL;
    *at += cpu_round64(n * size);
    return p;
}

// Lays out the scratch at `base`; returns its size (base may be NULL to ask for it).
static size_t own_layout(const struct attend *t, unsigned char *base, struct own *o) {
    size_t at = 0;
    const size_t rows = (size_t)t->task_rows, steps = (size_t)t->steps;
    const size_t width = (size_t)t->panels * (size_t)t->d->k->nr;
    o->words = carve(base, &at, CPU_KEYS * steps, sizeof *o->words);
    o->line = carve(base, &at, width + CPU_KEYS, sizeof *o->line);
    o->q_win = carve(base, &at, rows * steps, sizeof *o->q_win);
    o->q_sink = carve(base, &at, rows * steps, sizeof *o->q_sink);
    o->o = carve(base, &at, rows * width, sizeof *o->o);
    o->max = carve(base, &at, rows, sizeof *o->max);
    o->sum = carve(base, &at, rows, sizeof *o->sum);
    o->seen = carve(base, &at, rows, sizeof *o->seen);
    o->row = carve(base, &at, rows, sizeof *o->row);
    o->pv = carve(base, &at, CPU_MR_MAX * width, sizeof *o->pv);
    o->s = carve(base, &at, CPU_MR_MAX * CPU_KEYS, sizeof *o->s);
    o->p = carve(base, &at, CPU_MR_MAX * CPU_KEYS, sizeof *o->p);
    return at;
}

// ---- tiles of keys

static int64_t tile_begin(const struct unit *u, int64_t i) {
    return i < u->n_sink_tile ? i * CPU_KEYS : u->win0 + (i - u->n_sink_tile) * CPU_KEYS;
}

// Keys of tile i that some row of the segment sees: first <= j < end.
static void tile_keys(const struct unit *u, int64_t i, int64_t *first, int64_t *end) {
    const struct dev_seg *s = u->seg;
    const bool sink = i < u->n_sink_tile;
    const int64_t all = s->pos + s->n_row, begin = tile_begin(u, i);
    const int64_t lo = sink ? 0 : dev_seg_first_win(s, 0);
    const int64_t hi = sink && s->n_sink < all ? s->n_sink : all;
    *first = lo > begin ? lo : begin;
    *end = hi < begin + CPU_KEYS ? hi : begin + CPU_KEYS;
}

static const unsigned char *kv_at(const struct unit *u, const struct buf *b, int64_t j,
                                  int d_head) {
    const unsigned char *row = dev_host_row(b, dev_seg_key_row(u->seg, j));
    return row + (size_t)u->kv * (size_t)d_head * dtype_bytes(b->dtype);
}

// A head of a stored row as words; the cache dtype is what the operands are rounded to already.
static void kv_words(const struct attend *t, uint32_t *out, const unsigned char *p) {
    const int n = t->a->d_head;
    if (t->d->pairs) {
        for (int64_t i = n / 2; i < t->steps; i++) out[i] = 0;
        memcpy(out, p, (size_t)n * sizeof(bf16_t));
    } else {
        t->d->k->floats((float *)out, p, t->d->base.kv, n);
    }
}

static void pack_k(const struct attend *t, const struct unit *u, int64_t i, const struct own *o,
                   uint32_t *out) {
    const int nr = t->d->k->nr;
    const int64_t begin = tile_begin(u, i);
    int64_t first = 0, end = 0;
    tile_keys(u, i, &first, &end);
    for (int64_t j = begin; j < begin + CPU_KEYS; j++) {
        uint32_t *w = o->words + (j - begin) * t->steps;
        if (j >= first && j < end)
            kv_words(t, w, kv_at(u, t->a->k, j, t->a->d_head));
        else
            memset(w, 0, (size_t)t->steps * sizeof *w); // p = 0 would not silence a NaN
    }
    for (int c = 0; c < CPU_KEYS; c += nr)
        t->d->k->transpose(out + c * t->steps, nr, nr, o->words + c * t->steps, t->steps, nr,
                           t->steps);
}

// One step of V, all panels: a row of floats, or two rows of bf16 as pairs.
static void pack_v(const struct attend *t, const struct unit *u, int64_t i, const struct own *o,
                   uint32_t *out) {
    const int64_t begin = tile_begin(u, i), nr = t->d->k->nr, n = t->a->d_head;
    const int per = t->d->pairs ? 2 : 1, steps = CPU_KEYS / per;
    int64_t first = 0, end = 0;
    tile_keys(u, i, &first, &end);
    bf16_t *zeros = (bf16_t *)o->line;
    memset(zeros, 0, (size_t)n * sizeof *zeros);
    for (int s = 0; s < steps; s++) {
        const int64_t j = begin + (int64_t)s * per;
        const bool in0 = j >= first && j < end, in1 = j + 1 >= first && j + 1 < end;
        uint32_t *row = (uint32_t *)o->pv;
        memset(row, 0, (size_t)(t->panels * nr) * sizeof *row);
        if (t->d->pairs) {
            const bf16_t *a =
                in0 ? (const bf16_t *)(const void *)kv_at(u, t->a->v, j, t->a->d_head) : zeros;
            const bf16_t *b =
                in1 ? (const bf16_t *)(const void *)kv_at(u, t->a->v, j + 1, t->a->d_head) : zeros;
            t->d->k->zip(row, a, b, n);
        } else if (in0) {
            t->d->k->floats((float *)row, kv_at(u, t->a->v, j, t->a->d_head), t->d->base.kv, n);
        }
        for (int64_t c = 0; c < t->panels; c++)
            memcpy(out + (c * steps + s) * nr, row + c * nr, (size_t)nr * sizeof *row);
    }
}

// ---- a task: tokens r0..r0+n_tok-1 of a unit; row i is token r0 + i / group, head i % group of it

struct task {
    const struct attend *t;
    const struct unit *u;
    const struct own *o;
    int64_t r0, n_row;
};

static const float *q_at(const struct task *k, const struct buf *q, int64_t i) {
    const struct attend *t = k->t;
    const int64_t head = (int64_t)k->u->kv * t->group + i % t->group;
    return cpu_row(q, k->u->seg->first_row + k->r0 + i / t->group) + head * t->a->d_head;
}

static void pack_q(const struct task *k, const struct buf *q, uint32_t *out) {
    const struct attend *t = k->t;
    const struct cpu_kernels *kern = t->d->k;
    for (int64_t i = 0; i < k->n_row; i += kern->mr) {
        const int rows = (int)(k->n_row - i < kern->mr ? k->n_row - i : kern->mr),
                  m = kern->tile_rows(rows);
        for (int r = 0; r < rows; r++) {
            kern->scale_out(k->o->line, q_at(k, q, i + r), (float)t->a->scale, t->a->d_head);
            cpu_words(t->d, k->o->words + r * t->steps, k->o->line, t->a->d_head);
        }
        kern->pack_a(out + i * t->steps, m, k->o->words, t->steps, rows, t->steps);
    }
}

static void set_rows(const struct task *k) {
    const struct dev_attend *a = k->t->a;
    const struct dev_seg *s = k->u->seg;
    for (int64_t i = 0; i < k->n_row; i++) {
        const int64_t r = k->r0 + i / k->t->group,
                      head = (int64_t)k->u->kv * k->t->group + i % k->t->group;
        const float slope = a->slopes != NULL ? *cpu_vector(a->slopes, head) : 0.0f;
        k->o->row[i] =
            (struct row){s->pos + r, dev_seg_first_win(s, r), dev_seg_query_pos(s, r), slope};
    }
    memset(k->o->seen, 0, (size_t)k->n_row * sizeof *k->o->seen);
}

// What row i sees of the tile of sinks or window keys at `begin`. An empty range is lo >= hi.
static void row_view(const struct task *k, int64_t i, bool sink, int64_t begin,
                     struct cpu_soft_row *v) {
    const struct row *row = k->o->row + i;
    const int64_t n_sink = k->u->seg->n_sink;
    const int64_t end = sink && n_sink <= row->t ? n_sink : row->t + 1;
    const int64_t lo = sink ? 0 : row->first - begin, hi = end - begin;
    v->lo = (int)(lo < 0 ? 0 : lo > CPU_KEYS ? CPU_KEYS : lo);
    v->hi = (int)(hi < 0 ? 0 : hi > CPU_KEYS ? CPU_KEYS : hi);
    v->cap = k->t->cap;
    v->inv_cap = k->t->inv_cap;
    v->slope = row->slope;
    v->dist = (float)((sink ? row->p : row->t) - begin);
}

// Scores to probabilities for the rows i0.. of a register tile; rescale[] says how their past
// shrinks.
static void soften(const struct task *k, int64_t i0, int rows, int m,
                   const struct cpu_soft_row *view, float rescale[CPU_MR_MAX]) {
    const struct cpu_dev *d = k->t->d;
    const struct own *o = k->o;
    const int p_words = d->pairs ? CPU_KEYS / 2 : CPU_KEYS;
    float max[CPU_MR_MAX];
    for (int r = 0; r < CPU_MR_MAX; r++) rescale[r] = 0.0f;
    for (int r = 0; r < rows; r++) {
        if (view[r].lo >= view[r].hi) continue;
        const float old = o->max[i0 + r];
        max[r] = d->k->soft_max(o->s + r * CPU_KEYS, view + r);
        if (o->seen[i0 + r] && old > max[r]) max[r] = old;
        if (o->seen[i0 + r]) rescale[r] = old - max[r];
    }
    d->k->exp_small(rescale);
    for (int r = 0; r < m; r++) {
        uint32_t *p = o->p + r * p_words;
        if (r >= rows || view[r].lo >= view[r].hi) {
            memset(p, 0, (size_t)p_words * sizeof *p);
            continue;
        }
        const float sum =
            d->k->soft_exp(p, o->s + r * CPU_KEYS, view + r, max[r], d->pairs, d->round);
        o->sum[i0 + r] = o->seen[i0 + r] ? o->sum[i0 + r] * rescale[r] + sum : sum;
        o->max[i0 + r] = max[r];
    }
}

// A register tile of rows against one tile of keys.
static void attend_tile(const struct task *k, int64_t i0, int64_t ti, const uint32_t *tile) {
    const struct attend *t = k->t;
    const struct cpu_kernels *kern = t->d->k;
    const struct own *o = k->o;
    const int rows = (int)(k->n_row - i0 < kern->mr ? k->n_row - i0 : kern->mr),
              m = kern->tile_rows(rows);
    const int64_t width = t->panels * kern->nr;
    struct cpu_soft_row view[CPU_MR_MAX];
    float rescale[CPU_MR_MAX];
    const int64_t begin = tile_begin(k->u, ti);
    int lo = CPU_KEYS, hi = 0;
    for (int r = 0; r < rows; r++) {
        row_view(k, i0 + r, ti < k->u->n_sink_tile, begin, view + r);
        if (view[r].lo >= view[r].hi) continue;
        if (view[r].lo < lo) lo = view[r].lo;
        if (view[r].hi > hi) hi = view[r].hi;
    }
    if (lo >= hi) return;
    const uint32_t *q = (ti < k->u->n_sink_tile ? o->q_sink : o->q_win) + i0 * t->steps;
    for (int c = lo / kern->nr * kern->nr; c < hi; c += kern->nr)
        kern->tile(t->d->pairs, m, t->steps, q, tile + c * t->steps, o->s + c, CPU_KEYS,
                   cpu_vector(NULL, 0));
    soften(k, i0, rows, m, view, rescale);
    const int per = t->d->pairs ? 2 : 1;
    const uint32_t *v = tile + t->k_words;
    for (int64_t c = 0; c < t->panels; c++)
        kern->tile_p(t->d->pairs, m, lo / per, (hi + per - 1) / per, o->p,
                     v + c * (CPU_KEYS / per) * kern->nr, o->pv + c * kern->nr, width);
    for (int r = 0; r < rows; r++) {
        if (view[r].lo >= view[r].hi) continue;
        float *out = o->o + (i0 + r) * width;
        if (o->seen[i0 + r])
            kern->scale_add(out, o->pv + r * width, rescale[r], width);
        else
            memcpy(out, o->pv + r * width, (size_t)width * sizeof *out);
        o->seen[i0 + r] = true;
    }
}

static void run_task(const struct task *k) {
    const struct attend *t = k->t;
    const struct dev_seg *s = k->u->seg;
    const struct own *o = k->o;
    const int mr = t->d->k->mr;
    const int64_t width = t->panels * t->d->k->nr, last = k->r0 + (k->n_row - 1) / t->group;
    pack_q(k, t->a->q_win, o->q_win);
    if (k->u->n_sink_tile > 0) pack_q(k, t->a->q_sink, o->q_sink);
    set_rows(k);
    memset(o->s, 0, CPU_MR_MAX * CPU_KEYS * sizeof *o->s);
    // The window tiles from the lowest key of the first row to the own key of the last.
    const int64_t win = dev_seg_first_win(s, k->r0) - k->u->win0;
    const int64_t end = s->pos + last + 1 - k->u->win0;
    for (int64_t ti = 0; ti < k->u->n_tile; ti++) {
        const int64_t w = (ti - k->u->n_sink_tile) * CPU_KEYS;
        if (ti >= k->u->n_sink_tile && w + CPU_KEYS <= win) continue;
        if (ti >= k->u->n_sink_tile && w >= end) break;
        const uint32_t *tile = t->tiles + (k->u->tile + ti) * t->tile_words;
        for (int64_t i = 0; i < k->n_row; i += mr) attend_tile(k, i, ti, tile);
    }
    for (int64_t i = 0; i < k->n_row; i++) {
        const int64_t head = (int64_t)k->u->kv * t->group + i % t->group;
        float *out = cpu_row(t->a->out, s->first_row + k->r0 + i / t->group) + head * t->a->d_head;
        t->d->k->scale_out(out, o->o + i * width, 1.0f / o->sum[i], t->a->d_head);
    }
}

// ---- batches

// The unit of a batch that holds tile (or task) number i.
static const struct unit *find_unit(const struct unit *u, int64_t n, int64_t i, bool tasks) {
    int64_t lo = 0, hi = n; // the last one that begins at or before i
    while (hi - lo > 1) {
        const int64_t mid = (lo + hi) / 2;
        if ((tasks ? u[mid].task : u[mid].tile) <= i)
            lo = mid;
        else
            hi = mid;
    }
    return u + lo;
}

static void run_batch(const struct attend *t, const struct unit *u, int64_t n_unit, int64_t n_tile,
                      int64_t n_task) {
    const int64_t work = (n_tile + n_task) * t->tile_words * 8;
#pragma omp parallel num_threads(cpu_team(t->d, work))
    {
        struct own o;
        own_layout(t, t->own + t->own_bytes * (size_t)omp_get_thread_num(), &o);
        t->d->k->thread_begin();
#pragma omp for schedule(dynamic, 2)
        for (int64_t i = 0; i < n_tile; i++) {
            const struct unit *of = find_unit(u, n_unit, i, false);
            uint32_t *tile = t->tiles + i * t->tile_words;
            pack_k(t, of, i - of->tile, &o, tile);
            pack_v(t, of, i - of->tile, &o, tile + t->k_words);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < n_task; i++) {
            const struct unit *of = find_unit(u, n_unit, i, true);
            const int64_t r0 = (i - of->task) * t->task_tok, left = of->seg->n_row - r0;
            const struct task k = {.t = t,
                                   .u = of,
                                   .o = &o,
                                   .r0 = r0,
                                   .n_row = (left < t->task_tok ? left : t->task_tok) * t->group};
            run_task(&k);
        }
        t->d->k->thread_end();
    }
}

static void set_unit(struct unit *u, const struct dev_seg *s, int kv) {
    const int64_t end = s->pos + s->n_row, n_sink = s->n_sink < end ? s->n_sink : end;
    const int64_t first = dev_seg_first_win(s, 0);
    u->seg = s;
    u->kv = kv;
    u->n_sink_tile = cpu_ceil(n_sink, CPU_KEYS);
    u->win0 = first / CPU_KEYS * CPU_KEYS;
    u->n_tile = u->n_sink_tile + (end > first ? cpu_ceil(end - u->win0, CPU_KEYS) : 0);
}

static struct attend plan(struct cpu_dev *d, const struct dev_attend *a) {
    struct attend t = {.d = d, .a = a, .group = a->n_head / a->n_kv};
    const int nr = d->k->nr, mr = d->k->mr;
    t.cap = a->softcap > 0 ? (float)a->softcap : 0.0f;
    t.inv_cap = a->softcap > 0 ? (float)(1 / a->softcap) : 0.0f;
    t.steps = cpu_steps(d, a->d_head);
    t.panels = cpu_ceil(a->d_head, nr);
    t.k_words = CPU_KEYS * t.steps;
    t.tile_words = t.k_words + t.panels * nr * (d->pairs ? CPU_KEYS / 2 : CPU_KEYS);
    t.task_tok = TASK_TILES * mr / t.group;
    if (t.task_tok < 1) t.task_tok = 1;
    t.task_rows = cpu_ceil(t.task_tok * t.group, mr) * mr;
    t.n_unit = (int64_t)a->n_seg * a->n_kv;
    return t;
}

// One past the last unit of the batch that begins at `u0`; its tiles and tasks are numbered.
static int64_t batch_end(const struct attend *t, int64_t u0, int64_t *n_tile, int64_t *n_task) {
    *n_tile = *n_task = 0;
    int64_t i = u0;
    for (; i < t->n_unit; i++) {
        struct unit *u = t->unit + i;
        if (i > u0 && (*n_tile + u->n_tile) * t->tile_words * 4 > PACK_BYTES) break;
        u->tile = *n_tile;
        u->task = *n_task;
        *n_tile += u->n_tile;
        *n_task += cpu_ceil(u->seg->n_row, t->task_tok);
    }
    return i;
}

void cpu_attend(struct dev *dev, const struct dev_attend *a, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    const struct dev_seg *segs = a->seg->data;
    if (!dev_host_segs_ok(dev, segs, a->n_seg, n_row, a->k->n_row, true, true) || n_row == 0)
        return;
    struct attend t = plan(d, a);
    struct own o;
    t.own_bytes = own_layout(&t, NULL, &o);
    // The most tiles of a batch: all of them, or what fits PACK_BYTES, or one large unit.
    int64_t all = 0, largest = 0, batch = PACK_BYTES / (t.tile_words * 4);
    for (int i = 0; i < a->n_seg; i++) {
        struct unit u;
        set_unit(&u, segs + i, 0);
        all += u.n_tile * a->n_kv;
        if (u.n_tile > largest) largest = u.n_tile;
    }
    if (batch > all) batch = all;
    if (batch < largest) batch = largest;
    const size_t units = cpu_round64((size_t)t.n_unit * sizeof *t.unit);
    const size_t tiles = (size_t)batch * (size_t)t.tile_words * 4;
    unsigned char *scratch =
        cpu_scratch(d, units + cpu_round64(tiles) + t.own_bytes * (size_t)d->n_thread);
    if (scratch == NULL) return;
    t.unit = (struct unit *)(void *)scratch;
    t.tiles = (uint32_t *)(void *)(scratch + units);
    t.own = scratch + units + cpu_round64(tiles);
    for (int64_t i = 0; i < t.n_unit; i++)
        set_unit(t.unit + i, segs + i / a->n_kv, (int)(i % a->n_kv));
    for (int64_t u0 = 0, u1 = 0; u0 < t.n_unit; u0 = u1) {
        int64_t n_tile = 0, n_task = 0;
        u1 = batch_end(&t, u0, &n_tile, &n_task);
        run_batch(&t, t.unit + u0, u1 - u0, n_tile, n_task);
    }
}
