#include "kernels/dev.h"

int dev_cuda_count(void) {
    return 0;
}

enum status dev_open_cuda(struct dev **out, int ordinal, const struct dev_config *c,
                          struct err *e) {
    (void)ordinal;
    (void)c;
    *out = NULL;
    return err_fail(e, E_UNSUPPORTED, "built without CUDA (make CUDA=1)");
}
