/* The devices under test: the cpu backend on every instruction set of this machine. */
#include "tests/support_ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

int ops_list(struct ops_dev out[8]) {
    int n = 0;
    for (int isa = CPU_PORTABLE; isa <= (int)cpu_isa_best(); isa++) {
        out[n++] = (struct ops_dev){(enum cpu_isa)isa, DT_F32, DEV_BLOCKS, false};
        out[n++] = (struct ops_dev){(enum cpu_isa)isa, DT_BF16, DEV_BLOCKS, false};
    }
    return n;
}

struct dev *ops_open(const struct ops_dev *c, int n_thread) {
    struct dev *d = NULL;
    const struct dev_config cfg = {.n_thread = n_thread,
                                   .isa = c->isa,
                                   .compute = c->compute,
                                   .purpose = c->purpose,
                                   .int8 = c->int8};
    assert_int_equal(dev_open_cpu(&d, &cfg, NULL), OK);
    return d;
}

bool ops_slow(void) {
    return false;
}
