/* What kernels use beyond C++: the tensor cores, asynchronous copies, shuffles, conversions, shared
 * memory and the launch itself. Nothing else in kernels/cuda/ names an instruction, so that the tests can
 * put a header of the same name in front of this one and run the kernels on a CPU.
 *
 * Lanes of a warp call together whatever says `warp`. */
#ifndef BASIN_KERNELS_CUDA_INTRIN_CUH
#define BASIN_KERNELS_CUDA_INTRIN_CUH

#include "kernels/cuda/kern.h"

#define CUDA_DEVICE static __device__ __forceinline__

/* Queues kernel(args) on a stream. */
#define CUDA_LAUNCH(kernel, grid, block, smem, stream, ...)                                        \
    kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
/* Lets a kernel take that much dynamic shared memory: more than 48 KiB must be asked for. */
#define CUDA_ALLOW_SMEM(kernel, bytes)                                                             \
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))
/* The dynamic shared memory of the block. */
#define CUDA_SMEM(type, name)                                                                      \
    extern __shared__ __align__(16) unsigned char cuda_smem_bytes[];                               \
    type *name = reinterpret_cast<type *>(cuda_smem_bytes)

/* ---- conversions */

CUDA_DEVICE float cuda_bf16_f32(bf16_t h) {
    return __uint_as_float((uint32_t)h << 16);
}
CUDA_DEVICE bf16_t cuda_f32_bf16(float f) {
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
/* `lo` in the lower half. */
CUDA_DEVICE uint32_t cuda_pack_bf16(float lo, float hi) {
    uint32_t u;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(hi), "f"(lo));
    return u;
}
CUDA_DEVICE float cuda_f16_f32(uint16_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

/* A product that no addition is contracted with. */
CUDA_DEVICE float cuda_mul(float a, float b) {
    return __fmul_rn(a, b);
}

/* ---- warp */

CUDA_DEVICE float cuda_shfl_xor(float x, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, x, mask);
}
CUDA_DEVICE double cuda_shfl_xor(double x, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, x, mask);
}
/* Whether a condition holds in some lane. */
CUDA_DEVICE bool cuda_any(bool x) {
    return __any_sync(0xFFFFFFFFu, x) != 0;
}

/* ---- tensor cores, warp. Fragments of mma.m16n8k16 in the layout of the PTX manual: with g = lane / 4 and
 * c = 2 (lane % 4), d[0], d[1] are (row g, columns c, c + 1) and d[2], d[3] the same of row g + 8. */

/* d += a b: a bf16 [16, 16], b bf16 [16, 8], d f32 [16, 8]. */
CUDA_DEVICE void cuda_mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory: lane l names row l % 8 of matrix l / 8 and gets
 * elements (l / 4, 2 (l % 4)) and its right neighbour of each; with _turned of each transposed. */
CUDA_DEVICE void cuda_ldmatrix(uint32_t r[4], const bf16_t *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
CUDA_DEVICE void cuda_ldmatrix_turned(uint32_t r[4], const bf16_t *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* ---- copies of 16 bytes from device to shared memory that go on behind the thread's back: those before
 * the last `left` commits of this thread are there after cuda_copies_wait<left>(), for the other threads of
 * the block after a barrier. Both addresses are multiples of 16; with `there` false zeros are written. */
CUDA_DEVICE void cuda_copy_async(void *shared, const void *global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(there ? 16 : 0)
                 : "memory");
}
CUDA_DEVICE void cuda_copies_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int left> CUDA_DEVICE void cuda_copies_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

#endif
