/* The device under test: the first GPU. Without one the program is skipped. */
#include "tests/support_ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

int ops_list(struct ops_dev out[8]) {
    if (dev_cuda_count() == 0) {
        printf("no GPU\n");
        exit(77);
    }
    out[0] = (struct ops_dev){CPU_PORTABLE, DT_F32, DEV_BLOCKS, false};
    out[1] = (struct ops_dev){CPU_PORTABLE, DT_BF16, DEV_BLOCKS, false};
    return 2;
}

struct dev *ops_open(const struct ops_dev *c, int n_thread) {
    struct dev *d = NULL;
    struct err e = {.code = OK};
    const struct dev_config cfg = {.n_thread = n_thread, .compute = c->compute};
    if (dev_open_cuda(&d, 0, &cfg, &e) != OK) fail_msg("%s", e.msg);
    return d;
}

bool ops_slow(void) {
    return false;
}
