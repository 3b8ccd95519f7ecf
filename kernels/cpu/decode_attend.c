/* Attention on a handle for steps: every row by itself, over keys and values where they lie.
 *
 * The keys that a row sees are cut into chunks: sinks from 0 on, window keys at absolute multiples of
 * CPU_CHUNK. A chunk leaves a maximum, a sum and an output per head; the chunks of a row are put
 * together in ascending order. What a thread does is a row's chunk for all heads of a kv head, so that
 * one stream keeps several threads busy, and neither threads nor other rows change a bit. */
#include "kernels/cpu/cpu_impl.h"
#include "kernels/cpu/decode.h"

#include "base/mem.h"

#define PART_BYTES ((size_t)16 << 20) /* rows are taken in batches whose parts take about so much */

struct work {
    struct cpu_dev *d;
    const struct dev_attend *a;
    int group;          // query heads of a kv head
    float cap, inv_cap; // softcap and its inverse; 0: none
    bool direct;        // keys are whole steps; else they are copied to floats first
    int64_t steps, width;
    int64_t n_chunk, part; // chunks of a row at most; floats of a part: max, sum, o [width]
    float *parts;          // [row, n_head, n_chunk, part]
    unsigned char *own;    // of thread 0
    size_t own_bytes;
};

// Scratch of a thread.
struct own {
    float *q, *o;  // [CPU_HEADS, width]
    float *s, *p;  // [CPU_HEADS, CPU_CHUNK]
    float *copied; // [CPU_CHUNK, width], unless direct
};

static void *carve(unsigned char *base, size_t *at, size_t n) {
    void *p = base != NULL ? base + *at : NULL;
    *at += cpu_round64(n * sizeof(float));
    return p;
}

static size_t own_layout(const struct work *w, unsigned char *base, struct own *o) {
    size_t at = 0;
    const size_t width = (size_t)w->width;
    o->q = carve(base, &at, CPU_HEADS * width);
    o->o = carve(base, &at, CPU_HEADS * width);
    o->s = carve(base, &at, CPU_HEADS * CPU_CHUNK);
    o->p = carve(base, &at, CPU_HEADS * CPU_CHUNK);
    o->copied = carve(base, &at, w->direct ? 0 : CPU_CHUNK * width);
    return at;
}

// ---- the order of kern_attend.inc.h

// Whether a step's first vector has the even elements, not the first ones; then it has no padding.
static bool paired(const struct work *w) {
    return w->direct && w->d->base.kv == DT_BF16;
}

static void load_query(const struct work *w, float *q, const float *from) {
    const float scale = (float)w->a->scale;
    const int64_t lanes = w->d->decode->lanes, n = w->a->d_head;
    for (int64_t e = n; e < w->width; e++) q[e] = 0.0f;
    if (!paired(w))
        for (int64_t e = 0; e < n; e++) q[e] = from[e] * scale;
    else
        for (int64_t step = 0; step < w->width; step += 2 * lanes)
            for (int64_t e = 0; e < lanes; e++) {
                q[step + e] = from[step + 2 * e] * scale;
                q[step + lanes + e] = from[step + 2 * e + 1] * scale;
            }
}

static void store_output(const struct work *w, float *out, const float *o, float scale) {
    const int64_t lanes = w->d->decode->lanes;
    if (!paired(w))
        for (int64_t e = 0; e < w->a->d_head; e++) out[e] = o[e] * scale + 0.0f;
    else
        for (int64_t step = 0; step < w->width; step += 2 * lanes)
            for (int64_t e = 0; e < lanes; e++) {
                out[step + 2 * e] = o[step + e] * scale + 0.0f;
                out[step + 2 * e + 1] = o[step + lanes + e] * scale + 0.0f;
            }
}

// ---- a row

struct row {
    const struct dev_seg *seg;
    int64_t r, t, first; // of its segment; its token; its lowest window key
    int64_t sinks;       // that it sees
};

static struct row row_of(const struct dev_seg *s, int64_t r) {
    const int64_t t = s->pos + r;
    return (struct row){s, r, t, dev_seg_first_win(s, r), s->n_sink <= t ? s->n_sink : t + 1};
}

static int64_t row_chunks(const struct row *w) {
    const int64_t sinks = cpu_ceil(w->sinks, CPU_CHUNK);
    return sinks + (w->t >= w->first ? w->t / CPU_CHUNK - w->first / CPU_CHUNK + 1 : 0);
}

// Chunk c of a row: keys lo..hi-1 of those from `begin` on.
struct chunk {
    bool sink;
    int64_t begin, lo, hi;
};

static struct chunk chunk_of(const struct row *w, int64_t c) {
    const int64_t sinks = cpu_ceil(w->sinks, CPU_CHUNK);
    struct chunk k = {.sink = c < sinks};
    k.begin = (k.sink ? c : w->first / CPU_CHUNK + c - sinks) * CPU_CHUNK;
    const int64_t lo = k.sink ? 0 : w->first, end = k.sink ? w->sinks : w->t + 1;
    k.lo = lo > k.begin ? lo : k.begin;
    k.hi = end < k.begin + CPU_CHUNK ? end : k.begin + CPU_CHUNK;
    return k;
}

// The keys (or values) j.. of a chunk that lie together, as the kernels want them.
static struct cpu_keys keys_at(const struct work *w, const struct row *row, const struct chunk *k,
                               const struct buf *b, int kv, int64_t j, float *copied) {
    const int64_t pos = row->seg->pos;
    const int64_t end = !k->sink && j < pos && pos < k->hi ? pos : k->hi;
    const unsigned char *at = dev_host_row(b, dev_seg_key_row(row->seg, j));
    at += (size_t)kv * (size_t)w->a->d_head * dtype_bytes(b->dtype);
    struct cpu_keys keys = {.at = at,
                            .stride_bytes = (int64_t)b->row_bytes,
                            .n = (int)(end - j),
                            .bf16 = b->dtype == DT_BF16,
                            .steps = w->steps};
    if (w->direct) return keys;
    for (int i = 0; i < keys.n; i++) {
        float *to = copied + i * w->width;
        w->d->k->floats(to, at + i * keys.stride_bytes, b->dtype, w->a->d_head);
        for (int64_t e = w->a->d_head; e < w->width; e++) to[e] = 0.0f;
    }
    keys.at = (const unsigned char *)copied;
    keys.stride_bytes = w->width * (int64_t)sizeof(float);
    keys.bf16 = false;
    return keys;
}

// Scores to probabilities, tile by tile; returns their sum, and the maximum in *max.
static float soften(const struct work *w, const struct row *row, const struct chunk *k, float slope,
                    float *s, float *p, float *max) {
    const struct cpu_kernels *kern = w->d->k;
    const int64_t query = k->sink ? dev_seg_query_pos(row->seg, row->r) : row->t;
    struct cpu_soft_row view[CPU_CHUNK / CPU_KEYS];
    float most = 0, sum = 0;
    bool any = false;
    for (int i = 0; i < CPU_CHUNK / CPU_KEYS; i++) {
        const int64_t begin = k->begin + (int64_t)i * CPU_KEYS, lo = k->lo - begin,
                      hi = k->hi - begin;
        view[i] = (struct cpu_soft_row){.lo = (int)(lo > 0 ? lo : 0),
                                        .hi = (int)(hi < CPU_KEYS ? hi : CPU_KEYS),
                                        .slope = slope,
                                        .dist = (float)(query - begin),
                                        .cap = w->cap,
                                        .inv_cap = w->inv_cap};
        if (view[i].lo >= view[i].hi) continue;
        const float m = kern->row_max(s + i * CPU_KEYS, view + i);
        if (!any || m > most) most = m;
        any = true;
    }
    for (int i = 0; i < CPU_CHUNK / CPU_KEYS; i++)
        if (view[i].lo < view[i].hi)
            sum += kern->row_exp(p + i * CPU_KEYS, s + i * CPU_KEYS, view + i, most);
    *max = most;
    return sum;
}

static float *part_of(const struct work *w, int64_t i, int64_t head, int64_t c) {
    return w->parts + ((i * w->a->n_head + head) * w->n_chunk + c) * w->part;
}

// Heads head..head+n-1 of row i of the batch over a chunk.
static void run_heads(const struct work *w, const struct row *row, int64_t i, int64_t c, int head,
                      int n, const struct own *o) {
    const struct cpu_attend_rows *kern = w->d->decode->attend;
    const struct chunk k = chunk_of(row, c);
    const struct buf *q = k.sink ? w->a->q_sink : w->a->q_win;
    const int kv = head / w->group;
    for (int h = 0; h < n; h++)
        load_query(w, o->q + h * w->width,
                   cpu_row(q, row->seg->first_row + row->r) + (int64_t)(head + h) * w->a->d_head);
    memset(o->o, 0, (size_t)(n * w->width) * sizeof *o->o);
    memset(o->s, 0, CPU_HEADS * CPU_CHUNK * sizeof *o->s);
    for (int64_t j = k.lo, next = 0; j < k.hi; j = next) {
        const struct cpu_keys keys = keys_at(w, row, &k, w->a->k, kv, j, o->copied);
        kern->scores(&keys, n, o->q, o->s + (j - k.begin));
        next = j + keys.n;
    }
    for (int h = 0; h < n; h++) {
        const float slope = w->a->slopes != NULL ? *cpu_vector(w->a->slopes, head + h) : 0.0f;
        float *part = part_of(w, i, head + h, c);
        part[1] = soften(w, row, &k, slope, o->s + h * CPU_CHUNK, o->p + h * CPU_CHUNK, part);
    }
    for (int64_t j = k.lo, next = 0; j < k.hi; j = next) {
        const struct cpu_keys keys = keys_at(w, row, &k, w->a->v, kv, j, o->copied);
        kern->values(&keys, n, o->p + (j - k.begin), o->o);
        next = j + keys.n;
    }
    for (int h = 0; h < n; h++)
        memcpy(part_of(w, i, head + h, c) + 2, o->o + h * w->width,
               (size_t)w->width * sizeof *o->o);
}

// The chunks of a head of row i into its output.
static void combine(const struct work *w, const struct row *row, int64_t i, int head, float *o) {
    const int64_t n = row_chunks(row);
    float *out = cpu_row(w->a->out, row->seg->first_row + row->r) + (int64_t)head * w->a->d_head;
    float max = part_of(w, i, head, 0)[0], sum = 0;
    for (int64_t c = 1; c < n; c++) {
        const float m = part_of(w, i, head, c)[0];
        if (m > max) max = m;
    }
    memset(o, 0, (size_t)w->width * sizeof *o);
    for (int64_t c = 0; c < n; c++) {
        const float *part = part_of(w, i, head, c);
        float scale[CPU_MR_MAX] = {part[0] - max};
        w->d->k->exp_small(scale);
        sum += part[1] * scale[0];
        for (int64_t e = 0; e < w->width; e++) o[e] += part[2 + e] * scale[0];
    }
    store_output(w, out, o, 1.0f / sum);
}

// ---- all rows

static struct work plan(struct cpu_dev *d, const struct dev_attend *a) {
    struct work w = {.d = d, .a = a, .group = a->n_head / a->n_kv};
    const int64_t step = 2 * d->decode->lanes;
    w.cap = a->softcap > 0 ? (float)a->softcap : 0.0f;
    w.inv_cap = a->softcap > 0 ? (float)(1 / a->softcap) : 0.0f;
    w.steps = cpu_ceil(a->d_head, step);
    w.width = w.steps * step;
    w.direct = w.width == a->d_head;
    w.part = w.width + 2;
    return w;
}

// Rows row[0..n-1] of a batch.
struct batch {
    const struct work *w;
    const struct row *row;
    int64_t n;
    int per, sets; // sets of heads of a kv head, of all
};

static void run_item(void *ctx, int64_t item, int thread) {
    const struct batch *b = ctx;
    const struct work *w = b->w;
    struct own o;
    own_layout(w, w->own + w->own_bytes * (size_t)thread, &o);
    const int64_t i = item / (b->sets * w->n_chunk), c = item % w->n_chunk;
    const int set = (int)(item / w->n_chunk % b->sets);
    const int from = set % b->per * CPU_HEADS,
              left = w->group - from < CPU_HEADS ? w->group - from : CPU_HEADS;
    if (c < row_chunks(b->row + i))
        run_heads(w, b->row + i, i, c, set / b->per * w->group + from, left, &o);
}

static void combine_item(void *ctx, int64_t item, int thread) {
    const struct batch *b = ctx;
    struct own o;
    own_layout(b->w, b->w->own + b->w->own_bytes * (size_t)thread, &o);
    const int64_t i = item / b->w->a->n_head;
    combine(b->w, b->row + i, i, (int)(item % b->w->a->n_head), o.o);
}

static void run_batch(const struct work *w, const struct row *row, int64_t n) {
    struct batch b = {w, row, n, (w->group + CPU_HEADS - 1) / CPU_HEADS, 0};
    b.sets = w->a->n_kv * b.per;
    const int64_t each = w->n_chunk * CPU_CHUNK * w->a->n_head * w->a->d_head;
    cpu_share(w->d, n * each, n * b.sets * w->n_chunk, run_item, &b);
    cpu_share(w->d, n * each / CPU_CHUNK, n * w->a->n_head, combine_item, &b);
}

void cpu_decode_attend(struct dev *dev, const struct dev_attend *a, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    const struct dev_seg *segs = a->seg->data;
    if (!dev_host_segs_ok(dev, segs, a->n_seg, n_row, a->k->n_row, true, true) || n_row == 0)
        return;
    struct work w = plan(d, a);
    struct own o;
    w.own_bytes = own_layout(&w, NULL, &o);
    for (int i = 0; i < a->n_seg; i++) { // the most chunks: of one of the last rows, or thereabouts
        const struct row first = row_of(segs + i, 0), last = row_of(segs + i, segs[i].n_row - 1);
        const int64_t n =
            (row_chunks(&first) > row_chunks(&last) ? row_chunks(&first) : row_chunks(&last)) + 1;
        if (n > w.n_chunk) w.n_chunk = n;
    }
    const size_t row_bytes =
        (size_t)(a->n_head * w.n_chunk * w.part) * sizeof(float) + sizeof(struct row);
    int64_t batch = (int64_t)(PART_BYTES / row_bytes);
    batch = batch < 1 ? 1 : batch > n_row ? n_row : batch;
    const size_t rows = cpu_round64((size_t)batch * sizeof(struct row));
    const size_t parts = cpu_round64((size_t)batch * row_bytes);
    unsigned char *at = cpu_scratch(d, rows + parts + w.own_bytes * (size_t)d->n_thread);
    if (at == NULL) return;
    struct row *row = (struct row *)(void *)at;
    w.parts = (float *)(void *)(at + rows);
    w.own = at + rows + parts;
    int64_t n = 0;
    for (int i = 0; i < a->n_seg; i++)
        for (int64_t r = 0; r < segs[i].n_row; r++) {
            row[n++] = row_of(segs + i, r);
            if (n < batch && segs[i].first_row + r + 1 < n_row) continue;
            run_batch(&w, row, n);
            n = 0;
        }
}
