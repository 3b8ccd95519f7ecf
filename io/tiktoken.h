/* A vocabulary of tiktoken: lines of a token's bytes in Base64 (RFC 4648, padded), one space, its
 * rank in decimal. A token's rank is its id; the lines must have 0, 1, 2, ... in this order, and no
 * two of them the same bytes.
 *
 * Limits: 64 MiB, tokens of 1 .. 512 bytes. */
#ifndef BASIN_IO_TIKTOKEN_H
#define BASIN_IO_TIKTOKEN_H

#include "io/tokjson.h"

enum { TIKTOKEN_MAX_BYTES = 64 << 20, TIKTOKEN_MAX_TOKEN = 512 };

struct tiktoken {
    struct tokjson_str *tokens; /* owned [n_tokens]; any bytes; the index is the id */
    size_t n_tokens;
    size_t n_bytes;         /* of all of them */
    char *keep;             /* owned: what they point into */
    struct tokjson_map ids; /* owned: bytes -> id */
};

/* Reads the file and, into *h, its bytes. Errors: E_NOINPUT, E_IO, E_NOMEM; E_FORMAT as
 * "PATH:LINE: what". */
enum status tiktoken_open(struct tiktoken **out, const char *path, struct hash *h,
                          struct err *e) WARN_UNUSED;
void tiktoken_close(struct tiktoken *t);

#endif
