#include "base/hash.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY // the state's size, for checkpoints
#include <xxhash.h>

struct hash {
    XXH3_state_t state;
};

enum status hash_open(struct hash **out, struct err *e) {
    enum status st = OK;
    TRY(mem_alloc64(out, 1, sizeof(struct hash), e)); // XXH3_state_t wants 64-byte alignment
    memset(*out, 0, sizeof **out);
    hash_reset(*out);
done:
    return st;
}

void hash_close(struct hash *h) {
    mem_free(h);
}

void hash_reset(struct hash *h) {
    XXH3_128bits_reset(&h->state);
}

void hash_add(struct hash *h, const void *bytes, size_t n) {
    if (n > 0) XXH3_128bits_update(&h->state, bytes, n);
}

static void print(XXH128_hash_t v, char text[HASH_TEXT]) {
    snprintf(text, HASH_TEXT, "%016llx%016llx", (unsigned long long)v.high64,
             (unsigned long long)v.low64);
}

void hash_text(const struct hash *h, char text[HASH_TEXT]) {
    print(XXH3_128bits_digest(&h->state), text);
}

void hash_once(const void *bytes, size_t n, char text[HASH_TEXT]) {
    print(XXH3_128bits(bytes, n), text);
}

uint64_t hash_64(const void *bytes, size_t n) {
    return XXH3_64bits(bytes, n);
}

void hash_words(const void *bytes, size_t n, uint64_t seed, uint64_t words[2]) {
    const XXH128_hash_t v = XXH3_128bits_withSeed(bytes, n, seed);
    words[0] = v.low64;
    words[1] = v.high64;
}

size_t hash_state_bytes(void) {
    return sizeof(XXH3_state_t);
}

void hash_save(const struct hash *h, void *bytes) {
    memcpy(bytes, &h->state, sizeof h->state);
}

void hash_load(struct hash *h, const void *bytes) {
    const unsigned char *ext =
        h->state.extSecret; // points at the library's own secret in this process
    memcpy(&h->state, bytes, sizeof h->state);
    h->state.extSecret = ext;
}
