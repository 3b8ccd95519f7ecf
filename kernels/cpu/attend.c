/* Attention. Keys and values are first packed into tiles of keys, per segment and kv head: sinks in
 * tiles of their own, window keys in tiles cut at absolute positions. Queries are lanes: `nr` of
 * them (tokens times the heads of a group) make a panel, and a tile of keys leaves its scores as
 * [keys, lanes], so that maxima and sums run down a column, p is at once the B operand of the
 * product with V, and the output gathers as [d_head, lanes].
 *
 * Why the result of a row has the same bits wherever its segment begins: its lane meets the same
 * tiles in the same order; a score is one chain over d_head; the softmax of a lane looks at its own
 * visible keys, each in a chain given by its place in the tile; the product with V is one chain over
 * all keys, in which a key that the row does not see has p = 0. What zeros can change is the sign of
 * a zero, and scale_out() makes zeros positive. */
#include "kernels/cpu/cpu_impl.h"

#include <omp.h>

enum {
    TASK_PANELS = 4,              // panels of lanes in a task
    PACK_BYTES = 64 * 1024 * 1024 // keys are packed in batches of units of about this size
};
#define LOG2E 1.4426950408889634

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
    int group;          // query heads of a kv head
    float cap, inv_cap; // softcap and its inverse; 0: none
    double scale;       // of queries: scores of plain softmax come as powers of two
    int keys;           // in a tile
    int even;           // visible keys are widened to multiples of this
    int64_t steps;      // words of a head of q or k
    int64_t v_steps;    // words of a tile's keys for one dimension of v
    int64_t width;      // rows of output: d_head, whole register tiles
    int64_t k_words, tile_words;
    struct unit *unit;
    int64_t n_unit;
    uint32_t *tiles;
    unsigned char *own; // scratch of thread 0
    size_t own_bytes;
};

// Scratch of one thread.
struct own {
    uint32_t *words;          // [keys or nr, steps], or [v_steps, d_head]: before it is packed
    float *line;              // [nr, width]
    uint32_t *q_win, *q_sink; // [steps, nr] packed
    float *s;                 // [keys, nr]: scores, then p
    float *o;                 // [width, nr]
};

// The queries of a panel: rows i0..i0+n-1 of a unit, row i being head i % group of token i / group.
struct panel {
    const struct attend *t;
    const struct unit *u;
    const struct own *o;
    int64_t i0;
    int n;
    int64_t tok[CPU_NR_MAX], low[CPU_NR_MAX], at[CPU_NR_MAX]; // token, lowest window key, position
                                                              // among the keys it sees
    float slope[CPU_NR_MAX], dist[CPU_NR_MAX], first[CPU_NR_MAX], end[CPU_NR_MAX];
    float max[CPU_NR_MAX], sum[CPU_NR_MAX], scale[CPU_NR_MAX];
};

static void *carve(unsigned char *base, size_t *at, int64_t n, size_t size) {
    void *p = base != NULL ? base + *at : NULL;
    *at += cpu_round64((size_t)n * size);
    return p;
}

// Lays out the scratch at `base`; returns its size (base may be NULL to ask for it).
static size_t own_layout(const struct attend *t, unsigned char *base, struct own *o) {
    size_t at = 0;
    const int nr = t->d->k->nr;
    const int64_t k_most = (t->keys > nr ? t->keys : nr) * t->steps,
                  v_most = t->v_steps * t->a->d_head;
    o->words = carve(base, &at, k_most > v_most ? k_most : v_most, sizeof *o->words);
    o->line = carve(base, &at, nr * t->width, sizeof *o->line);
    o->q_win = carve(base, &at, nr * t->steps, sizeof *o->q_win);
    o->q_sink = carve(base, &at, nr * t->steps, sizeof *o->q_sink);
    o->s = carve(base, &at, t->keys * nr, sizeof *o->s);
    o->o = carve(base, &at, t->width * nr, sizeof *o->o);
    return at;
}

// ---- tiles of keys

static int64_t tile_begin(const struct attend *t, const struct unit *u, int64_t i) {
    return i < u->n_sink_tile ? i * t->keys : u->win0 + (i - u->n_sink_tile) * t->keys;
}

// Keys of tile i that some row of the segment sees: first <= j < end.
static void tile_keys(const struct attend *t, const struct unit *u, int64_t i, int64_t *first,
                      int64_t *end) {
    const struct dev_seg *s = u->seg;
    const bool sink = i < u->n_sink_tile;
    const int64_t all = s->pos + s->n_row, begin = tile_begin(t, u, i);
    const int64_t lo = sink ? 0 : dev_seg_first_win(s, 0);
    const int64_t hi = sink && s->n_sink < all ? s->n_sink : all;
    *first = lo > begin ? lo : begin;
    *end = hi < begin + t->keys ? hi : begin + t->keys;
}

static const unsigned char *kv_at(const struct unit *u, const struct buf *b, int64_t j,
                                  int d_head) {
    const unsigned char *row = dev_host_row(b, dev_seg_key_row(u->seg, j));
    return row + (size_t)u->kv * (size_t)d_head * dtype_bytes(b->dtype);
}

// A head of a stored row as words; the cache dtype is what the operands are rounded to already.
static void kv_words(const struct attend *t, uint32_t *out, const unsigned char *p) {
    const int n = t->a->d_head;
    if (t->d->word == WORD_PAIRS) {
        bf16_t *h = (bf16_t *)out;
        memcpy(h, p, (size_t)n * sizeof *h);
        for (int64_t i = n; i < 2 * t->steps; i++) h[i] = 0;
    } else {
        t->d->k->floats((float *)out, p, t->d->base.kv, n);
    }
}

static void pack_k(const struct attend *t, const struct unit *u, int64_t i, const struct own *o,
                   uint32_t *out) {
    const int mr = t->d->k->mr;
    const int64_t begin = tile_begin(t, u, i);
    int64_t first = 0, end = 0;
    tile_keys(t, u, i, &first, &end);
    for (int64_t j = begin; j < begin + t->keys; j++) {
        uint32_t *w = o->words + (j - begin) * t->steps;
        if (j >= first && j < end)
            kv_words(t, w, kv_at(u, t->a->k, j, t->a->d_head));
        else
            memset(w, 0, (size_t)t->steps * sizeof *w); // p = 0 would not silence a NaN
    }
    for (int c = 0; c < t->keys; c += mr)
        t->d->k->pack_a(out + c * t->steps, mr, o->words + c * t->steps, t->steps, mr, t->steps);
}

// V with its dimensions as rows; a step is a key, or a pair of them.
static void pack_v(const struct attend *t, const struct unit *u, int64_t i, const struct own *o,
                   uint32_t *out) {
    const struct cpu_kernels *kern = t->d->k;
    const int64_t begin = tile_begin(t, u, i), n = t->a->d_head;
    const int per = t->d->word == WORD_PAIRS ? 2 : 1;
    int64_t first = 0, end = 0;
    tile_keys(t, u, i, &first, &end);
    bf16_t *zeros = (bf16_t *)o->line;
    memset(zeros, 0, (size_t)n * sizeof *zeros);
    for (int64_t s = 0; s < t->v_steps; s++) {
        const int64_t j = begin + s * per;
        const bool in0 = j >= first && j < end, in1 = j + 1 >= first && j + 1 < end;
        uint32_t *row = o->words + s * n;
        if (t->d->word == WORD_PAIRS) {
            const void *a = in0 ? (const void *)kv_at(u, t->a->v, j, t->a->d_head) : zeros;
            const void *b = in1 ? (const void *)kv_at(u, t->a->v, j + 1, t->a->d_head) : zeros;
            kern->zip(row, a, b, n);
        } else if (in0) {
            kern->floats((float *)row, kv_at(u, t->a->v, j, t->a->d_head), t->d->base.kv, n);
        } else {
            memset(row, 0, (size_t)n * sizeof *row);
        }
    }
    for (int64_t c = 0; c < n; c += kern->mr) {
        const int rows = (int)(n - c < kern->mr ? n - c : kern->mr), m = kern->tile_rows(rows);
        kern->pack_at(out + c * t->v_steps, m, o->words + c, n, rows, t->v_steps);
    }
}

// ---- panels

static const float *q_at(const struct panel *p, const struct buf *q, int i) {
    const struct attend *t = p->t;
    const int64_t row = (p->i0 + i) / t->group, head = (p->i0 + i) % t->group;
    return cpu_row(q, p->u->seg->first_row + row) +
           ((int64_t)p->u->kv * t->group + head) * t->a->d_head;
}

static void pack_q(const struct panel *p, const struct buf *q, uint32_t *out) {
    const struct attend *t = p->t;
    const struct cpu_kernels *kern = t->d->k;
    for (int i = 0; i < p->n; i++) {
        kern->scale_out(p->o->line, q_at(p, q, i), (float)t->scale, t->a->d_head);
        cpu_words(t->d, p->o->words + i * t->steps, p->o->line, t->a->d_head);
    }
    kern->transpose(out, kern->nr, kern->nr, p->o->words, t->steps, p->n, t->steps);
}

static void set_lanes(struct panel *p) {
    const struct attend *t = p->t;
    const struct dev_seg *s = p->u->seg;
    for (int i = 0; i < t->d->k->nr; i++) {
        const int64_t r = (p->i0 + i) / t->group, head = (p->i0 + i) % t->group;
        const bool used = i < p->n; // the others see nothing
        p->tok[i] = used ? s->pos + r : -1;
        p->low[i] = used ? dev_seg_first_win(s, r) : 0;
        p->at[i] = used ? dev_seg_query_pos(s, r) : 0;
        p->slope[i] = used && t->a->slopes != NULL
                          ? *cpu_vector(t->a->slopes, (int64_t)p->u->kv * t->group + head)
                          : 0.0f;
        p->max[i] = -3.402823466e38f;
        p->sum[i] = 0.0f;
    }
    memset(p->o->o, 0, (size_t)(t->width * t->d->k->nr) * sizeof *p->o->o);
}

static int within(int64_t i, int keys) {
    return (int)(i < 0 ? 0 : i > keys ? keys : i);
}

// What the lanes see of the tile at `begin`; false when that is nothing.
static bool set_view(struct panel *p, bool sink, int64_t begin, struct cpu_soft *v) {
    const struct attend *t = p->t;
    const int64_t n_sink = p->u->seg->n_sink, last = p->tok[p->n - 1] + 1;
    const int64_t end = sink && n_sink < last ? n_sink : last;
    v->lo = sink ? 0 : within(p->low[0] - begin, t->keys);
    v->hi = within(end - begin, t->keys);
    if (v->lo >= v->hi) return false;
    v->whole = p->n == t->d->k->nr && !sink && p->low[p->n - 1] <= begin &&
               p->tok[0] + 1 >= begin + t->keys;
    v->lo = v->lo / t->even * t->even;
    v->hi = (v->hi + t->even - 1) / t->even * t->even;
    for (int i = 0; !v->whole && i < t->d->k->nr; i++) {
        const int64_t own = p->tok[i] + 1;
        p->first[i] = sink ? 0.0f : (float)within(p->low[i] - begin, t->keys);
        p->end[i] = (float)within((sink && n_sink < own ? n_sink : own) - begin, t->keys);
    }
    for (int i = 0; t->a->slopes != NULL && i < t->d->k->nr; i++)
        p->dist[i] = (float)((sink ? p->at[i] : p->tok[i]) - begin);
    return true;
}

// The lanes against one tile of keys.
static void attend_tile(struct panel *p, int64_t ti, const uint32_t *tile) {
    const struct attend *t = p->t;
    const struct cpu_kernels *kern = t->d->k;
    const struct own *o = p->o;
    const bool sink = ti < p->u->n_sink_tile;
    struct cpu_soft v = {.s = o->s,
                         .first = p->first,
                         .end = p->end,
                         .pairs = t->d->word == WORD_PAIRS,
                         .round = t->d->round,
                         .max = p->max,
                         .sum = p->sum,
                         .scale = p->scale,
                         .slope = t->a->slopes != NULL ? p->slope : NULL,
                         .dist = p->dist,
                         .cap = t->cap,
                         .inv_cap = t->inv_cap};
    if (!set_view(p, sink, tile_begin(t, p->u, ti), &v)) return;
    const uint32_t *q = sink ? o->q_sink : o->q_win;
    for (int c = v.lo / kern->mr * kern->mr; c < v.hi; c += kern->mr)
        kern->tile(t->d->word, kern->mr, t->steps, tile + c * t->steps, q, o->s + c * kern->nr,
                   kern->nr, cpu_zeros);
    if (kern->soften(&v)) kern->scale_lanes(o->o, t->width, p->scale);
    const int per = t->d->word == WORD_PAIRS ? 2 : 1;
    const int64_t from = v.lo / per, n = v.hi / per - from;
    for (int64_t c = 0; c < t->a->d_head; c += kern->mr) {
        const int64_t left = t->a->d_head - c;
        const int m = kern->tile_rows((int)(left < kern->mr ? left : kern->mr));
        kern->tile(t->d->word, m, n, tile + t->k_words + c * t->v_steps + from * m,
                   o->s + from * kern->nr, o->o + c * kern->nr, kern->nr, NULL);
    }
}

static void run_panel(struct panel *p) {
    const struct attend *t = p->t;
    const struct unit *u = p->u;
    const int nr = t->d->k->nr;
    pack_q(p, t->a->q_win, p->o->q_win);
    if (u->n_sink_tile > 0) pack_q(p, t->a->q_sink, p->o->q_sink);
    set_lanes(p);
    // The sinks, then the window tiles from the lowest key of the first lane to the own key of the
    // last.
    const int64_t low = (p->low[0] - u->win0) / t->keys;
    const int64_t end = cpu_ceil(p->tok[p->n - 1] + 1 - u->win0, t->keys);
    for (int64_t ti = 0; ti < u->n_tile; ti++) {
        if (ti == u->n_sink_tile) ti += low;
        if (ti >= u->n_sink_tile + end && ti >= u->n_sink_tile) break;
        attend_tile(p, ti, t->tiles + (u->tile + ti) * t->tile_words);
    }
    t->d->k->transpose((uint32_t *)p->o->line, t->width, (int)t->width, (const uint32_t *)p->o->o,
                       nr, (int)t->width, p->n);
    for (int i = 0; i < p->n; i++) {
        const int64_t row = (p->i0 + i) / t->group, head = (p->i0 + i) % t->group;
        float *out = cpu_row(t->a->out, u->seg->first_row + row) +
                     ((int64_t)u->kv * t->group + head) * t->a->d_head;
        t->d->k->scale_out(out, p->o->line + i * t->width, 1.0f / p->sum[i], t->a->d_head);
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

static void run_task(const struct attend *t, const struct unit *u, const struct own *o,
                     int64_t task) {
    const int nr = t->d->k->nr;
    const int64_t rows = (int64_t)u->seg->n_row * t->group;
    for (int64_t i = task * TASK_PANELS * nr; i < rows && i < (task + 1) * TASK_PANELS * nr;
         i += nr) {
        struct panel p = {
            .t = t, .u = u, .o = o, .i0 = i, .n = (int)(rows - i < nr ? rows - i : nr)};
        run_panel(&p);
    }
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
            run_task(t, of, &o, i - of->task);
        }
        t->d->k->thread_end();
    }
}

static void set_unit(struct unit *u, const struct dev_seg *s, int kv, int keys) {
    const int64_t end = s->pos + s->n_row, n_sink = s->n_sink < end ? s->n_sink : end;
    const int64_t first = dev_seg_first_win(s, 0);
    u->seg = s;
    u->kv = kv;
    u->n_sink_tile = cpu_ceil(n_sink, keys);
    u->win0 = first / keys * keys;
    u->n_tile = u->n_sink_tile + (end > first ? cpu_ceil(end - u->win0, keys) : 0);
}

static struct attend plan(struct cpu_dev *d, const struct dev_attend *a) {
    struct attend t = {.d = d, .a = a, .group = a->n_head / a->n_kv};
    const int per = d->word == WORD_PAIRS ? 2 : 1;
    const int64_t tail = a->d_head % d->k->mr;
    t.cap = a->softcap > 0 ? (float)a->softcap : 0.0f;
    t.inv_cap = a->softcap > 0 ? (float)(1 / a->softcap) : 0.0f;
    t.scale = a->softcap > 0 || a->slopes != NULL ? a->scale : a->scale * LOG2E;
    t.keys = d->k->keys;
    t.even = d->k->step_multiple * per < 2 ? 2 : d->k->step_multiple * per;
    t.steps = cpu_steps(d->k, d->word, a->d_head);
    t.v_steps = t.keys / per;
    t.width = a->d_head - tail + (tail > 0 ? d->k->tile_rows((int)tail) : 0);
    t.k_words = t.keys * t.steps;
    t.tile_words = t.k_words + t.width * t.v_steps;
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
        *n_task += cpu_ceil((int64_t)u->seg->n_row * t->group, TASK_PANELS * t->d->k->nr);
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
        set_unit(&u, segs + i, 0, t.keys);
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
        set_unit(t.unit + i, segs + i / a->n_kv, (int)(i % a->n_kv), t.keys);
    for (int64_t u0 = 0, u1 = 0; u0 < t.n_unit; u0 = u1) {
        int64_t n_tile = 0, n_task = 0;
        u1 = batch_end(&t, u0, &n_tile, &n_task);
        run_batch(&t, t.unit + u0, u1 - u0, n_tile, n_task);
    }
}
