/* What the tests of tokenizers share: encoding in chunks, recorded ids, the cost of a text, broken inputs.
 *
 * A folder of recorded ids (tools/mktok.py and the like make them): texts.json, a list of texts, each a string or
 * [[string, times], ...]; NAME/ with a tokenizer; NAME/ids.json, for each text its ids, or where there are many
 * "COUNT:FNV-1a of the 32-bit little-endian ids". */
#ifndef BASIN_TESTS_SUPPORT_TOK_H
#define BASIN_TESTS_SUPPORT_TOK_H

#include "base/sbuf.h"
#include "core/tok.h"

struct stok_ids { /* zeroed is empty */
    int32_t *id;  /* owned [n] */
    int64_t *end; /* owned [n] */
    size_t n, cap, end_cap;
};
void stok_fini(struct stok_ids *x);

/* These fail the test where they do not succeed. */
struct tok *stok_open(const char *path);
struct tok_stream *stok_stream(const struct tok *t);

/* The ids of a text fed in chunks of `chunk` bytes (0: random sizes) to the stream, made as new first. */
void stok_encode(struct tok_stream *s, const char *text, size_t n, size_t chunk,
                 struct stok_ids *out);
/* The pieces of ids[0..n) joined, without what tok_decode_skip takes away. */
void stok_decode(const struct tok *t, const int32_t *ids, size_t n, struct sbuf *out);

/* Opens, and tokenizes a text: for allocations that fail and for hostile files. */
enum status stok_run(const char *path, const char *text, size_t n, struct err *e);

struct stok_case {
    const char *name; /* of the tokenizer's folder */
    size_t index;     /* of the text */
    const struct tok *t;
    struct tok_stream *s;
    const struct sbuf *text;
    const void *want; /* a node of ids.json, for stok_as_recorded */
};
typedef void stok_fn(const struct stok_case *c);
/* Calls one() for every tokenizer of the folder and every text; returns how many tokenizers. */
int stok_each(const char *folder, stok_fn *one);
bool stok_as_recorded(const struct stok_case *c, const struct stok_ids *x);
/* Fails unless the ids are as recorded in chunks of many sizes, and their places in order. */
void stok_check_recorded(const struct stok_case *c);

/* What a text of `total` bytes, `unit` over and over, costs. */
struct stok_cost {
    int64_t work;
    size_t bytes; /* the most that the stream held */
};
struct stok_cost stok_cost_of(struct tok_stream *s, const char *unit, size_t total);

/* Every folder under `dir` holds a tokenizer, as the file `file` or (NULL) as a directory, and in `error`
 * the status and a part of the message it must give. Returns how many there are. */
int stok_refusals(const char *dir, const char *file);

#endif
