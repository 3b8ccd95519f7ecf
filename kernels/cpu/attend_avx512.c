#include "kernels/cpu/decode.h"

#if defined(__x86_64__)
#define VEC_ISA 2
#include "kernels/cpu/vec.h"

#include "kernels/cpu/kern_attend.inc.h"

const struct cpu_attend_rows cpu_attend_rows_avx512 = {
    .lanes = VL, .scores = scores, .values = values};
#else
typedef int cpu_no_attend_avx512; // a translation unit must not be empty
#endif
