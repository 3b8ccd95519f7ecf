#include "io/cursor_impl.h"

#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum status cursor_init(struct cursor *c, int fd, const char *label, int64_t size, size_t cap,
                        struct err *e) {
    memset(c, 0, sizeof *c);
    c->fd = fd;
    c->label = label;
    c->size = size;
    c->cap = cap;
    CHECK(cap >= CURSOR_AHEAD);
    return mem_alloc64(&c->buf, cap, 1, e);
}

void cursor_fini(struct cursor *c) {
    if (c == NULL) return;
    mem_free(c->buf);
    memset(c, 0, sizeof *c);
}

// Fills the buffer from pos on.
static enum status refill(struct cursor *c, struct err *e) {
    const int64_t left = c->size - c->pos;
    const size_t want = left < (int64_t)c->cap ? (size_t)left : c->cap;
    c->begin = c->pos;
    c->n = 0;
    while (c->n < want) {
        const ssize_t k = pread(c->fd, c->buf + c->n, want - c->n, c->begin + (int64_t)c->n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            return err_errno(e, E_IO, errno, "%s: cannot read byte %" PRId64, c->label,
                             c->begin + (int64_t)c->n);
        }
        if (k == 0) {
            return err_fail(e, E_IO, "%s: has shrunk to %" PRId64 " bytes, %" PRId64 " expected",
                            c->label, c->begin + (int64_t)c->n, c->size);
        }
        c->n += (size_t)k;
    }
    return OK;
}

enum status cursor_view(struct cursor *c, const char **p, size_t *n, struct err *e) {
    enum status st = OK;
    const int64_t end = c->begin + (int64_t)c->n;
    *n = 0;
    *p = "";
    if (c->pos >= c->size) goto done;
    if (c->pos < c->begin || (c->pos > end - CURSOR_AHEAD && end < c->size) || c->pos >= end) {
        TRY(refill(c, e));
    }
    const size_t at = (size_t)(c->pos - c->begin);
    *p = c->buf + at;
    *n = c->n - at;
done:
    return st;
}

enum status cursor_peek(struct cursor *c, int *byte, struct err *e) {
    const char *p;
    size_t n;
    const enum status st = cursor_view(c, &p, &n, e);
    *byte = n > 0 ? (unsigned char)*p : -1;
    return st;
}

enum status cursor_skip_line(struct cursor *c, int64_t limit, bool *found, struct err *e) {
    enum status st = OK;
    *found = false;
    while (c->pos < limit) {
        const char *p;
        size_t n;
        TRY(cursor_view(c, &p, &n, e));
        if (n == 0) break;
        if ((int64_t)n > limit - c->pos) n = (size_t)(limit - c->pos);
        const char *newline = memchr(p, '\n', n);
        cursor_skip(c, newline != NULL ? (size_t)(newline - p) + 1 : n);
        *found = newline != NULL;
        if (*found) break;
    }
done:
    return st;
}
