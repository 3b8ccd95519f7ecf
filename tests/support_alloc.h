/* Stands in for the allocation calls of base/mem.c in tests linked with WRAP_ALLOC of the Makefile:
 * the k-th call from now on fails. Include in one file of the test. */
#ifndef BASIN_TESTS_SUPPORT_ALLOC_H
#define BASIN_TESTS_SUPPORT_ALLOC_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

static struct { long calls, fail_at; /* fail_at 0: never */ } alloc;

static bool alloc_fails(void) {
    return alloc.fail_at > 0 && ++alloc.calls == alloc.fail_at;
}

void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
int __real_posix_memalign(void **out, size_t align, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
int __wrap_posix_memalign(void **out, size_t align, size_t size);

void *__wrap_calloc(size_t n, size_t size) {
    return alloc_fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size) {
    return alloc_fails() ? NULL : __real_realloc(p, size);
}

int __wrap_posix_memalign(void **out, size_t align, size_t size) {
    return alloc_fails() ? ENOMEM : __real_posix_memalign(out, align, size);
}

#endif
