/* Plain C with the compiler's vectors of four floats. */
#define VEC_ISA 0
#include "kernels/cpu/vec.h"

#include "kernels/cpu/kern_decode.inc.h"

const struct cpu_decode cpu_decode_portable = {.attend = &cpu_attend_rows_portable,
                                               .lanes = VL,
                                               .pairs = false,
                                               .pack = pack,
                                               .panels = panels};
