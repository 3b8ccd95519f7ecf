/* Compressed files as streams of their content: gzip (RFC 1952), zstd (RFC 8878), LZ4 frames 1.6.1.
 *
 * A file is one or more members (gzip) or frames (zstd, LZ4; skippable ones hold nothing) in a row,
 * with nothing in front, between or behind; their contents follow each other. What is not that is
 * E_FORMAT, with a message "LABEL: compressed byte N: what": cut short, something else behind the
 * last frame, a wrong checksum, damaged data, data of another kind than the name says. Checksums
 * stand behind what they cover, so content can have been handed out before it is known to be bad;
 * what comes before the failure does not depend on how it is read.
 *
 * Limits. Ratio: once UNPACK_RATIO_FROM bytes came out, at most UNPACK_RATIO_MOST of them for each
 * byte that went in (LZ4 cannot exceed 255 anyway). zstd: windows up to 2^UNPACK_WINDOW_LOG bytes.
 * Dictionaries are not supported. Memory: 192 KiB of buffers, and 40 KiB for gzip, some 9 MiB for
 * LZ4, the window of the file (8 MiB at its usual largest) for zstd; it does not grow with the
 * file.
 *
 * A struct unpack belongs to one thread at a time. */
#ifndef BASIN_IO_UNPACK_H
#define BASIN_IO_UNPACK_H

#include "base/err.h"

enum unpack_kind { UNPACK_NONE, UNPACK_GZIP, UNPACK_ZSTD, UNPACK_LZ4 };

enum {
    UNPACK_RATIO_MOST = 1000,
    UNPACK_RATIO_FROM = 64 << 20,
    UNPACK_WINDOW_LOG = 27 /* what `zstd --long` writes */
};

/* What the suffix of a name says, in either case. UNPACK_NONE: not one of these. */
enum unpack_kind unpack_kind_of(const char *path);

/* What the first bytes of an open file say, for one without a name: the magic number of a gzip member
 * with deflate, a zstd frame or an LZ4 frame. */
enum unpack_kind unpack_kind_of_fd(int fd);

/* ".gz", ".zst", ".lz4"; "" for UNPACK_NONE. */
const char *unpack_suffix(enum unpack_kind kind);

struct unpack_file {
    int fd;            /* borrowed; read with pread(), so that several may share it */
    int64_t size;      /* the file ends here; bytes behind are not looked at */
    const char *label; /* borrowed: for messages */
    enum unpack_kind kind;
};

struct unpack; /* opaque */

/* Nothing is read yet. Errors: E_NOMEM. */
enum status unpack_open(struct unpack **out, const struct unpack_file *f,
                        struct err *e) WARN_UNUSED;
void unpack_close(struct unpack *u);

/* The next bytes of the content, at most cap (>= 1); *n is 0 at the end only, which is reached only
 * when everything was whole. Errors: E_FORMAT (stays: every later call gives the same), E_IO (also:
 * the file is shorter than `size`; may be tried again), E_NOMEM (close it then). */
enum status unpack_read(struct unpack *u, char *buf, size_t cap, size_t *n,
                        struct err *e) WARN_UNUSED;

/* How many bytes of the file have been decoded. */
int64_t unpack_place(const struct unpack *u);

#endif
