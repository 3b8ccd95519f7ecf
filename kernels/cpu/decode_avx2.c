#include "kernels/cpu/decode.h"

#if defined(__x86_64__)
#define VEC_ISA 1
#include "kernels/cpu/vec.h"

#include "kernels/cpu/kern_decode.inc.h"

const struct cpu_decode cpu_decode_avx2 = {
    .attend = &cpu_attend_rows_avx2, .lanes = VL, .pairs = false, .pack = pack, .panels = panels};
#else
typedef int cpu_no_decode_avx2; // a translation unit must not be empty
#endif
