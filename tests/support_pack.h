/* Compressed data for tests, made by the libraries' own compressors. */
#ifndef BASIN_TESTS_SUPPORT_PACK_H
#define BASIN_TESTS_SUPPORT_PACK_H

#include "base/sbuf.h"
#include "io/unpack.h"

enum { PACK_FIRST = UNPACK_GZIP, PACK_LAST = UNPACK_LZ4 };

/* Appends one member or frame with every checksum that its format has. Aborts on any failure. */
void pack_frame(enum unpack_kind kind, const void *bytes, size_t n, struct sbuf *out);

/* The same in pieces: `make` writes the next bytes of the content, 0 at its end, *n of at most cap.
 * Memory does not grow with the content. Written to `fd`. */
void pack_stream(enum unpack_kind kind, int fd, size_t (*make)(void *ctx, char *buf, size_t cap),
                 void *ctx);

/* Appends a skippable frame (zstd, LZ4; nothing for gzip) of n bytes of content. */
void pack_skippable(enum unpack_kind kind, size_t n, struct sbuf *out);

#endif
