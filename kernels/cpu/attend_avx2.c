#include "kernels/cpu/decode.h"

#if defined(__x86_64__)
#define VEC_ISA 1
#include "kernels/cpu/vec.h"

#include "kernels/cpu/kern_attend.inc.h"

const struct cpu_attend_rows cpu_attend_rows_avx2 = {
    .lanes = VL, .scores = scores, .values = values};
#else
typedef int cpu_no_attend_avx2; // a translation unit must not be empty
#endif
