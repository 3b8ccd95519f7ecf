/* Attention on tensor cores, for bf16 caches: banded, with sinks, in tiles of CUDA_KEYS keys with an online
 * softmax (Dao, arXiv:2307.08691). Rows are (token, head of the group) pairs, so that the heads of a group
 * share what is loaded. Four warps have MT times 16 rows each.
 *
 * Keys and values come through asynchronous copies: V of a tile while its scores are computed, K of the next
 * tile while its softmax and the product with V are.
 *
 * Why a row has the same bits wherever its item begins: it meets the same tiles in the same order; its scores
 * are one chain over d; maximum and sum follow the columns of the tile, which lanes and columns decide; a key
 * that it does not see adds p = 0 to sums, which changes a zero's sign at most, and the end makes zeros
 * positive; a tile in which it sees nothing scales by exp2(0) = 1. */
#include "kernels/cuda/seg.cuh"

enum { THREADS = 128, WARP = 32, PAD = 8 };
#define LOG2E 1.4426950408889634f

// A warp's rows and their running softmax. Row h of m16 tile m is row 16 m + 8 h + lane / 4 of the warp.
template <int D, int MT> struct state {
    float o[MT][D / 8][4];
    float max[MT][2], sum[MT][2], slope[MT][2];
    int r[MT][2];   // token, from the segment's begin
    int tok0, tok1; // of the warp's rows
};

template <int D, int MT> struct shared {
    bf16_t q[64 * MT][D + PAD], k[CUDA_KEYS][D + PAD], v[CUDA_KEYS][D + PAD];
    struct piece piece; // registers are short
};

/* cap * tanh(x / cap) to 1e-7 of the cap, which is below what bf16 operands leave. tanhf, 64 times, would cost
 * the registers that the accumulators live in. */
CUDA_DEVICE float capped(float x, float cap, float inv_cap) {
    const float e = exp2f(-2.0f * LOG2E * fabsf(x * inv_cap));
    return copysignf(cap * (1.0f - e) / (1.0f + e), x);
}

CUDA_DEVICE const bf16_t *head_of(const struct cuda_attend &a, const void *kv, int64_t row) {
    return static_cast<const bf16_t *>(kv) + (row * a.n_kv + blockIdx.y) * a.d_head;
}

// A tile of keys or values. Keys that no row of the item sees are zeros, never stale memory.
template <int D>
CUDA_DEVICE void load_tile(const struct cuda_attend &a, const struct piece &p, int i,
                           const void *kv, bf16_t (*to)[D + PAD]) {
    const struct tile t = tile_of(p, i);
    for (int c = threadIdx.x; c < CUDA_KEYS * (D / 8); c += THREADS) {
        const int key = c / (D / 8), col = c % (D / 8) * 8;
        const bool seen = key >= t.lo && key < t.hi;
        const bf16_t *from = head_of(a, kv, seen ? seg_key_row(p.s, t.begin + key) : 0);
        if (a.d_head % 8 == 0) {
            const bool there = seen && col < a.d_head;
            cuda_copy_async(&to[key][col], there ? from + col : from, there);
        } else {
            for (int e = col; e < col + 8; e++)
                to[key][e] = seen && e < a.d_head ? from[e] : (bf16_t)0;
        }
    }
}

// The queries of the item, for sinks or for the window.
template <int D, int MT>
CUDA_DEVICE void load_q(const struct cuda_attend &a, const struct piece &p, const float *q,
                        bf16_t (*to)[D + PAD]) {
    for (int c = threadIdx.x; c < 64 * MT * (D / 2); c += THREADS) {
        const int row = c / (D / 2), col = c % (D / 2) * 2;
        const int64_t flat = p.first + row, tok = p.s.first_row + flat / p.group;
        const int64_t head = (int64_t)blockIdx.y * p.group + flat % p.group;
        const float *from = q + (tok * a.n_head + head) * a.d_head + col;
        const bool there = row < p.n;
        const float x = there && col < a.d_head ? from[0] : 0.0f;
        const float y = there && col + 1 < a.d_head ? from[1] : 0.0f;
        *reinterpret_cast<uint32_t *>(&to[row][col]) = cuda_pack_bf16(x, y);
    }
}

template <int D, int MT>
CUDA_DEVICE void start(const struct cuda_attend &a, const struct piece &p,
                       struct state<D, MT> *st) {
    const int lane = threadIdx.x % WARP, w0 = threadIdx.x / WARP * 16 * MT;
    const int last = p.n - 1, wl = w0 + 16 * MT - 1;
    st->tok0 = (int)((p.first + (w0 < last ? w0 : last)) / p.group);
    st->tok1 = (int)((p.first + (wl < last ? wl : last)) / p.group);
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = w0 + 16 * m + 8 * h + lane / 4;
            const int64_t flat = p.first + (row < last ? row : last);
            st->r[m][h] = (int)(flat / p.group);
            st->slope[m][h] =
                a.slopes != NULL ? a.slopes[blockIdx.y * p.group + flat % p.group] : 0.0f;
            st->max[m][h] = SEG_UNSEEN;
            st->sum[m][h] = 0.0f;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) st->o[m][n][c] = 0.0f;
    }
}

// s = q k^T, for the groups of 16 keys g0..g1-1.
template <int D, int MT>
CUDA_DEVICE void scores(float (*s)[CUDA_KEYS / 8][4], const struct shared<D, MT> &sh, int g0,
                        int g1) {
    const int lane = threadIdx.x % WARP, w0 = threadIdx.x / WARP * 16 * MT;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < CUDA_KEYS / 8; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) s[m][n][c] = 0.0f;
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        uint32_t q[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            cuda_ldmatrix(q[m], &sh.q[w0 + 16 * m + lane % 16][d + lane / 16 * 8]);
#pragma unroll
        for (int g = 0; g < CUDA_KEYS / 16; g++) {
            if (g < g0 || g >= g1) continue;
            uint32_t k[4];
            cuda_ldmatrix(k, &sh.k[16 * g + lane / 16 * 8 + lane % 8][d + lane / 8 % 2 * 8]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                cuda_mma(s[m][2 * g], q[m], k[0], k[1]);
                cuda_mma(s[m][2 * g + 1], q[m], k[2], k[3]);
            }
        }
    }
}

// Scores to probabilities, in place; what the row has so far shrinks where its maximum grows.
template <int D, int MT>
CUDA_DEVICE void soften(const struct cuda_attend &a, const struct piece &p, const struct tile &t,
                        struct state<D, MT> *st, float (*s)[CUDA_KEYS / 8][4]) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const struct view v = view_of(p, t, st->r[m][h]);
            float max = st->max[m][h];
#pragma unroll
            for (int i = 0; i < CUDA_KEYS / 4; i++) {
                float *x = &s[m][i / 2][2 * h + i % 2];
                *x *= a.scale;
                if (a.cap > 0.0f) *x = capped(*x, a.cap, a.inv_cap);
                *x = seen_score(a, v, st->slope[m][h], i / 2 * 8 + lane % 4 * 2 + i % 2, *x);
                max = fmaxf(max, *x);
            }
            max = fmaxf(max, cuda_shfl_xor(max, 1));
            max = fmaxf(max, cuda_shfl_xor(max, 2));
            const float shrink = exp2f((st->max[m][h] - max) * LOG2E);
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < CUDA_KEYS / 4; i++) {
                float *x = &s[m][i / 2][2 * h + i % 2];
                const int key = i / 2 * 8 + lane % 4 * 2 + i % 2;
                *x = key_seen(v, key) ? exp2f((*x - max) * LOG2E) : 0.0f;
                sum += *x;
            }
            st->sum[m][h] = st->sum[m][h] * shrink + sum;
            st->max[m][h] = max;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                st->o[m][n][2 * h] *= shrink;
                st->o[m][n][2 * h + 1] *= shrink;
            }
        }
}

// o += p v, for the groups of 16 keys g0..g1-1.
template <int D, int MT>
CUDA_DEVICE void weigh(struct state<D, MT> *st, float (*s)[CUDA_KEYS / 8][4],
                       const struct shared<D, MT> &sh, int g0, int g1) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int g = 0; g < CUDA_KEYS / 16; g++) {
        if (g < g0 || g >= g1) continue;
        uint32_t p[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p[m][i] = cuda_pack_bf16(s[m][2 * g + i / 2][i % 2 * 2],
                                         s[m][2 * g + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t v[4];
            cuda_ldmatrix_turned(v, &sh.v[16 * g + lane % 16][8 * n + lane / 16 * 8]);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                cuda_mma(st->o[m][n], p[m], v[0], v[1]);
                cuda_mma(st->o[m][n + 1], p[m], v[2], v[3]);
            }
        }
    }
}

template <int D, int MT>
CUDA_DEVICE void finish(const struct cuda_attend &a, const struct piece &p,
                        struct state<D, MT> *st) {
    const int lane = threadIdx.x % WARP, w0 = threadIdx.x / WARP * 16 * MT;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = st->sum[m][h];
            sum += cuda_shfl_xor(sum, 1);
            sum += cuda_shfl_xor(sum, 2);
            const float inv = 1.0f / sum;
            const int row = w0 + 16 * m + 8 * h + lane / 4;
            if (row >= p.n) continue;
            const int64_t flat = p.first + row, tok = p.s.first_row + flat / p.group;
            const int64_t head = (int64_t)blockIdx.y * p.group + flat % p.group;
            float *out = a.out + (tok * a.n_head + head) * a.d_head;
#pragma unroll
            for (int i = 0; i < D / 4; i++) {
                const int col = i / 2 * 8 + lane % 4 * 2 + i % 2;
                if (col < a.d_head) out[col] = st->o[m][i / 2][2 * h + i % 2] * inv + 0.0f;
            }
        }
}

template <int D, int MT>
static __global__ void __launch_bounds__(THREADS) k_attend(struct cuda_attend a) {
    typedef struct shared<D, MT> tiles;
    CUDA_SMEM(tiles, sh);
    const struct piece &p = sh->piece;
    struct state<D, MT> st;
    if (threadIdx.x == 0) sh->piece = piece_of(a, blockIdx.x, 64 * MT);
    __syncthreads();
    start(a, p, &st);
    load_tile<D>(a, p, 0, a.k, sh->k);
    cuda_copies_commit();
    for (int i = 0; i < p.n_tile; i++) {
        if (i == 0 || i == p.n_sink_tile)
            load_q<D, MT>(a, p, i < p.n_sink_tile ? a.q_sink : a.q_win, sh->q);
        cuda_copies_wait<0>();
        __syncthreads(); // K and the queries are there, and nobody reads the last V any more
        load_tile<D>(a, p, i, a.v, sh->v);
        cuda_copies_commit();
        const struct tile t = tile_of(p, i);
        struct tile mine = t;
        tile_view(p, &mine, st.tok0, st.tok1);
        const int g0 = mine.lo / 16, g1 = (mine.hi + 15) / 16;
        const bool sees = mine.lo < mine.hi;
        float s[MT][CUDA_KEYS / 8][4];
        if (sees) scores<D, MT>(s, *sh, g0, g1);
        __syncthreads(); // nobody reads K any more
        if (i + 1 < p.n_tile) load_tile<D>(a, p, i + 1, a.k, sh->k);
        cuda_copies_commit();
        if (sees) soften<D, MT>(a, p, t, &st, s);
        cuda_copies_wait<1>();
        __syncthreads(); // V is there
        if (sees) weigh<D, MT>(&st, s, *sh, g0, g1);
    }
    finish(a, p, &st);
}

// ---- launchers

template <int D, int MT> static void launch(cudaStream_t s, const struct cuda_attend *p) {
    const size_t smem = sizeof(struct shared<D, MT>);
    const dim3 grid((unsigned)p->n_item, (unsigned)p->n_kv);
    CUDA_ALLOW_SMEM((k_attend<D, MT>), smem);
    CUDA_LAUNCH((k_attend<D, MT>), grid, THREADS, smem, s, *p);
}

extern "C" int cuda_attend_rows(int d_head) {
    return d_head <= 128 ? 128 : 64;
}

extern "C" size_t cuda_attend_smem(int d_head) {
    return d_head <= 128 ? sizeof(struct shared<128, 2>) : sizeof(struct shared<256, 1>);
}

extern "C" void cuda_attend_mma(cudaStream_t s, const struct cuda_attend *p) {
    if (p->d_head <= 32)
        launch<32, 2>(s, p);
    else if (p->d_head <= 64)
        launch<64, 2>(s, p);
    else if (p->d_head <= 96)
        launch<96, 2>(s, p);
    else if (p->d_head <= 128)
        launch<128, 2>(s, p);
    else
        launch<256, 1>(s, p);
}
