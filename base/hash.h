/* 128-bit XXH3 hashes of bytes that arrive in pieces, printed as 32 hex digits (the canonical form
 * of xxhsum -H2). Source: xxHash specification, XXH128. */
#ifndef BASIN_BASE_HASH_H
#define BASIN_BASE_HASH_H

#include "base/err.h"

enum { HASH_TEXT = 33 };

struct hash; /* opaque */

enum status hash_open(struct hash **out, struct err *e) WARN_UNUSED;
void hash_close(struct hash *h);
void hash_reset(struct hash *h);
void hash_add(struct hash *h, const void *bytes, size_t n);
void hash_text(const struct hash *h, char text[HASH_TEXT]);

void hash_once(const void *bytes, size_t n, char text[HASH_TEXT]);
uint64_t hash_64(const void *bytes, size_t n);
/* XXH3-128 of bytes under a seed, as two words, low first. */
void hash_words(const void *bytes, size_t n, uint64_t seed, uint64_t words[2]);

/* The state as plain bytes, for checkpoints written and read by the same build. */
size_t hash_state_bytes(void);
void hash_save(const struct hash *h, void *bytes);
void hash_load(struct hash *h, const void *bytes);

#endif
