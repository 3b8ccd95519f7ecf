/* A tokenizer directory whose one file is the input: if it opens, a text must come back whole. */
#ifndef BASIN_TESTS_FUZZ_TOK_H
#define BASIN_TESTS_FUZZ_TOK_H

#include "core/tok.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static inline void fuzz_tokenize(const char *where) {
    static const char text[] =
        "Hello, <|endoftext|> w\xc3\xb6rld 12345\r\n\r\n   \xf0\x9f\x98\x80 e\xcc\x81 <s>x";
    struct tok *t = NULL;
    struct tok_stream *s = NULL;
    struct err e = {0};
    if (tok_open(&t, where, &e) == OK) {
        if (tok_stream_open(&s, t, &e) == OK && tok_feed(s, text, 7, &e) == OK &&
            tok_feed(s, text + 7, sizeof text - 8, &e) == OK && tok_finish(s, &e) == OK) {
            int32_t ids[16];
            int64_t ends[16], last = 0;
            for (size_t n; (n = tok_take(s, ids, ends, 16)) > 0;) {
                for (size_t i = 0; i < n; i++) {
                    size_t bytes = 0;
                    CHECK(ids[i] >= 0 && ids[i] < tok_n_vocab(t) && ends[i] >= last);
                    CHECK(ends[i] <= (int64_t)sizeof text - 1);
                    (void)tok_borrow_piece(t, ids[i], &bytes);
                    last = ends[i];
                }
            }
        }
        tok_stream_close(s);
    } else {
        CHECK(e.code != OK && e.msg[0] != '\0');
    }
    tok_close(t);
}

#endif
