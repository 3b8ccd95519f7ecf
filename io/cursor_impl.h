/* A reading position in a file, with a buffer of constant size. Private to io/.
 *
 * Reads with pread(), so that going back costs one read at most and a descriptor may be shared.
 * Not a mapping: mapped pages would count as resident memory, and a document must not. */
#ifndef BASIN_IO_CURSOR_IMPL_H
#define BASIN_IO_CURSOR_IMPL_H

#include "base/err.h"

enum {
    CURSOR_AHEAD = 12,       /* bytes a view shows at least: the longest escape, \uD83D\uDE00 */
    CURSOR_BYTES = 256 << 10 /* the usual buffer */
};

struct cursor {
    int fd;            /* borrowed */
    const char *label; /* borrowed: for messages */
    int64_t size;      /* the file ends here; bytes behind are not looked at */
    int64_t pos;       /* of the next byte */
    char *buf;         /* owned, cap bytes: the file's bytes begin .. begin + n */
    size_t cap, n;
    int64_t begin;
};

/* cap >= CURSOR_AHEAD. Errors: E_NOMEM. */
enum status cursor_init(struct cursor *c, int fd, const char *label, int64_t size, size_t cap,
                        struct err *e) WARN_UNUSED;
void cursor_fini(struct cursor *c);

/* The bytes from pos on: at least CURSOR_AHEAD unless the file ends before; *n is 0 at its end
 * only. Borrowed until the next call. Errors: E_IO (also: the file is shorter than `size`). */
enum status cursor_view(struct cursor *c, const char **p, size_t *n, struct err *e) WARN_UNUSED;

/* The byte at pos, -1 at the end. */
enum status cursor_peek(struct cursor *c, int *byte, struct err *e) WARN_UNUSED;

/* Moves behind the next newline, or to `limit` when none lies before it; *found says which. */
enum status cursor_skip_line(struct cursor *c, int64_t limit, bool *found,
                             struct err *e) WARN_UNUSED;

static inline void cursor_skip(struct cursor *c, size_t n) {
    c->pos += (int64_t)n;
}

#endif
