/* Directories for tests: made, copied, compared and removed. */
#ifndef BASIN_TESTS_SUPPORT_TREE_H
#define BASIN_TESTS_SUPPORT_TREE_H

#include "base/sbuf.h"

/* A fresh directory below $TMPDIR, else in memory, else below /tmp. */
enum { TREE_PATH = 512 };
void tree_make(char path[TREE_PATH]);
void tree_remove(const char *path);
void tree_copy(const char *from, const char *to); /* `to` must not be there */

void tree_write(const char *dir, const char *name, const void *bytes, size_t n);
/* False when there is no such file. `out` is cleared first. */
bool tree_read(const char *dir, const char *name, struct sbuf *out);

#endif
