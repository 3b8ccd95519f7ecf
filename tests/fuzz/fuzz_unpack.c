#include "io/unpack.h"
#include "tests/fuzz/fuzz.h"

/* The first byte chooses the kind; what comes out must not depend on how much is asked for at a time. */
static enum status read_all(int fd, size_t n, enum unpack_kind kind, size_t cap, int64_t *total,
                            uint64_t *sum) {
    struct unpack *u = NULL;
    const struct unpack_file f = {.fd = fd, .size = (int64_t)n, .label = "input", .kind = kind};
    char buf[4096];
    size_t got = 1;
    enum status st = unpack_open(&u, &f, NULL);
    *total = 0;
    *sum = 0;
    while (st == OK && got > 0 && *total < 1 << 20) {
        st = unpack_read(u, buf, cap, &got, NULL);
        for (size_t i = 0; st == OK && i < got && *total + (int64_t)i < 1 << 20; i++)
            *sum = *sum * 31 + (unsigned char)buf[i];
        if (st == OK) *total += (int64_t)got;
    }
    unpack_close(u);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 1) return 0;
    fuzz_put("packed", data + 1, n - 1);
    const int fd = open(fuzz_path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    const enum unpack_kind kind = (enum unpack_kind)(UNPACK_GZIP + data[0] % 3);
    int64_t a = 0, b = 0;
    uint64_t sum_a = 0, sum_b = 0;
    const enum status st_a = read_all(fd, n - 1, kind, 4096, &a, &sum_a);
    const enum status st_b = read_all(fd, n - 1, kind, 1 + data[0] / 3, &b, &sum_b);
    if (a < 1 << 20) CHECK(st_a == st_b && a == b && sum_a == sum_b);
    const enum unpack_kind seen = unpack_kind_of_fd(fd); // NONE: a skippable frame in front
    if (st_a == OK && a > 0) CHECK(seen == kind || (seen == UNPACK_NONE && kind != UNPACK_GZIP));
    close(fd);
    return 0;
}
