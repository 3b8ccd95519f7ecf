#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

bool mem_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

// A void ** that may point at any pointer type: the copy goes through memcpy to respect aliasing
// rules.
static void set_pointer(void *out, void *value) {
    memcpy(out, &value, sizeof value);
}

enum status mem_zalloc(void *out, size_t n, size_t size, struct err *e) {
    size_t bytes = 0;
    void *p = NULL;
    set_pointer(out, NULL);
    if (mem_mul(n, size, &bytes)) p = calloc(1, bytes > 0 ? bytes : 1);
    if (p == NULL) return err_fail(e, E_NOMEM, "out of memory (%zu x %zu bytes)", n, size);
    set_pointer(out, p);
    return OK;
}

enum status mem_alloc64(void *out, size_t n, size_t size, struct err *e) {
    size_t bytes = 0;
    void *p = NULL;
    set_pointer(out, NULL);
    if (mem_mul(n, size, &bytes)) {
        if (posix_memalign(&p, 64, bytes > 0 ? bytes : 1) != 0) p = NULL;
    }
    if (p == NULL) return err_fail(e, E_NOMEM, "out of memory (%zu x %zu bytes)", n, size);
    set_pointer(out, p);
    return OK;
}

enum status mem_grow(void *p, size_t *cap, size_t need, size_t size, struct err *e) {
    if (need <= *cap) return OK;
    size_t n = *cap < 16 ? 16 : *cap;
    while (n < need) {
        if (n > SIZE_MAX / 2) return err_fail(e, E_NOMEM, "out of memory (%zu elements)", need);
        n *= 2;
    }
    void *old = NULL;
    memcpy(&old, p, sizeof old);
    size_t bytes = 0;
    void *grown = mem_mul(n, size, &bytes) ? realloc(old, bytes) : NULL;
    if (grown == NULL) return err_fail(e, E_NOMEM, "out of memory (%zu x %zu bytes)", n, size);
    set_pointer(p, grown);
    *cap = n;
    return OK;
}

enum status mem_dup(char **out, const char *s, size_t n, struct err *e) {
    enum status st = OK;
    *out = NULL;
    if (n == SIZE_MAX) FAIL(e, E_NOMEM, "out of memory (%zu bytes)", n);
    TRY(mem_zalloc(out, n + 1, 1, e));
    memcpy(*out, s, n);
done:
    return st;
}

void mem_free(void *p) {
    free(p);
}
