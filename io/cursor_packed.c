/* Cursors in the content of compressed files. */
#include "io/cursor_impl.h"

#include "base/mem.h"

#include <string.h>

void cursor_packed_drop(struct cursor_head *h) {
    unpack_close(h->unpack);
    h->unpack = NULL;
    h->begin = 0;
    h->n = 0;
    h->ended = false;
    h->fault = (struct err){.code = OK};
}

static enum status open_head(struct cursor *c, struct cursor_head *h, struct err *e) {
    enum status st = OK;
    if (h->buf == NULL) TRY(mem_alloc64(&h->buf, c->cap, 1, e));
    if (h->unpack == NULL) TRY(unpack_open(&h->unpack, &c->file, e));
done:
    return st;
}

static int64_t end_of(const struct cursor_head *h) {
    return h->begin + (int64_t)h->n;
}

// The next bytes into the buffer. Half of the old ones stay, so that the second reading of a short
// line finds it here; and so does what lies between pos and the end, fewer than CURSOR_AHEAD.
static enum status advance(struct cursor *c, struct cursor_head *h, struct err *e) {
    const int64_t end = end_of(h);
    size_t keep = c->cap / 2 < h->n ? c->cap / 2 : h->n;
    if (c->pos < end && (size_t)(end - c->pos) > keep) keep = (size_t)(end - c->pos);
    memmove(h->buf, h->buf + h->n - keep, keep);
    h->begin = end - (int64_t)keep;
    h->n = keep;
    while (h->n < c->cap && !h->ended) {
        struct err why = {.code = OK};
        size_t got = 0;
        const enum status st = unpack_read(h->unpack, h->buf + h->n, c->cap - h->n, &got, &why);
        h->n += got;
        h->ended = got == 0;
        if (st == E_FORMAT) {
            h->fault = why;
        } else if (st != OK) {
            cursor_packed_drop(h); // begins anew if somebody tries again
            return err_fail(e, st, "%s", why.msg);
        }
    }
    return OK;
}

enum status cursor_packed_view(struct cursor *c, const char **p, size_t *n, struct err *e) {
    enum status st = OK;
    struct cursor_head *h = c->pos >= c->front.begin ? &c->front : &c->back;
    *n = 0;
    *p = "";
    if (c->pos < h->begin) cursor_packed_drop(h);
    TRY(open_head(c, h, e));
    while (end_of(h) < c->pos + CURSOR_AHEAD && !h->ended) TRY(advance(c, h, e));
    const int64_t end = end_of(h);
    if (c->pos < end) {
        *p = h->buf + (c->pos - h->begin);
        *n = (size_t)(end - c->pos);
    }
    if (h->fault.code != OK && *n < CURSOR_AHEAD && memchr(*p, '\n', *n) == NULL) {
        c->faulty = true;
        c->fault_at = end;
        *n = 0;
        FAIL(e, h->fault.code, "%s", h->fault.msg);
    }
done:
    return st;
}

void cursor_packed_seek(struct cursor *c, int64_t pos) {
    // What lies behind `front` is back's for second readings only: it would be left far behind.
    if (pos < c->front.begin) cursor_packed_drop(&c->front);
    c->faulty = false;
}
