/* What the fuzz targets share: the input as a file in a directory of its own, in memory.
 *
 * A target reads its input the way the program does and does something with what it got; it fails by a
 * sanitizer's word or by CHECK(). FUZZ_TARGET(name, file) { ... `dir`, `path` ... } */
#ifndef BASIN_TESTS_FUZZ_H
#define BASIN_TESTS_FUZZ_H

#include "base/err.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char fuzz_dir[64], fuzz_path[160]; /* of the file put last */
static const char *fuzz_names[4];         /* of all that were put, ended by NULL */

static inline void fuzz_at(const char *name) {
    snprintf(fuzz_path, sizeof fuzz_path, "%s/%s", fuzz_dir, name);
}

static inline void fuzz_clean(void) {
    for (int i = 0; fuzz_names[i] != NULL; i++) {
        fuzz_at(fuzz_names[i]);
        unlink(fuzz_path);
    }
    rmdir(fuzz_dir);
}

static inline void fuzz_put(const char *name, const uint8_t *data, size_t n) {
    if (fuzz_dir[0] == '\0') {
        snprintf(fuzz_dir, sizeof fuzz_dir, "/dev/shm/basin-fuzz-XXXXXX");
        CHECK(mkdtemp(fuzz_dir) != NULL);
        atexit(fuzz_clean);
    }
    int i = 0;
    while (fuzz_names[i] != NULL && strcmp(fuzz_names[i], name) != 0) i++;
    CHECK(i < 3);
    fuzz_names[i] = name;
    fuzz_at(name);
    const int fd = open(fuzz_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#endif
