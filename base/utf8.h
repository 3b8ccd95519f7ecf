/* UTF-8: decoding, incremental validation, and the text counts of a result row. */
#ifndef BASIN_BASE_UTF8_H
#define BASIN_BASE_UTF8_H

#include "base/err.h"

/* Decodes the first code point of s[0..n). Returns its length 1..4, or 0 when it is not valid UTF-8
 * (overlong, surrogate, above U+10FFFF, bad continuation) or is cut short by n. */
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Writes cp (at most U+10FFFF) as 1..4 bytes; returns the length. */
size_t utf8_encode(uint32_t cp, char out[4]);

/* How many bytes of s[0..n) form whole valid code points from the start. *cut is set when what
 * remains is a proper prefix of a valid code point (more bytes could make it valid), and cleared
 * when it is invalid or nothing remains. */
size_t utf8_valid_prefix(const char *s, size_t n, bool *cut);

/* Unicode white space as Python's str.isspace() and re's \s see it (U+001C..U+001F included). */
bool utf8_is_space(uint32_t cp);

/* Counts over a text that arrives in pieces, cut anywhere. Zeroed is the empty text.
 *   bytes  length; chars code points; words as lm-evaluation-harness counts them:
 *   len(re.split(r"\s+", text)), i.e. runs of white space + 1, also for an empty text. */
struct utf8_counts {
    int64_t bytes, chars, space_runs;
    bool in_space;
    char held[4]; /* an incomplete code point at the end of the last piece */
    int n_held;
};
void utf8_count(struct utf8_counts *c, const char *s, size_t n);
int64_t utf8_words(const struct utf8_counts *c);

#endif
