/* kern_avx2.c again, with int8 products by the AVX-VNNI instruction. */
#define VEC_VNNI
#define CPU_TABLE cpu_kernels_avxvnni
#include "kernels/cpu/kern_avx2.c"
