/* Tokens as text while they come: whole code points only, and nothing that may turn out to be the
 * beginning of a stop string. Private to jobs/. */
#ifndef BASIN_JOBS_GEN_TEXT_H
#define BASIN_JOBS_GEN_TEXT_H

#include "core/tok.h"

#include "base/sbuf.h"

/* Zeroed is empty. */
struct gen_text {
    struct sbuf tail; /* bytes that have not been let go */
};

struct gen_stops {
    char *const *s; /* [n], not empty */
    size_t n;
};

/* The bytes of one more token (none of a special one). What is certain by now is appended to `out` as
 * valid UTF-8: what cannot become valid is U+FFFD, as Python's errors="replace" counts it. stops: NULL
 * while nothing stops. *stopped: one of them is there, and what stands before the first is all of the
 * text. Errors: E_NOMEM. */
enum status gen_text_add(struct gen_text *t, const struct tok *tok, int32_t id,
                         const struct gen_stops *stops, struct sbuf *out, bool *stopped,
                         struct err *e) WARN_UNUSED;
/* Nothing follows: lets go what is left. */
enum status gen_text_end(struct gen_text *t, struct sbuf *out, struct err *e) WARN_UNUSED;

#endif
