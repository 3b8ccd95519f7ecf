/* A reading position in a file, or in the content of a compressed one, with buffers of constant
 * size. Private to io/.
 *
 * Reads with pread(), so that going back costs one read at most and a descriptor may be shared.
 * Not a mapping: mapped pages would count as resident memory, and a document must not.
 *
 * Compressed files know only the way forward, and a line is read twice (scan_impl.h). So there are
 * two heads with a decoder each: `front` goes on, `back` follows with the second reading of lines
 * that are longer than half of front's buffer. Both only ever go forward, unless cursor_seek() or
 * a view goes back further than `back` stands: a file is decompressed twice at most, in constant
 * memory, and nothing is kept on disk. */
#ifndef BASIN_IO_CURSOR_IMPL_H
#define BASIN_IO_CURSOR_IMPL_H

#include "io/unpack.h"

enum {
    CURSOR_AHEAD = 12,       /* bytes a view shows at least: the longest escape, \uD83D\uDE00 */
    CURSOR_BYTES = 256 << 10 /* the usual buffer */
};

/* A stretch of the bytes, and where the next ones come from. */
struct cursor_head {
    char *buf;     /* owned, cap bytes: of them begin .. begin + n */
    int64_t begin; /* in the content */
    size_t n;
    struct unpack *unpack; /* owned: stands at begin + n; NULL: not open, or not compressed */
    bool ended;            /* nothing follows begin + n ... */
    struct err fault;      /* ... because of this, when its code is not OK */
};

struct cursor {
    struct unpack_file file; /* `size` is that of the file */
    int64_t pos;             /* of the next byte */
    size_t cap;
    struct cursor_head front; /* the only one of a plain file */
    struct cursor_head back;
    bool faulty;      /* the last view failed with E_FORMAT ... */
    int64_t fault_at; /* ... because the content cannot be had from here on */
};

/* f is copied, what it points to is borrowed. cap >= CURSOR_AHEAD. Errors: E_NOMEM. */
enum status cursor_init(struct cursor *c, const struct unpack_file *f, size_t cap,
                        struct err *e) WARN_UNUSED;
void cursor_fini(struct cursor *c);

/* Moves to any place. Of a compressed file everything in front of it is decompressed. */
void cursor_seek(struct cursor *c, int64_t pos);

/* The bytes from pos on: at least CURSOR_AHEAD unless the content ends before; *n is 0 at its end
 * only. Borrowed until the next call. Errors: E_IO (also: the file is shorter than `size`), E_NOMEM;
 * E_FORMAT when the content behind cannot be decompressed: then fewer than CURSOR_AHEAD bytes were
 * left and no newline among them, so that no line that is whole is kept back, and nothing that is
 * cut short is taken for something else. */
enum status cursor_view(struct cursor *c, const char **p, size_t *n, struct err *e) WARN_UNUSED;

/* The byte at pos, -1 at the end. */
enum status cursor_peek(struct cursor *c, int *byte, struct err *e) WARN_UNUSED;

/* Moves behind the next newline, or to `limit` when none lies before it; *found says which. */
enum status cursor_skip_line(struct cursor *c, int64_t limit, bool *found,
                             struct err *e) WARN_UNUSED;

/* cursor_view() and cursor_seek() of compressed files (cursor_packed.c). */
enum status cursor_packed_view(struct cursor *c, const char **p, size_t *n,
                               struct err *e) WARN_UNUSED;
void cursor_packed_seek(struct cursor *c, int64_t pos);
void cursor_packed_drop(struct cursor_head *h); /* closes its decoder */

static inline void cursor_skip(struct cursor *c, size_t n) {
    c->pos += (int64_t)n;
}

#endif
