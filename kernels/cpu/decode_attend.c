#include "kernels/cpu/cpu_impl.h"
void cpu_decode_attend(struct dev *d, const struct dev_attend *a, int64_t n_row) {
    cpu_attend(d, a, n_row);
}
