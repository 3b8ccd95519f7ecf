/* The devices under test: simulated GPUs, in sizes that make small tests cross every border. */
#include "kernels/cuda/cuda_impl.h"
#include "tests/support_ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct cuda_tune small = {
    .rows = 16, .vocab = 256, .staging_bytes = 4096, .raw_bytes = 2048};

// Each kind is two devices, so that all four orders of tests/simt/simt.h come up.
int ops_list(struct ops_dev out[8]) {
    out[0] = (struct ops_dev){CPU_PORTABLE, DT_F32, DEV_BLOCKS, false};
    out[1] = (struct ops_dev){CPU_PORTABLE, DT_BF16, DEV_BLOCKS, false};
    out[2] = (struct ops_dev){CPU_AVX2, DT_BF16, DEV_BLOCKS, false};
    return 3;
}

struct dev *ops_open(const struct ops_dev *c, int n_thread) {
    struct dev *d = NULL;
    struct err e = {.code = OK};
    const struct dev_config cfg = {.n_thread = n_thread, .compute = c->compute};
    const int ordinal = 2 * (int)c->isa + (n_thread - 1) % 2;
    if (cuda_open_with(&d, ordinal, &small, &cfg, &e) != OK) fail_msg("%s", e.msg);
    return d;
}

bool ops_slow(void) {
    return true;
}
