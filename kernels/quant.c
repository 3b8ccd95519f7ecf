#include "kernels/quant.inc.h"

bool dev_quant_floats(float *out, const unsigned char *p, enum dtype type, int64_t n) {
    return quant_floats(out, p, type, n);
}

bool dev_quant_finite(const unsigned char *p, enum dtype type) {
    return quant_finite(p, type);
}
