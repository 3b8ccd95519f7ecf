/* Memory: allocation with overflow-checked sizes and errors instead of NULLs.
 *
 * All of the program's memory passes through here, so that a test can make the k-th allocation fail
 * by wrapping malloc, calloc, realloc and posix_memalign at link time. Everything is freed by
 * mem_free(). */
#ifndef BASIN_BASE_MEM_H
#define BASIN_BASE_MEM_H

#include "base/err.h"

/* n * size bytes, zeroed. *out is void ** in disguise: pass &pointer. n * size may be 0 (one byte
 * is kept). Errors: E_NOMEM (also when the product overflows); *out is NULL then. */
enum status mem_zalloc(void *out, size_t n, size_t size, struct err *e) WARN_UNUSED;

/* As mem_zalloc, contents undefined, aligned to 64 bytes (a cache line and a vector register). */
enum status mem_alloc64(void *out, size_t n, size_t size, struct err *e) WARN_UNUSED;

/* Grows *p, which holds *cap elements of `size` bytes, to at least `need` elements by doubling.
 * Errors: E_NOMEM; *p and *cap are unchanged then. */
enum status mem_grow(void *p, size_t *cap, size_t need, size_t size, struct err *e) WARN_UNUSED;

/* A copy of n bytes with a NUL behind them. */
enum status mem_dup(char **out, const char *s, size_t n, struct err *e) WARN_UNUSED;

void mem_free(void *p);

/* a * b into *out; false when the product does not fit. */
bool mem_mul(size_t a, size_t b, size_t *out);

#endif
