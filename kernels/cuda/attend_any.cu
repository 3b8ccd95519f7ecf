/* Attention in f32, for f32 caches and for heads that the tensor-core kernel does not have. A block has
 * CUDA_ANY_ROWS rows, eight lanes each; keys and values pass through shared memory in slices of SLICE
 * dimensions, so that any d_head fits. The order of every sum is the tile's: see attend.cu. */
#include "kernels/cuda/seg.cuh"

enum { THREADS = 128, LANES = 8, SLICE = 64, PER = CUDA_KEYS / LANES, COLS = SLICE / LANES };

struct slice {
    float x[CUDA_KEYS][SLICE + 1]; // keys or values
    float p[CUDA_ANY_ROWS][CUDA_KEYS];
};

CUDA_DEVICE float as_float(float x) {
    return x;
}
CUDA_DEVICE float as_float(bf16_t x) {
    return cuda_bf16_f32(x);
}
// Queries are rounded to the cache's type.
CUDA_DEVICE float rounded(float x, const float *) {
    return x;
}
CUDA_DEVICE float rounded(float x, const bf16_t *) {
    return cuda_bf16_f32(cuda_f32_bf16(x));
}

// Dimensions d0.. of a tile; zeros where no row sees a key, and behind d_head.
template <typename T>
CUDA_DEVICE void load_slice(const struct cuda_attend &a, const struct piece &p,
                            const struct tile &t, const void *kv, int d0, struct slice *sl) {
    const T *data = static_cast<const T *>(kv);
    for (int c = threadIdx.x; c < CUDA_KEYS * SLICE; c += THREADS) {
        const int key = c / SLICE, d = d0 + c % SLICE;
        float x = 0.0f;
        if (key >= t.lo && key < t.hi && d < a.d_head)
            x = as_float(
                data[(seg_key_row(p.s, t.begin + key) * a.n_kv + blockIdx.y) * a.d_head + d]);
        sl->x[key][c % SLICE] = x;
    }
}

CUDA_DEVICE int64_t row_offset(const struct cuda_attend &a, const struct piece &p, int row) {
    const int64_t flat = p.first + row, tok = p.s.first_row + flat / p.group;
    return (tok * a.n_head + (int64_t)blockIdx.y * p.group + flat % p.group) * a.d_head;
}

template <typename T>
CUDA_DEVICE void load_queries(const struct cuda_attend &a, const struct piece &p, const float *from,
                              float *q) {
    for (int c = threadIdx.x; c < CUDA_ANY_ROWS * a.d_head; c += THREADS) {
        const int row = c / a.d_head;
        const T *type = NULL;
        q[c] = row < p.n ? rounded(from[row_offset(a, p, row) + c % a.d_head], type) : 0.0f;
    }
}

// s[i] = q . key lane + LANES i
template <typename T>
CUDA_DEVICE void dots(const struct cuda_attend &a, const struct piece &p, const struct tile &t,
                      const float *q, struct slice *sl, float *s) {
    const int lane = threadIdx.x % LANES;
    for (int i = 0; i < PER; i++) s[i] = 0.0f;
    for (int d0 = 0; d0 < a.d_head; d0 += SLICE) {
        __syncthreads(); // the last slice has been read
        load_slice<T>(a, p, t, a.k, d0, sl);
        __syncthreads();
        const int n = a.d_head - d0 < SLICE ? a.d_head - d0 : SLICE;
        for (int d = 0; d < n; d++)
            for (int i = 0; i < PER; i++) s[i] += q[d0 + d] * sl->x[lane + LANES * i][d];
    }
}

// Over the eight lanes of a row; the same value in each.
CUDA_DEVICE float lanes_max(float x) {
    for (int m = 1; m < LANES; m *= 2) x = fmaxf(x, cuda_shfl_xor(x, m));
    return x;
}
CUDA_DEVICE float lanes_sum(float x) {
    for (int m = 1; m < LANES; m *= 2) x += cuda_shfl_xor(x, m);
    return x;
}

// o = o shrink + p v
template <typename T>
CUDA_DEVICE void weigh(const struct cuda_attend &a, const struct piece &p, const struct tile &t,
                       const float *prob, float shrink, struct slice *sl, float *o) {
    const int lane = threadIdx.x % LANES;
    for (int d0 = 0; d0 < a.d_head; d0 += SLICE) {
        __syncthreads();
        load_slice<T>(a, p, t, a.v, d0, sl);
        __syncthreads();
        float acc[COLS];
        for (int c = 0; c < COLS; c++) {
            const int d = d0 + lane + LANES * c;
            acc[c] = d < a.d_head ? o[d] * shrink : 0.0f;
        }
        for (int key = t.lo; key < t.hi; key++)
            for (int c = 0; c < COLS; c++) acc[c] += prob[key] * sl->x[key][lane + LANES * c];
        for (int c = 0; c < COLS; c++)
            if (d0 + lane + LANES * c < a.d_head) o[d0 + lane + LANES * c] = acc[c];
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) k_attend_any(struct cuda_attend a) {
    CUDA_SMEM(struct slice, sl);
    float *all_q = reinterpret_cast<float *>(sl + 1), *all_o = all_q + CUDA_ANY_ROWS * a.d_head;
    const struct piece p = piece_of(a, blockIdx.x, CUDA_ANY_ROWS);
    const int row = threadIdx.x / LANES, lane = threadIdx.x % LANES, last = p.n - 1;
    const int64_t flat = p.first + (row < last ? row : last), r = flat / p.group;
    const float slope = a.slopes != NULL ? a.slopes[blockIdx.y * p.group + flat % p.group] : 0.0f;
    float *o = all_o + row * a.d_head, max = SEG_UNSEEN, sum = 0.0f, s[PER];
    for (int d = lane; d < a.d_head; d += LANES) o[d] = 0.0f;
    for (int i = 0; i < p.n_tile; i++) {
        if (i == 0 || i == p.n_sink_tile)
            load_queries<T>(a, p, i < p.n_sink_tile ? a.q_sink : a.q_win, all_q);
        const struct tile t = tile_of(p, i);
        const struct view v = view_of(p, t, r);
        dots<T>(a, p, t, all_q + row * a.d_head, sl, s);
        float most = max, part = 0.0f;
        for (int k = 0; k < PER; k++) {
            s[k] *= a.scale;
            if (a.cap > 0.0f) s[k] = a.cap * tanhf(s[k] * a.inv_cap);
            s[k] = seen_score(a, v, slope, lane + LANES * k, s[k]);
            most = fmaxf(most, s[k]);
        }
        most = lanes_max(most);
        for (int k = 0; k < PER; k++) {
            const int key = lane + LANES * k;
            const float x = key_seen(v, key) ? expf(s[k] - most) : 0.0f;
            sl->p[row][key] = x;
            part += x;
        }
        const float shrink = expf(max - most);
        sum = sum * shrink + lanes_sum(part);
        max = most;
        weigh<T>(a, p, t, sl->p[row], shrink, sl, o);
    }
    const float inv = 1.0f / sum;
    if (row < p.n)
        for (int d = lane; d < a.d_head; d += LANES)
            a.out[row_offset(a, p, row) + d] = o[d] * inv + 0.0f;
}

// ---- launchers

extern "C" size_t cuda_attend_any_smem(int d_head) {
    return sizeof(struct slice) + 2 * sizeof(float) * CUDA_ANY_ROWS * (size_t)d_head;
}

extern "C" void cuda_attend_any(cudaStream_t s, const struct cuda_attend *p, bool bf16) {
    const size_t smem = cuda_attend_any_smem(p->d_head);
    const dim3 grid((unsigned)p->n_item, (unsigned)p->n_kv);
    if (bf16) {
        CUDA_ALLOW_SMEM((k_attend_any<bf16_t>), smem);
        CUDA_LAUNCH((k_attend_any<bf16_t>), grid, THREADS, smem, s, *p);
    } else {
        CUDA_ALLOW_SMEM((k_attend_any<float>), smem);
        CUDA_LAUNCH((k_attend_any<float>), grid, THREADS, smem, s, *p);
    }
}
