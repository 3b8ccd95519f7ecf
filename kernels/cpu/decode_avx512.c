#include "kernels/cpu/decode.h"

#if defined(__x86_64__)
#define VEC_ISA 2
#include "kernels/cpu/vec.h"

#include "kernels/cpu/kern_decode.inc.h"
#include "kernels/cpu/kern_decode_amx.inc.h"

const struct cpu_decode cpu_decode_avx512 = {
    .attend = &cpu_attend_rows_avx512, .lanes = VL, .pairs = true, .pack = pack, .panels = panels};
const struct cpu_decode cpu_decode_amx = {.attend = &cpu_attend_rows_avx512,
                                          .lanes = VL,
                                          .pairs = true,
                                          .pack = pack,
                                          .panels = amx_panels};
#else
typedef int cpu_no_decode_avx512; // a translation unit must not be empty
#endif
