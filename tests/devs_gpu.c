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

// Where there are fewer GPUs, some have several handles.
struct dev *ops_open_nth(const struct ops_dev *c, int nth) {
    struct dev *d = NULL;
    struct err e = {.code = OK};
    const struct dev_config cfg = {
        .n_thread = 1, .compute = c->compute, .purpose = c->purpose, .int8 = c->int8};
    if (dev_open_cuda(&d, nth % dev_cuda_count(), &cfg, &e) != OK) fail_msg("%s", e.msg);
    return d;
}

struct dev *ops_open(const struct ops_dev *c, int n_thread) {
    (void)n_thread;
    return ops_open_nth(c, 0);
}

bool ops_slow(void) {
    return false;
}

bool ops_cpu(void) {
    return false;
}
