/* Plain C with the compiler's vectors of four floats. */
#define VEC_ISA 0
#include "kernels/cpu/vec.h"

#include "kernels/cpu/kern_attend.inc.h"

const struct cpu_attend_rows cpu_attend_rows_portable = {
    .lanes = VL, .scores = scores, .values = values};
