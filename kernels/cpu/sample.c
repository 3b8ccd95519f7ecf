/* From logits to tokens, a row per task. Sums over the vocabulary are taken in blocks of CPU_VOCAB
 * ids, in order; where the most probable ids are asked for, a histogram of distances from the
 * largest logit finds the bin in which the boundary lies, and only that bin is put in order. */
#include "kernels/cpu/cpu_impl.h"

#include <math.h>

enum {
    BINS = 2048,     // of the histogram; the last one takes all that is further away
    BINS_A_NAT = 32, // of (largest - y) / temperature
    LANES = 8        // of sums in double
};

struct item {
    float y;
    int32_t id;
};

// Scratch of one thread. Rows are padded to whole blocks.
struct own {
    float *y, *e;          // [padded] changed logits; exp((y - largest) / temperature)
    struct cpu_part *part; // [n_block] of the logits as they are
    struct cpu_part *part_y;
    double *mass;      // [BINS]
    int64_t *count;    // [BINS]
    struct item *item; // [n_vocab]
};

struct sample {
    struct cpu_dev *d;
    const struct dev_sample *a;
    int64_t n_vocab, n_block;
    unsigned char *own; // of thread 0
    size_t own_bytes;
};

// One row at work.
struct draw {
    const struct sample *s;
    const struct own *o;
    const struct dev_sample_row *r;
    float most; // largest y
    float per;  // bins a unit of y
};

static void *carve(unsigned char *base, size_t *at, size_t n, size_t size) {
    void *p = base != NULL ? base + *at : NULL;
    *at += cpu_round64(n * size);
    return p;
}

static size_t own_layout(const struct sample *s, unsigned char *base, struct own *o) {
    const size_t n_block = (size_t)s->n_block, padded = n_block * CPU_VOCAB;
    size_t at = 0;
    o->y = carve(base, &at, padded, sizeof *o->y);
    o->e = carve(base, &at, padded, sizeof *o->e);
    o->part = carve(base, &at, n_block, sizeof *o->part);
    o->part_y = carve(base, &at, n_block, sizeof *o->part_y);
    o->mass = carve(base, &at, BINS, sizeof *o->mass);
    o->count = carve(base, &at, BINS, sizeof *o->count);
    o->item = carve(base, &at, (size_t)s->n_vocab, sizeof *o->item);
    return at;
}

// Maximum and sum of every block of l, as the head takes them. `l` is padded and stays as it is.
static bool take_parts(const struct sample *s, float *l, struct cpu_part *part) {
    const struct cpu_kernels *k = s->d->k;
    bool all_finite = true;
    for (int64_t b = 0; b < s->n_block; b++) {
        const int64_t left = s->n_vocab - b * CPU_VOCAB, n = left < CPU_VOCAB ? left : CPU_VOCAB;
        bool finite = true;
        part[b].max = k->logit_max(l + b * CPU_VOCAB, n, 1.0f, 0.0f, &finite);
        part[b].sum = k->logit_sum(l + b * CPU_VOCAB, n, part[b].max);
        all_finite = all_finite && finite;
    }
    return all_finite;
}

static void change(const struct draw *w) {
    const struct dev_adjust *entry = w->s->a->adjust != NULL ? w->s->a->adjust->data : NULL;
    for (int64_t i = w->r->adjust; i < w->r->adjust + w->r->n_adjust; i++) {
        double l = (double)w->o->y[entry[i].id] + entry[i].before;
        l = l > 0 ? l / entry[i].scale : l * entry[i].scale;
        w->o->y[entry[i].id] = (float)(l + entry[i].after);
    }
}

static float largest(const struct cpu_part *part, int64_t n_block) {
    float most = part[0].max;
    for (int64_t b = 1; b < n_block; b++)
        if (part[b].max > most) most = part[b].max;
    return most;
}

// The lowest id of the largest y; -2 when there is none.
static int32_t first_largest(const struct draw *w) {
    const struct sample *s = w->s;
    for (int64_t b = 0; b < s->n_block; b++) {
        if (w->o->part_y[b].max < w->most) continue;
        for (int64_t i = b * CPU_VOCAB; i < (b + 1) * CPU_VOCAB && i < s->n_vocab; i++)
            if (w->o->y[i] == w->most) return (int32_t)i;
    }
    return -2; // the largest of nothing is the lowest float
}

/* ---- the most probable ---- */

static int bin_of(const struct draw *w, float y) {
    const float at = (w->most - y) * w->per;
    return at < (float)(BINS - 1) ? (int)at : BINS - 1;
}

static void fill_bins(const struct draw *w) {
    const struct own *o = w->o;
    memset(o->count, 0, BINS * sizeof *o->count);
    memset(o->mass, 0, BINS * sizeof *o->mass);
    for (int64_t i = 0; i < w->s->n_vocab; i++) {
        if (!(o->y[i] > -INFINITY)) continue;
        const int b = bin_of(w, o->y[i]);
        o->count[b]++;
        o->mass[b] += (double)o->e[i];
    }
}

static bool before(struct item a, struct item b) {
    return a.y > b.y || (a.y == b.y && a.id < b.id);
}

static void sift(struct item *heap, int64_t n, int64_t i) {
    const struct item x = heap[i];
    for (;;) {
        int64_t c = 2 * i + 1;
        if (c >= n) break;
        if (c + 1 < n && before(heap[c + 1], heap[c])) c++;
        if (!before(heap[c], x)) break;
        heap[i] = heap[c];
        i = c;
    }
    heap[i] = x;
}

// The items of a bin as a heap whose top ranks first; returns their number.
static int64_t heap_of_bin(const struct draw *w, int bin) {
    const struct own *o = w->o;
    int64_t n = 0;
    for (int64_t i = 0; i < w->s->n_vocab; i++)
        if (o->y[i] > -INFINITY && bin_of(w, o->y[i]) == bin)
            o->item[n++] = (struct item){o->y[i], (int32_t)i};
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift(o->item, n, i);
    return n;
}

static struct item pop(struct item *heap, int64_t *n) {
    const struct item top = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0) sift(heap, *n, 0);
    return top;
}

// The top_k-th largest y; -FLT_MAX or less where all stay. fill_bins() has been called.
static float kth_largest(const struct draw *w) {
    int64_t left = w->r->top_k, n = 0;
    if (left == 0 || left >= w->s->n_vocab) return -INFINITY;
    int b = 0;
    while (b < BINS && w->o->count[b] < left) left -= w->o->count[b++];
    if (b == BINS) return -INFINITY;
    n = heap_of_bin(w, b);
    struct item at = {0};
    while (left-- > 0) at = pop(w->o->item, &n);
    return at.y;
}

// Mass of everything that is at least `low`: whole bins, then the items of its bin in order of id.
static double mass_above(const struct draw *w, float low) {
    const int last = low > -INFINITY ? bin_of(w, low) : BINS;
    double sum = 0;
    for (int b = 0; b < last; b++) sum += w->o->mass[b];
    if (last == BINS) return sum;
    for (int64_t i = 0; i < w->s->n_vocab; i++)
        if (w->o->y[i] >= low && bin_of(w, w->o->y[i]) == last) sum += (double)w->o->e[i];
    return sum;
}

// The last item of the shortest run whose mass is at least top_p of what is at least `low`.
static struct item nucleus(const struct draw *w, float low) {
    const double want = w->r->top_p * mass_above(w, low);
    double sum = 0;
    int b = 0;
    while (b < BINS - 1 && sum + w->o->mass[b] < want) sum += w->o->mass[b++];
    int64_t n = heap_of_bin(w, b);
    struct item at = {w->most, 0};
    while (n > 0 && sum < want && w->o->item[0].y >= low) {
        at = pop(w->o->item, &n);
        sum += (double)w->o->e[at.id];
    }
    return at;
}

/* ---- drawing ---- */

// e = exp((y - largest) / temperature): 0 for what is banned.
static void exponentials(const struct draw *w) {
    const float inv = 1.0f / (float)w->r->temperature;
    const int64_t padded = w->s->n_block * CPU_VOCAB;
    for (int64_t i = 0; i < padded; i += CPU_MR_MAX) {
        float *e = w->o->e + i;
        for (int k = 0; k < CPU_MR_MAX; k++) e[k] = (w->o->y[i + k] - w->most) * inv;
        w->s->d->k->exp_small(e);
    }
    for (int64_t i = w->s->n_vocab; i < padded; i++) w->o->e[i] = 0.0f;
}

// Silences what top_k, top_p and min_p leave out.
static void cut_off(const struct draw *w) {
    struct item last = {-INFINITY, 0};
    const bool top_k = w->r->top_k > 0 && w->r->top_k < w->s->n_vocab, top_p = w->r->top_p < 1;
    if (!top_k && !top_p && !(w->r->min_p > 0)) return;
    last.id = INT32_MAX;
    if (top_k || top_p) {
        fill_bins(w);
        last.y = kth_largest(w);
        if (top_p) last = nucleus(w, last.y);
    }
    const float min_p = (float)w->r->min_p;
    for (int64_t i = 0; i < w->s->n_vocab; i++) {
        const bool stays =
            (w->o->y[i] > last.y || (w->o->y[i] == last.y && i <= last.id)) && w->o->e[i] >= min_p;
        w->o->e[i] = stays ? w->o->e[i] : 0.0f;
    }
}

static double block_sum(const float *e) {
    double lane[LANES] = {0};
    for (int i = 0; i < CPU_VOCAB; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += (double)e[i + k];
    double s = 0;
    for (int k = 0; k < LANES; k++) s += lane[k];
    return s;
}

static int32_t draw(const struct draw *w) {
    const float *e = w->o->e;
    double all = 0, some = 0;
    exponentials(w);
    cut_off(w);
    for (int64_t b = 0; b < w->s->n_block; b++) all += block_sum(e + b * CPU_VOCAB);
    const double want = w->r->u * all;
    int32_t last = first_largest(w);
    for (int64_t b = 0; b < w->s->n_block; b++) {
        const double sum = block_sum(e + b * CPU_VOCAB);
        if (sum == 0) continue;
        const bool here = some + sum > want;
        for (int64_t i = b * CPU_VOCAB; i < (b + 1) * CPU_VOCAB; i++) {
            if (e[i] == 0.0f) continue;
            last = (int32_t)i; // where rounding leaves the sum below, the last one is taken
            if (!here) continue;
            some += (double)e[i];
            if (some > want) return last;
        }
        if (here) return last;
        some += sum;
    }
    return last;
}

/* ---- top lists ---- */

// The n ids that rank first in l; returns how many there are.
static int find_top(const struct draw *w, const float *l, const struct cpu_part *part, int n,
                    struct item *top) {
    int have = 0;
    for (int64_t b = 0; b < w->s->n_block; b++) {
        if (have == n && !(part[b].max > top[n - 1].y)) continue;
        for (int64_t i = b * CPU_VOCAB; i < (b + 1) * CPU_VOCAB && i < w->s->n_vocab; i++) {
            if (!(l[i] > -INFINITY) || (have == n && !(l[i] > top[n - 1].y))) continue;
            int at = have < n ? have++ : n - 1;
            for (; at > 0 && l[i] > top[at - 1].y; at--) top[at] = top[at - 1];
            top[at] = (struct item){l[i], (int32_t)i};
        }
    }
    return have;
}

static void top_list(const struct draw *w, int64_t row, const struct cpu_lse *lse) {
    const struct dev_sample *a = w->s->a;
    const float *raw = cpu_row(a->logits, w->r->logits_row);
    const bool adjusted = w->r->top_adjusted;
    int32_t *id = (int32_t *)a->top_id->data + row * a->n_top;
    double *logp = (double *)a->top_logp->data + row * a->n_top;
    double *adj = (double *)a->top_adjusted->data + row * a->n_top;
    struct item *top = w->o->item; // free once a token has been drawn
    struct cpu_lse all = {0};
    int n = 0;
    if (w->r->n_top > 0 && lse != NULL) {
        if (adjusted) all = cpu_join_parts(w->o->part_y, w->s->n_block);
        const int most = w->r->n_top < w->s->n_vocab ? w->r->n_top : (int)w->s->n_vocab;
        n = find_top(w, adjusted ? w->o->y : raw, adjusted ? w->o->part_y : w->o->part, most, top);
    }
    for (int k = 0; k < a->n_top; k++) {
        id[k] = k < n ? top[k].id : -1;
        logp[k] = k < n ? (double)raw[top[k].id] - lse->max - lse->log_sum : (double)NAN;
        adj[k] = k < n && adjusted ? (double)top[k].y - all.max - all.log_sum : (double)NAN;
    }
}

static void sample_row(void *ctx, int64_t row, int thread) {
    const struct sample *s = ctx;
    const struct dev_sample *a = s->a;
    struct own scratch, *o = &scratch;
    own_layout(s, s->own + s->own_bytes * (size_t)thread, o);
    struct draw w = {.s = s, .o = o, .r = (const struct dev_sample_row *)a->rows->data + row};
    int32_t *id = (int32_t *)a->id->data + row;
    double *logp = (double *)a->logp->data + row;
    const float *raw = cpu_row(a->logits, w.r->logits_row);
    memcpy(o->y, raw, (size_t)s->n_vocab * sizeof *raw);
    for (int64_t i = s->n_vocab; i < s->n_block * CPU_VOCAB; i++) o->y[i] = -INFINITY;
    *id = -1;
    *logp = (double)NAN;
    if (!take_parts(s, o->y, o->part)) {
        if (a->n_top > 0) top_list(&w, row, NULL);
        return;
    }
    const struct cpu_lse lse = cpu_join_parts(o->part, s->n_block);
    if (w.r->n_adjust > 0) {
        change(&w);
        (void)take_parts(s, o->y, o->part_y);
    } else {
        memcpy(o->part_y, o->part, (size_t)s->n_block * sizeof *o->part);
    }
    w.most = largest(o->part_y, s->n_block);
    w.per = BINS_A_NAT / (w.r->temperature > 0 ? (float)w.r->temperature : 1.0f);
    *id = first_largest(&w);
    if (*id >= 0 && w.r->temperature > 0) *id = draw(&w);
    if (*id >= 0) *logp = (double)raw[*id] - lse.max - lse.log_sum;
    if (a->n_top > 0) top_list(&w, row, &lse);
}

void cpu_sample(struct dev *dev, const struct dev_sample *a, int64_t n_row) {
    struct cpu_dev *d = cpu_of(dev);
    if (!dev_host_sample_ok(dev, a, n_row) || n_row == 0) return;
    struct sample s = {.d = d, .a = a, .n_vocab = a->logits->n_col};
    s.n_block = cpu_ceil(s.n_vocab, CPU_VOCAB);
    struct own o;
    s.own_bytes = own_layout(&s, NULL, &o);
    s.own = cpu_scratch(d, s.own_bytes * (size_t)d->n_thread);
    if (s.own != NULL) cpu_share(d, 64 * n_row * s.n_vocab, n_row, sample_row, &s);
}

/* ---- similarity ---- */

enum { SIMILAR_ROWS = 64 }; // rows of x at a time

static void similar(struct cpu_dev *d, const struct dev_similar *a, int64_t row, int64_t n) {
    const struct cpu_kernels *k = d->k;
    const int64_t w = a->y->n_col;
    float norm[SIMILAR_ROWS], most[SIMILAR_ROWS];
    double *out = (double *)a->out->data + a->out_row + row;
    for (int64_t i = 0; i < n; i++) {
        const float *x = cpu_row(a->x, a->row + row + i);
        norm[i] = sqrtf(k->dot(x, x, w));
        most[i] = -2.0f; // below any cosine
    }
    // The largest of all does not depend on how the rows of y are shared out.
#pragma omp parallel for num_threads(cpu_team(d, (n + 1) * a->n_y * w)) schedule(static)           \
    reduction(max                                                                                  \
              : most[:SIMILAR_ROWS])
    for (int64_t j = 0; j < a->n_y; j++) {
        const float *y = cpu_row(a->y, j), len = sqrtf(k->dot(y, y, w));
        for (int64_t i = 0; i < n; i++) {
            const float by = norm[i] * len;
            const float c = by > 0 ? k->dot(cpu_row(a->x, a->row + row + i), y, w) / by : 0.0f;
            if (c > most[i]) most[i] = c;
        }
    }
    for (int64_t i = 0; i < n; i++) out[i] = norm[i] < INFINITY ? (double)most[i] : (double)NAN;
}

void cpu_similar(struct dev *dev, const struct dev_similar *a, int64_t n_row) {
    for (int64_t row = 0; row < n_row; row += SIMILAR_ROWS) {
        const int64_t left = n_row - row;
        similar(cpu_of(dev), a, row, left < SIMILAR_ROWS ? left : SIMILAR_ROWS);
    }
}
