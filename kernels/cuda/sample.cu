/* From logits to tokens. What top_k, top_p and the draw ask for is always the same question: of items in an order,
 * each with a weight, which is the one at which the weights add up to so much? It is answered digit by digit of the
 * item's key, with a histogram per digit. Weights are integers (1, or the probability in units of 2^-44 of the
 * largest), so that sums are exact and no order of threads changes them. A row is one block's. */
#include "kernels/cuda/soft.cuh"

enum { THREADS = 256, WARP = 32, BINS = 256, GROUPS = 32 };
typedef unsigned long long u64;

struct shared {
    unsigned low[BINS], high[BINS], count[BINS]; // of a digit: weights (two words), items
    u64 sum[GROUPS];                             // of BINS / GROUPS bins
    u64 left, key;
    unsigned digit, n;
    int32_t first;
    struct soft raw, changed;
};

// The items of a row, and which of them are kept.
struct items {
    const float *y;
    int64_t n;
    float most, inv, unit; // largest y; 1 / temperature; what a probability of the largest weighs
    u64 floor;             // keys by rank below it are left out
    float min_p;
};

// How the items are put in order and weighed, and how much is asked for: `share` of all, or as much and a little.
struct question {
    bool by_id, by_mass, above;
    double share;
    u64 want; // where weights are 1
};

// The larger y first, the lower id first on ties; 0.0 and -0.0 are a tie.
CUDA_DEVICE u64 rank_key(float y, int64_t i) {
    const uint32_t u = __float_as_uint(y + 0.0f);
    const uint32_t up = (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
    return (u64)up << 32 | (0xFFFFFFFFu - (uint32_t)i);
}

CUDA_DEVICE float probability(const struct items &s, float y) {
    return expf((y - s.most) * s.inv);
}

// Whether item i is among those asked about, with its key and weight.
CUDA_DEVICE bool item_of(const struct items &s, const struct question &q, int64_t i, u64 *key,
                         u64 *weight) {
    const float y = s.y[i];
    const u64 rank = rank_key(y, i);
    if (!(y > -INFINITY) || rank < s.floor) return false;
    *key = q.by_id ? (u64)(s.n - 1 - i) : rank;
    *weight = 1;
    if (!q.by_mass) return true;
    const float e = probability(s, y);
    *weight = (u64)(e * s.unit);
    return e >= s.min_p;
}

// The bins of the digit at `shift`, of keys whose upper digits are prefix's.
CUDA_DEVICE void fill_bins(const struct items &s, const struct question &q, u64 prefix, int shift,
                           bool first, struct shared *sh) {
    for (int b = threadIdx.x; b < BINS; b += THREADS) sh->low[b] = sh->high[b] = sh->count[b] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < s.n; i += THREADS) {
        u64 key, weight;
        if (!item_of(s, q, i, &key, &weight)) continue;
        if (!first && key >> (shift + 8) != prefix >> (shift + 8)) continue;
        const unsigned bin = (unsigned)(key >> shift) & (BINS - 1), low = (unsigned)weight;
        const unsigned was = atomicAdd(&sh->low[bin], low);
        const unsigned more = (unsigned)(weight >> 32) + (was + low < was ? 1u : 0u);
        if (more != 0) atomicAdd(&sh->high[bin], more);
        atomicAdd(&sh->count[bin], 1u);
    }
    __syncthreads();
    if (threadIdx.x < GROUPS) {
        u64 sum = 0;
        for (int b = 0; b < BINS / GROUPS; b++) {
            const int at = threadIdx.x * (BINS / GROUPS) + b;
            sum += (u64)sh->high[at] << 32 | sh->low[at];
        }
        sh->sum[threadIdx.x] = sum;
    }
    __syncthreads();
}

// How much is asked for, once all weights are known.
CUDA_DEVICE u64 want_of(const struct question &q, const struct shared *sh) {
    if (!q.by_mass) return q.want;
    u64 all = 0;
    for (int g = 0; g < GROUPS; g++) all += sh->sum[g];
    const double part = q.share * (double)all;
    const u64 want = q.above ? (u64)part + 1 : (u64)ceil(part);
    return want < 1 ? 1 : want > all ? all : want;
}

// Thread 0: from the upper bins down, the one in which what is left to be found is found.
CUDA_DEVICE void find_digit(struct shared *sh) {
    int g = GROUPS - 1, b = BINS / GROUPS - 1;
    while (g > 0 && sh->sum[g] < sh->left) sh->left -= sh->sum[g--];
    for (; b > 0; b--) {
        const int at = g * (BINS / GROUPS) + b;
        const u64 sum = (u64)sh->high[at] << 32 | sh->low[at];
        if (sum >= sh->left) break;
        sh->left -= sum;
    }
    sh->digit = (unsigned)(g * (BINS / GROUPS) + b);
    sh->n = sh->count[sh->digit];
}

/* The key of the item at which the weights of those before it and its own reach what is asked for; 0 where all
 * together do not. */
CUDA_DEVICE u64 answer(const struct items &s, const struct question &q, struct shared *sh) {
    u64 prefix = 0;
    const int top = !q.by_id ? 56 : s.n > 1 << 24 ? 24 : s.n > 1 << 16 ? 16 : s.n > 1 << 8 ? 8 : 0;
    for (int shift = top; shift >= 0; shift -= 8) {
        fill_bins(s, q, prefix, shift, shift == top, sh);
        if (threadIdx.x == 0) {
            if (shift == top) sh->left = want_of(q, sh);
            find_digit(sh);
        }
        __syncthreads();
        prefix |= (u64)sh->digit << shift;
        const unsigned n = sh->n;
        const bool found = sh->left <= ((u64)sh->high[sh->digit] << 32 | sh->low[sh->digit]);
        __syncthreads(); // the bins have been read
        if (!found) return 0;
        if (n != 1) continue;
        for (int64_t i = threadIdx.x; i < s.n; i += THREADS) {
            u64 key, weight;
            if (item_of(s, q, i, &key, &weight) && key >> shift == prefix >> shift) sh->key = key;
        }
        __syncthreads();
        prefix = sh->key;
        break;
    }
    __syncthreads();
    return prefix;
}

CUDA_DEVICE int32_t first_largest(const struct items &s, struct shared *sh) {
    if (threadIdx.x == 0) sh->first = INT32_MAX;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < s.n; i += THREADS)
        if (s.y[i] == s.most) atomicMin(&sh->first, (int32_t)i);
    __syncthreads();
    return sh->first == INT32_MAX ? -2 : sh->first; // the largest of nothing is the lowest float
}

CUDA_DEVICE int32_t draw(const struct dev_sample_row &r, struct items s, struct shared *sh) {
    struct question q = {false, false, false, 0, 0};
    if (r.top_k > 0 && r.top_k < s.n) {
        q.want = (u64)r.top_k;
        s.floor = answer(s, q, sh) & ~(u64)0xFFFFFFFFu; // with all that tie with it
    }
    q.by_mass = true;
    if (r.top_p < 1) {
        q.share = r.top_p;
        s.floor = answer(s, q, sh);
    }
    s.min_p = (float)r.min_p;
    q.by_id = q.above = true;
    q.share = r.u;
    return (int32_t)(s.n - 1 - (int64_t)answer(s, q, sh));
}

// ---- top lists

// The keys of the n items that rank first, in any order; returns how many there are.
CUDA_DEVICE int collect(struct items s, int n, u64 *list, struct shared *sh) {
    const struct question q = {false, false, false, 0, (u64)n};
    s.floor = answer(s, q, sh); // 0: there are fewer
    if (threadIdx.x == 0) sh->n = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < s.n; i += THREADS) {
        const u64 key = rank_key(s.y[i], i);
        if (s.y[i] > -INFINITY && key >= s.floor) list[atomicAdd(&sh->n, 1u)] = key;
    }
    __syncthreads();
    return (int)sh->n;
}

CUDA_DEVICE void top_list(const struct cuda_sample &p, int64_t row, struct items s,
                          struct shared *sh) {
    const struct dev_sample_row &r = p.rows[row];
    const float *raw = p.logits + r.logits_row * p.n_vocab;
    u64 *list = p.list + row * p.n_list;
    const bool good = sh->raw.log_sum == sh->raw.log_sum;
    const int64_t at = row * p.n_top;
    int n = r.n_top < p.n_vocab ? r.n_top : (int)p.n_vocab;
    if (!r.top_adjusted) s.y = raw;
    n = good && n > 0 ? collect(s, n, list, sh) : 0;
    for (int k = threadIdx.x; k < p.n_top; k += THREADS) {
        if (k >= n) {
            p.top_id[at + k] = -1;
            p.top_logp[at + k] = p.top_adjusted[at + k] = soft_nan();
            continue;
        }
        int before = 0;
        for (int i = 0; i < n; i++) before += list[i] > list[k];
        const int32_t id = (int32_t)(0xFFFFFFFFu - (uint32_t)list[k]);
        p.top_id[at + before] = id;
        p.top_logp[at + before] = soft_logp(raw[id], sh->raw);
        p.top_adjusted[at + before] = r.top_adjusted ? soft_logp(s.y[id], sh->changed) : soft_nan();
    }
}

// ---- rows

static __global__ void __launch_bounds__(THREADS) k_sample(struct cuda_sample p) {
    CUDA_SMEM(struct shared, sh);
    const int64_t row = blockIdx.x;
    const struct dev_sample_row r = p.rows[row];
    const float *raw = p.logits + r.logits_row * p.n_vocab;
    const struct cuda_part *part = p.part + row * p.n_part;
    if (threadIdx.x < WARP) {
        const struct soft a = soft_join(part, p.n_part);
        const struct soft b = r.n_adjust > 0 ? soft_join(p.part_y + row * p.n_part, p.n_part) : a;
        if (threadIdx.x == 0) sh->raw = a, sh->changed = b;
    }
    __syncthreads();
    struct items s = {r.n_adjust > 0 ? p.y + row * p.n_vocab : raw,
                      p.n_vocab,
                      sh->changed.max,
                      1.0f,
                      p.unit,
                      0,
                      0.0f};
    int32_t id = -1;
    if (sh->raw.log_sum == sh->raw.log_sum) {
        const bool greedy = !(r.temperature > 0) || s.most == -FLT_MAX;
        s.inv = greedy ? 1.0f : 1.0f / (float)r.temperature;
        id = greedy ? first_largest(s, sh) : draw(r, s, sh);
    }
    if (threadIdx.x == 0) {
        p.id[row] = id;
        p.logp[row] = id >= 0 ? soft_logp(raw[id], sh->raw) : soft_nan();
    }
    if (p.n_top > 0) top_list(p, row, s, sh);
}

// Part `at` of a row: of the logits, or of the changed ones.
CUDA_DEVICE void load_part(const float *from, int64_t begin, int n, float x[SOFT_PER]) {
    for (int i = 0; i < SOFT_PER; i++) {
        const int k = threadIdx.x % WARP + WARP * i;
        x[i] = k < n ? from[begin + k] : 0.0f;
    }
}

// Parts of the logits, which are copied where they are to be changed.
static __global__ void k_parts(struct cuda_sample p) {
    const int64_t at = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (at >= p.n_row * p.n_part) return;
    const int64_t row = at / p.n_part, begin = at % p.n_part * CUDA_PART;
    const int n = (int)(p.n_vocab - begin < CUDA_PART ? p.n_vocab - begin : (int64_t)CUDA_PART);
    float x[SOFT_PER];
    load_part(p.logits + p.rows[row].logits_row * p.n_vocab, begin, n, x);
    const struct cuda_part part = soft_part(x, n, true);
    if (threadIdx.x % WARP == 0) p.part[at] = part;
    if (p.rows[row].n_adjust == 0) return;
    for (int i = 0; i < SOFT_PER; i++) {
        const int k = threadIdx.x % WARP + WARP * i;
        if (k < n) p.y[row * p.n_vocab + begin + k] = x[i];
    }
}

static __global__ void k_change(struct cuda_sample p) {
    const struct dev_sample_row &r = p.rows[blockIdx.x];
    for (int64_t i = threadIdx.x; i < r.n_adjust; i += THREADS) {
        const struct dev_adjust &a = p.adjust[r.adjust + i];
        float *y = p.y + blockIdx.x * p.n_vocab + a.id;
        double l = (double)*y + a.before;
        l = l > 0 ? l / a.scale : l * a.scale;
        *y = (float)(l + a.after);
    }
}

static __global__ void k_parts_changed(struct cuda_sample p) {
    const int64_t at = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (at >= p.n_row * p.n_part || p.rows[at / p.n_part].n_adjust == 0) return;
    const int64_t row = at / p.n_part, begin = at % p.n_part * CUDA_PART;
    const int n = (int)(p.n_vocab - begin < CUDA_PART ? p.n_vocab - begin : (int64_t)CUDA_PART);
    float x[SOFT_PER];
    load_part(p.y + row * p.n_vocab, begin, n, x);
    const struct cuda_part part = soft_part(x, n, false);
    if (threadIdx.x % WARP == 0) p.part_y[at] = part;
}

// ---- similarity: a warp has a row of x and one of y

enum { SIMILAR = 8 }; // rows of y of a block

CUDA_DEVICE float warp_sum(float x) {
    for (int m = WARP / 2; m > 0; m /= 2) x += cuda_shfl_xor(x, m);
    return x;
}

static __global__ void k_similar(struct cuda_similar p) {
    const int lane = threadIdx.x % WARP, w = threadIdx.x / WARP;
    const int64_t j = (int64_t)blockIdx.x * SIMILAR + w;
    if (j >= p.n_y) return;
    const float *x = p.x + blockIdx.y * p.n_col, *y = p.y + j * p.n_col;
    float xx = 0.0f, yy = 0.0f, xy = 0.0f;
    for (int64_t k = lane; k < p.n_col; k += WARP) {
        xx = fmaf(x[k], x[k], xx);
        yy = fmaf(y[k], y[k], yy);
        xy = fmaf(x[k], y[k], xy);
    }
    xx = sqrtf(warp_sum(xx)), yy = sqrtf(warp_sum(yy)), xy = warp_sum(xy);
    const float by = xx * yy;
    if (lane == 0)
        p.part[blockIdx.y * p.n_y + j] = !elem_finite(xx) ? (float)soft_nan()
                                         : by > 0.0f      ? xy / by
                                                          : 0.0f;
}

// The largest does not depend on an order. NaN in a row of y is passed over, as it is on the CPU.
static __global__ void k_most_similar(struct cuda_similar p) {
    const int64_t row = blockIdx.x;
    float most = -2.0f;
    bool bad = true;
    for (int64_t j = threadIdx.x; j < p.n_y; j += WARP) {
        const float c = p.part[row * p.n_y + j];
        bad = bad && c != c;
        most = fmaxf(most, c);
    }
    for (int m = WARP / 2; m > 0; m /= 2) most = fmaxf(most, cuda_shfl_xor(most, m));
    const bool any = cuda_any(!bad && threadIdx.x < p.n_y);
    if (threadIdx.x == 0) p.out[row] = any ? (double)most : soft_nan();
}

// ---- launchers

extern "C" void cuda_sample_rows(cudaStream_t s, const struct cuda_sample *p) {
    const int64_t per = THREADS / WARP, n = (p->n_row * p->n_part + per - 1) / per;
    CUDA_LAUNCH(k_parts, (unsigned)n, THREADS, 0, s, *p);
    if (p->adjust != NULL) {
        CUDA_LAUNCH(k_change, (unsigned)p->n_row, THREADS, 0, s, *p);
        CUDA_LAUNCH(k_parts_changed, (unsigned)n, THREADS, 0, s, *p);
    }
    CUDA_LAUNCH(k_sample, (unsigned)p->n_row, THREADS, sizeof(struct shared), s, *p);
}

extern "C" void cuda_similar_rows(cudaStream_t s, const struct cuda_similar *p) {
    const dim3 grid((unsigned)((p->n_y + SIMILAR - 1) / SIMILAR), (unsigned)p->n_row);
    CUDA_LAUNCH(k_similar, grid, SIMILAR * WARP, 0, s, *p);
    CUDA_LAUNCH(k_most_similar, (unsigned)p->n_row, WARP, 0, s, *p);
}
