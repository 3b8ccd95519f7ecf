/* What the identities of model files are made of. Private to io/. */
#ifndef BASIN_IO_SAMPLE_IMPL_H
#define BASIN_IO_SAMPLE_IMPL_H

#include "base/hash.h"

enum { SAMPLES = 6, SAMPLE_BYTES = 4096 };

static inline void sample_add_size(struct hash *h, size_t n) {
    unsigned char bytes[8]; // by value, so that the hash does not depend on this machine's order
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)n >> (8 * i));
    hash_add(h, bytes, sizeof bytes);
}

/* Six samples of a tensor, its first and last bytes among them; all of a small one. */
static inline void sample_add(struct hash *h, const unsigned char *data, size_t bytes) {
    if (bytes <= (size_t)SAMPLES * SAMPLE_BYTES) {
        hash_add(h, data, bytes);
        return;
    }
    const size_t step = (bytes - SAMPLE_BYTES) / (SAMPLES - 1);
    for (size_t i = 0; i + 1 < SAMPLES; i++) hash_add(h, data + i * step, SAMPLE_BYTES);
    hash_add(h, data + bytes - SAMPLE_BYTES, SAMPLE_BYTES);
}

#endif
