/* Result files: LZ4 frames (frame format 1.6.1) of text lines.
 *
 * A segment (work in progress) is a row of frames, appended one per batch; each is complete in
 * itself, so that a kill in the middle of an append costs the last frame only. A published file is
 * exactly one frame, because common readers stop after the first. Every frame written here has:
 *
 *   magic       04 22 4D 18
 *   FLG         version 1, independent blocks, block checksums, content checksum, no dictionary,
 *               content size present unless the content is empty or its size was not given
 *   BD          70: blocks of at most 4 MiB (frames of a segment: the smallest of 64 KiB, 256 KiB,
 *               1 MiB, 4 MiB that holds the content in one block)
 *   size        content size, 8 bytes little-endian, when FLG says so
 *   HC          header checksum, 1 byte
 *   blocks      size (4 bytes little-endian, top bit: stored), data, XXH32 of the data (4 bytes)
 *   end mark    00 00 00 00
 *   checksum    XXH32 of the content, 4 bytes
 *
 * In a published file every block but the last holds exactly 4 MiB of content, compressed alone at
 * level 0, so the bytes of a file are a function of its content (and of the LZ4 library's version).
 * Readers accept any sequence of LZ4 frames, skippable ones included.
 *
 * A handle belongs to one thread at a time. */
#ifndef BASIN_IO_LZ4F_H
#define BASIN_IO_LZ4F_H

#include "io/file.h"

enum { LZ4F_BLOCK_BYTES = 4 << 20 };

/* Appends bytes[0..n) as one frame; nothing when n is 0. Does not sync. After an error the file is
 * as long as before (see file_append_write). Errors: E_IO, E_NOMEM. */
enum status lz4f_append(struct file_append *a, const void *bytes, size_t n,
                        struct err *e) WARN_UNUSED;

/* Writes one published file. */
struct lz4f_writer; /* opaque */

/* Creates `path` (E_OUTPUT when it exists: the caller brings a temporary name). total is the size
 * of the content, for the header; -1 when it is not known. Errors: E_OUTPUT, E_IO, E_NOMEM. */
enum status lz4f_create(struct lz4f_writer **out, const char *path, int64_t total,
                        struct err *e) WARN_UNUSED;
/* Errors: E_IO, E_ARG (more than total). */
enum status lz4f_write(struct lz4f_writer *w, const void *bytes, size_t n,
                       struct err *e) WARN_UNUSED;
/* Ends the frame and syncs the file; the name is made durable by file_publish(). Only
 * lz4f_writer_close() may follow. Errors: E_IO, E_ARG (less than total). */
enum status lz4f_finish(struct lz4f_writer *w, struct err *e) WARN_UNUSED;
/* Removes the file unless lz4f_finish() succeeded. */
void lz4f_writer_close(struct lz4f_writer *w);

/* Reads any file of frames as a stream. */
struct lz4f_reader; /* opaque */

enum lz4f_tail {
    LZ4F_WHOLE,  /* every byte of the file must belong to a valid frame */
    LZ4F_TORN_OK /* the file counts up to the end of its last valid frame, found by reading it
                    once before; bytes of a torn frame are never handed out */
};

/* Errors: E_NOINPUT, E_IO, E_NOMEM. */
enum status lz4f_open(struct lz4f_reader **out, const char *path, enum lz4f_tail tail,
                      struct err *e) WARN_UNUSED;
void lz4f_close(struct lz4f_reader *r);

/* Up to cap bytes of content; *n is 0 at the end only. Errors: E_FORMAT (checksum, cut short: names
 * the path, the byte of the file and the byte at which its frame begins), E_IO. */
enum status lz4f_read(struct lz4f_reader *r, void *buf, size_t cap, size_t *n,
                      struct err *e) WARN_UNUSED;

/* The next line, borrowed until the next call, NUL-terminated, without its newline. *end is set
 * instead when there is none. A last line without a newline is a line. Memory grows with the
 * longest line only. Do not mix with lz4f_read. Errors: as lz4f_read, E_NOMEM. */
enum status lz4f_line(struct lz4f_reader *r, const char **line, size_t *n, bool *end,
                      struct err *e) WARN_UNUSED;

/* What a whole file holds. */
struct lz4f_counts {
    int64_t frames, bytes, lines; /* of content; a last line without a newline counts */
    int64_t valid_bytes;          /* of the file: where its last valid frame ends */
    bool torn;                    /* the file goes on behind valid_bytes */
};

/* Reads the file to its end, memory constant. LZ4F_WHOLE: anything not valid is E_FORMAT.
 * LZ4F_TORN_OK: reading stops at the first frame that is not valid and says so in `torn`; cut the
 * file to valid_bytes to go on appending. Errors: E_NOINPUT, E_IO, E_NOMEM, E_FORMAT. */
enum status lz4f_scan(const char *path, enum lz4f_tail tail, struct lz4f_counts *counts,
                      struct err *e) WARN_UNUSED;

#endif
