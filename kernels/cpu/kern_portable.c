/* Plain C with the compiler's vectors of four floats. */
#include "kernels/cpu/kern.h"

#define VEC_ISA 0
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"

enum { NV = 2, MR_MAX = 4, TILE_KEYS = 64 };
#define TILE_SIZES(X)                                                                              \
    X(1);                                                                                          \
    X(4)
#include "kernels/cpu/kern_gemm.inc.h"
#include "kernels/cpu/kern_rows.inc.h"
#include "kernels/cpu/kern_soft.inc.h"

static void transpose(uint32_t *dst, int64_t ldd, int n_dst, const uint32_t *src, int64_t lds,
                      int n_i, int64_t n_k) {
    for (int64_t k = 0; k < n_k; k++)
        for (int i = 0; i < n_dst; i++) dst[k * ldd + i] = i < n_i ? src[i * lds + k] : 0;
}

#define CPU_TABLE cpu_kernels_portable
#define CPU_TABLE_ISA CPU_PORTABLE
#include "kernels/cpu/kern_table.inc.h"
