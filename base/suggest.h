/* "Did you mean": the known word that a mistyped one most likely stands for. */
#ifndef BASIN_BASE_SUGGEST_H
#define BASIN_BASE_SUGGEST_H

#include <stddef.h>

/* Edits that turn a into b: insert, delete, replace a byte, or swap two neighbours (optimal string
 * alignment), ASCII case ignored. Words of more than 64 bytes are infinitely far: SIZE_MAX. */
size_t suggest_distance(const char *a, const char *b);

/* The word of `list` (ended by NULL) nearest to `word`: within a third of the longer one's length
 * in edits, the first of several equally near; else the only one that begins with `word` (3 bytes
 * or more). NULL when nothing is near: a wild guess helps nobody. Borrowed from `list`. */
const char *suggest_closest(const char *word, const char *const *list);

#endif
