/* Rotary embedding: angles in double, then turns in f32. */
#include "kernels/cuda/intrin.cuh"

enum { THREADS = 256 };

static __global__ void k_angles(struct cuda_angles p) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.n_row * p.n_k) return;
    const int64_t row = i / p.n_k;
    const int k = (int)(i % p.n_k);
    double s = 0, c = 0;
    sincos((double)p.pos[row] * p.freq[k], &s, &c);
    float *ang = p.ang + row * 2 * p.n_pair + p.k0 + k;
    ang[0] = (float)(p.mscale * c);
    ang[p.n_pair] = (float)(p.mscale * s);
}

// A thread turns one pair, or copies one element behind the pairs; y may be x.
static __global__ void k_rope(float *y, const float *x, const float *ang, struct dev_rope p,
                              int64_t n_row) {
    const int n_pair = p.n_rot / 2, per = n_pair + p.d_head - p.n_rot;
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= n_row * p.n_head * per) return;
    const int64_t head = at / per; // of all rows
    const int k = (int)(at % per);
    const float *from = x + head * p.d_head;
    float *to = y + head * p.d_head;
    if (k >= n_pair) {
        to[k + n_pair] = from[k + n_pair];
        return;
    }
    const int i = p.interleaved ? 2 * k : k, j = p.interleaved ? 2 * k + 1 : k + n_pair;
    const float *turn = ang + head / p.n_head * p.n_rot;
    const float a = from[i], b = from[j], c = turn[k], s = turn[n_pair + k];
    to[i] = a * c - b * s;
    to[j] = b * c + a * s;
}

// ---- launchers

extern "C" void cuda_angles_rows(cudaStream_t s, const struct cuda_angles *p) {
    const int64_t n = p->n_row * p->n_k;
    CUDA_LAUNCH(k_angles, (unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, s, *p);
}

extern "C" void cuda_rope_rows(cudaStream_t s, float *y, const float *x, const float *ang,
                               const struct dev_rope *p, int64_t n_row) {
    const int64_t n = n_row * p->n_head * (p->n_rot / 2 + p->d_head - p->n_rot);
    CUDA_LAUNCH(k_rope, (unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, s, y, x, ang, *p,
                n_row);
}
