#include "io/cursor_impl.h"

#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum status cursor_init(struct cursor *c, const struct unpack_file *f, size_t cap, struct err *e) {
    memset(c, 0, sizeof *c);
    c->file = *f;
    c->cap = cap;
    CHECK(cap >= CURSOR_AHEAD);
    return mem_alloc64(&c->front.buf, cap, 1, e);
}

void cursor_fini(struct cursor *c) {
    if (c == NULL) return;
    cursor_packed_drop(&c->front);
    cursor_packed_drop(&c->back);
    mem_free(c->front.buf);
    mem_free(c->back.buf);
    memset(c, 0, sizeof *c);
}

void cursor_seek(struct cursor *c, int64_t pos) {
    c->pos = pos;
    if (c->file.kind != UNPACK_NONE) cursor_packed_seek(c, pos);
}

// Fills the buffer from pos on.
static enum status refill(struct cursor *c, struct err *e) {
    struct cursor_head *h = &c->front;
    const int64_t left = c->file.size - c->pos;
    const size_t want = left < (int64_t)c->cap ? (size_t)left : c->cap;
    h->begin = c->pos;
    h->n = 0;
    while (h->n < want) {
        const int64_t at = h->begin + (int64_t)h->n;
        const ssize_t k = pread(c->file.fd, h->buf + h->n, want - h->n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            return err_errno(e, E_IO, errno, "%s: cannot read byte %" PRId64, c->file.label, at);
        }
        if (k == 0) {
            return err_fail(e, E_IO, "%s: has shrunk to %" PRId64 " bytes, %" PRId64 " expected",
                            c->file.label, at, c->file.size);
        }
        h->n += (size_t)k;
    }
    return OK;
}

enum status cursor_view(struct cursor *c, const char **p, size_t *n, struct err *e) {
    enum status st = OK;
    if (c->file.kind != UNPACK_NONE) return cursor_packed_view(c, p, n, e);
    const struct cursor_head *h = &c->front;
    const int64_t end = h->begin + (int64_t)h->n;
    *n = 0;
    *p = "";
    if (c->pos >= c->file.size) goto done;
    if (c->pos < h->begin || (c->pos > end - CURSOR_AHEAD && end < c->file.size) || c->pos >= end) {
        TRY(refill(c, e));
    }
    const size_t at = (size_t)(c->pos - h->begin);
    *p = h->buf + at;
    *n = h->n - at;
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
