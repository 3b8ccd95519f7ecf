/* Log-softmax of a row of logits in parts of CUDA_PART: what the head and the sampler both take from a row, so that
 * a token's log-probability has the same bits from either. A part is one warp's; parts are joined by one warp. */
#ifndef BASIN_KERNELS_CUDA_SOFT_CUH
#define BASIN_KERNELS_CUDA_SOFT_CUH

#include "kernels/cuda/elem.cuh"

#include <float.h>

enum { SOFT_WARP = 32, SOFT_PER = CUDA_PART / SOFT_WARP };

CUDA_DEVICE double soft_nan(void) {
    return __longlong_as_double(0x7FF8000000000000LL);
}

/* Elements lane + 32 i of a part of n are x[i]. With `strict` the sum of a part that holds NaN or infinity is NaN;
 * else -infinity counts as nothing. The same value in every lane. */
CUDA_DEVICE struct cuda_part soft_part(const float x[SOFT_PER], int n, bool strict) {
    const int lane = threadIdx.x % SOFT_WARP;
    float max = -FLT_MAX, sum = 0.0f;
    bool bad = false;
    for (int i = 0; i < SOFT_PER; i++) {
        if (lane + SOFT_WARP * i >= n) continue;
        bad = bad || !elem_finite(x[i]);
        max = fmaxf(max, x[i]);
    }
    for (int m = SOFT_WARP / 2; m > 0; m /= 2) max = fmaxf(max, cuda_shfl_xor(max, m));
    for (int i = 0; i < SOFT_PER; i++)
        if (lane + SOFT_WARP * i < n) sum += expf(x[i] - max);
    for (int m = SOFT_WARP / 2; m > 0; m /= 2) sum += cuda_shfl_xor(sum, m);
    if (cuda_any(bad) && strict) sum = (float)soft_nan();
    const struct cuda_part p = {max, sum};
    return p;
}

struct soft {
    float max;
    double log_sum; // NaN: a logit was not finite
};
/* All parts of a row; the same value in every lane. */
CUDA_DEVICE struct soft soft_join(const struct cuda_part *p, int64_t n) {
    const int lane = threadIdx.x % SOFT_WARP;
    float max = -FLT_MAX;
    double sum = 0;
    for (int64_t i = lane; i < n; i += SOFT_WARP) max = fmaxf(max, p[i].max);
    for (int m = SOFT_WARP / 2; m > 0; m /= 2) max = fmaxf(max, cuda_shfl_xor(max, m));
    for (int64_t i = lane; i < n; i += SOFT_WARP)
        sum = fma((double)p[i].sum, exp((double)p[i].max - (double)max), sum);
    for (int m = SOFT_WARP / 2; m > 0; m /= 2) sum += cuda_shfl_xor(sum, m);
    const struct soft s = {max, log(sum)};
    return s;
}

CUDA_DEVICE double soft_logp(float logit, const struct soft &s) {
    return (double)logit - (double)s.max - s.log_sum;
}

#endif
