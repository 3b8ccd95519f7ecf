/* Attention of a handle for steps: every row by itself, its keys cut into the tiles of seg.cuh, a block for each
 * tile and kv head, which leaves a maximum, a sum and an output per head; the tiles of a row are put together in
 * ascending order (as Dao et al. split keys in Flash-Decoding). All of it in f32, queries and probabilities too: what
 * is read is what takes the time. Neither other rows nor the number of tiles that the grid has room for change a
 * bit. */
#include "kernels/cuda/seg.cuh"

enum { THREADS = 128, WARP = 32, LANES = 8, HEADS = CUDA_STEP_HEADS, RED = 32 * THREADS / WARP };

struct shared {
    struct piece piece;
    float s[HEADS][CUDA_KEYS];  // scores, then probabilities
    float red[HEADS * THREADS]; // outputs of threads that share a dimension
};

// The work of a block.
struct job {
    int64_t row, r;       // of the block of rows; of its segment
    int kv, head, n_head; // the kv head; its first query head here, and how many
    int tile;
};

CUDA_DEVICE struct job job_of(const struct cuda_step_attend &p) {
    const int per = (p.a.group + HEADS - 1) / HEADS, h0 = blockIdx.y % per * HEADS;
    struct job j;
    j.row = p.row0 + blockIdx.x / p.n_tile;
    j.tile = (int)(blockIdx.x % p.n_tile);
    j.kv = blockIdx.y / per;
    j.head = j.kv * p.a.group + h0;
    j.n_head = p.a.group - h0 < HEADS ? p.a.group - h0 : (int)HEADS;
    j.r = 0;
    return j;
}

// Segments cover the rows in order.
CUDA_DEVICE struct dev_seg seg_of_row(const struct cuda_step_attend &p, int64_t row) {
    int lo = 0, hi = p.n_seg - 1;
    while (lo < hi) {
        const int mid = (lo + hi + 1) / 2;
        if (p.a.seg[mid].first_row <= row)
            lo = mid;
        else
            hi = mid - 1;
    }
    return p.a.seg[lo];
}

CUDA_DEVICE struct piece piece_of_row(const struct cuda_step_attend &p, int64_t row) {
    const struct dev_seg s = seg_of_row(p, row);
    return piece_at(s, 1, row - s.first_row, 1);
}

// Elements d..d+7 of a head, zeros behind d_head.
CUDA_DEVICE void load_8(float *x, const float *from, int d, int d_head) {
    for (int i = 0; i < 8; i++) x[i] = d + i < d_head ? from[d + i] : 0.0f;
}
CUDA_DEVICE void load_8(float *x, const bf16_t *from, int d, int d_head) {
    if (d_head % 8 != 0) {
        for (int i = 0; i < 8; i++) x[i] = d + i < d_head ? cuda_bf16_f32(from[d + i]) : 0.0f;
        return;
    }
    const uint4 u = *reinterpret_cast<const uint4 *>(from + d);
    const uint32_t w[4] = {u.x, u.y, u.z, u.w};
    for (int i = 0; i < 8; i++) x[i] = cuda_bf16_f32((bf16_t)(w[i / 2] >> (16 * (i % 2))));
}
CUDA_DEVICE float as_float(float x) {
    return x;
}
CUDA_DEVICE float as_float(bf16_t x) {
    return cuda_bf16_f32(x);
}

template <typename T>
CUDA_DEVICE const T *head_at(const struct cuda_attend &a, const struct piece &p, const void *kv,
                             int64_t j, int head) {
    return static_cast<const T *>(kv) + (seg_key_row(p.s, j) * a.n_kv + head) * a.d_head;
}

// Scores of all keys of the tile: eight lanes a key.
template <typename T>
CUDA_DEVICE void scores(const struct cuda_step_attend &p, const struct job &j, const struct tile &t,
                        const struct view &v, const float *q, struct shared *sh) {
    const int lane = threadIdx.x % LANES, first = threadIdx.x / WARP * (WARP / LANES);
    for (int k0 = first; k0 < CUDA_KEYS; k0 += THREADS / LANES) {
        if (k0 + WARP / LANES <= v.lo || k0 >= v.hi) continue; // the warp sees none of its keys
        const int key = k0 + threadIdx.x % WARP / LANES;
        float sum[HEADS], x[8];
        for (int h = 0; h < HEADS; h++) sum[h] = 0.0f;
        const T *k =
            head_at<T>(p.a, sh->piece, p.a.k, t.begin + (key_seen(v, key) ? key : v.lo), j.kv);
        for (int d = 8 * lane; d < p.a.d_head; d += 8 * LANES) {
            load_8(x, k, d, p.a.d_head);
            for (int h = 0; h < j.n_head; h++)
                for (int i = 0; i < 8; i++) sum[h] = fmaf(q[h * p.width + d + i], x[i], sum[h]);
        }
        for (int h = 0; h < j.n_head; h++) {
            for (int m = LANES / 2; m > 0; m /= 2) sum[h] += cuda_shfl_xor(sum[h], m);
            float s = sum[h] * p.a.scale;
            if (p.a.cap > 0.0f) s = p.a.cap * tanhf(s * p.a.inv_cap);
            const float slope = p.a.slopes != NULL ? p.a.slopes[j.head + h] : 0.0f;
            if (lane == 0) sh->s[h][key] = seen_score(p.a, v, slope, key, s);
        }
    }
}

// Scores to probabilities, a warp a head; their maximum and sum.
CUDA_DEVICE void soften(const struct cuda_step_attend &p, const struct job &j, const struct view &v,
                        struct shared *sh) {
    const int lane = threadIdx.x % WARP;
    for (int h = threadIdx.x / WARP; h < j.n_head; h += THREADS / WARP) {
        float max = SEG_UNSEEN, sum = 0.0f;
        for (int key = lane; key < CUDA_KEYS; key += WARP)
            if (key_seen(v, key)) max = fmaxf(max, sh->s[h][key]);
        for (int m = WARP / 2; m > 0; m /= 2) max = fmaxf(max, cuda_shfl_xor(max, m));
        for (int key = lane; key < CUDA_KEYS; key += WARP) {
            const float x = key_seen(v, key) ? expf(sh->s[h][key] - max) : 0.0f;
            sh->s[h][key] = x;
            sum += x;
        }
        for (int m = WARP / 2; m > 0; m /= 2) sum += cuda_shfl_xor(sum, m);
        if (lane != 0) continue;
        const int64_t at = ((j.row - p.row0) * p.a.n_head + j.head + h) * p.n_tile + j.tile;
        p.max[at] = max;
        p.sum[at] = sum;
    }
}

// Outputs: a thread a dimension. Small heads are shared: threads take every `share`-th key.
template <typename T>
CUDA_DEVICE void weigh(const struct cuda_step_attend &p, const struct job &j, const struct tile &t,
                       const struct view &v, struct shared *sh) {
    const int share = p.a.d_head <= 32 ? 4 : p.a.d_head <= 64 ? 2 : 1, per = THREADS / share;
    const int part = threadIdx.x / per;
    for (int d = threadIdx.x % per; d < (p.a.d_head + per - 1) / per * per; d += per) {
        float sum[HEADS];
        for (int h = 0; h < HEADS; h++) sum[h] = 0.0f;
        for (int key = (v.lo + share - 1 - part) / share * share + part;
             key < v.hi && d < p.a.d_head; key += share) {
            const float x = as_float(head_at<T>(p.a, sh->piece, p.a.v, t.begin + key, j.kv)[d]);
            for (int h = 0; h < j.n_head; h++) sum[h] = fmaf(sh->s[h][key], x, sum[h]);
        }
        for (int h = 0; share > 1 && h < j.n_head; h++) sh->red[h * THREADS + threadIdx.x] = sum[h];
        if (share > 1) __syncthreads();
        if (part > 0 || d >= p.a.d_head) continue;
        for (int h = 0; h < j.n_head; h++) {
            for (int o = 1; o < share; o++) sum[h] += sh->red[h * THREADS + o * per + d];
            const int64_t at = ((j.row - p.row0) * p.a.n_head + j.head + h) * p.n_tile + j.tile;
            p.o[at * p.a.d_head + d] = sum[h];
        }
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) k_tile(struct cuda_step_attend p) {
    CUDA_SMEM(struct shared, sh);
    float *q = reinterpret_cast<float *>(sh + 1); // [HEADS, width]
    struct job j = job_of(p);
    if (threadIdx.x == 0) sh->piece = piece_of_row(p, j.row);
    __syncthreads();
    if (j.tile >= sh->piece.n_tile) return;
    j.r = sh->piece.first;
    const struct tile t = tile_of(sh->piece, j.tile);
    const struct view v = view_of(sh->piece, t, j.r);
    const float *from =
        (t.sink ? p.a.q_sink : p.a.q_win) + (j.row * p.a.n_head + j.head) * p.a.d_head;
    for (int c = threadIdx.x; c < j.n_head * p.width; c += THREADS) {
        const int d = c % p.width;
        q[c] = d < p.a.d_head ? from[c / p.width * p.a.d_head + d] : 0.0f;
    }
    __syncthreads();
    scores<T>(p, j, t, v, q, sh);
    __syncthreads();
    soften(p, j, v, sh);
    __syncthreads();
    weigh<T>(p, j, t, v, sh);
}

// One head of one row from its tiles.
static __global__ void k_join(struct cuda_step_attend p) {
    const int64_t row = p.row0 + blockIdx.x;
    const int n = piece_of_row(p, row).n_tile;
    const int64_t at = ((int64_t)blockIdx.x * p.a.n_head + blockIdx.y) * p.n_tile;
    float max = SEG_UNSEEN, all = 0.0f;
    for (int i = 0; i < n; i++) max = fmaxf(max, p.max[at + i]);
    for (int i = 0; i < n; i++) all = fmaf(p.sum[at + i], expf(p.max[at + i] - max), all);
    const float inv = 1.0f / all;
    for (int d = threadIdx.x; d < p.a.d_head; d += WARP) {
        float sum = 0.0f;
        for (int i = 0; i < n; i++)
            sum = fmaf(p.o[(at + i) * p.a.d_head + d], expf(p.max[at + i] - max), sum);
        p.a.out[(row * p.a.n_head + blockIdx.y) * p.a.d_head + d] = sum * inv + 0.0f;
    }
}

// ---- launchers

extern "C" size_t cuda_step_attend_smem(int width) {
    return sizeof(struct shared) + sizeof(float) * HEADS * (size_t)width;
}

extern "C" void cuda_step_attend_rows(cudaStream_t s, const struct cuda_step_attend *p, bool bf16) {
    const size_t smem = cuda_step_attend_smem(p->width);
    const int per = (p->a.group + HEADS - 1) / HEADS;
    const dim3 grid((unsigned)(p->n_row * p->n_tile), (unsigned)(p->a.n_kv * per));
    if (bf16) {
        CUDA_ALLOW_SMEM((k_tile<bf16_t>), smem);
        CUDA_LAUNCH((k_tile<bf16_t>), grid, THREADS, smem, s, *p);
    } else {
        CUDA_ALLOW_SMEM((k_tile<float>), smem);
        CUDA_LAUNCH((k_tile<float>), grid, THREADS, smem, s, *p);
    }
    CUDA_LAUNCH(k_join, dim3((unsigned)p->n_row, (unsigned)p->a.n_head), WARP, 0, s, *p);
}
