/* Lets the k-th allocation from now fail: g_fail_at = k. For the one file of a test program whose
 * WRAP_ variable in the Makefile is $(WRAP_ALLOC); see base/mem.h. */
#ifndef BASIN_TESTS_ALLOC_FAIL_H
#define BASIN_TESTS_ALLOC_FAIL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

static long g_fail_at = -1; // allocations until one fails; negative: none does

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);

static bool fails_now(void) {
    return g_fail_at >= 0 && g_fail_at-- == 0;
}
void *__wrap_malloc(size_t n) {
    return fails_now() ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size) {
    return fails_now() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n) {
    return fails_now() ? NULL : __real_realloc(p, n);
}
int __wrap_posix_memalign(void **out, size_t align, size_t n) {
    return fails_now() ? ENOMEM : __real_posix_memalign(out, align, n);
}

#endif
