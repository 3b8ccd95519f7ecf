/* Read-only file mappings that survive the file being cut short.
 *
 * Reading a mapped page behind the end of a file that somebody truncates raises SIGBUS. The handler
 * installed here puts a page of zeros in its place and marks the mapping torn, so that the reader
 * goes on and the owner finds out by asking fmap_torn() before it believes what it computed. */
#ifndef BASIN_IO_FMAP_H
#define BASIN_IO_FMAP_H

#include "base/err.h"

struct fmap; /* opaque */

/* Maps the regular file `path` read-only. An empty file maps to zero bytes.
 * Errors: E_NOINPUT (missing, not readable, not a regular file), E_IO, E_NOMEM (also more than 256
 * maps). */
enum status fmap_open(struct fmap **out, const char *path, struct err *e) WARN_UNUSED;
void fmap_close(struct fmap *m);

const unsigned char *fmap_borrow_data(const struct fmap *m);
size_t fmap_bytes(const struct fmap *m);
const char *fmap_borrow_path(const struct fmap *m);

/* True once a page of this mapping could not be read because the file had shrunk. Any thread. */
bool fmap_torn(const struct fmap *m);

#endif
