/* What the tests of corpora share: files without a name, documents in print. */
#ifndef BASIN_TESTS_SUPPORT_CORPUS_H
#define BASIN_TESTS_SUPPORT_CORPUS_H

#include "base/sbuf.h"
#include "io/corpus.h"

/* All of a file, id_key "id". */
struct corpus_file corpus_test_file(const char *path, const char *source, enum corpus_kind kind);

/* A file without a name that holds the bytes, called "bytes"; the caller closes .fd. */
struct corpus_file corpus_test_bytes(const void *bytes, size_t n, enum corpus_kind kind);

/* What is left of an open corpus, a line a document: "offset\tid\ttext in hex\n", or with ids in
 * decimal, a chat or body as it stands; where it fails "!message" instead of what follows. At most `cap` bytes or ids at a time.
 * Errors: all but E_FORMAT. */
enum status corpus_test_print_rest(struct corpus *c, size_t cap, struct sbuf *out,
                                   struct err *e) WARN_UNUSED;

/* The same of a file from its beginning. */
enum status corpus_test_print(const struct corpus_file *f, size_t cap, struct sbuf *out,
                              struct err *e) WARN_UNUSED;

#endif
