/* A growing byte string. Appending never fails on the spot: running out of memory is remembered and
 * reported once by sbuf_status(). `s` is NUL-terminated whenever `n` > 0 or sbuf_str() was called.
 */
#ifndef BASIN_BASE_SBUF_H
#define BASIN_BASE_SBUF_H

#include "base/err.h"

struct sbuf {
    char *s; /* owned */
    size_t n;
    size_t cap;
    bool failed;
};

void sbuf_init(struct sbuf *b);
void sbuf_fini(struct sbuf *b);
void sbuf_clear(struct sbuf *b); /* keeps the memory */
void sbuf_add(struct sbuf *b, const void *bytes, size_t n);
void sbuf_puts(struct sbuf *b, const char *s);
void sbuf_putc(struct sbuf *b, char c);
void sbuf_printf(struct sbuf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Appends `s` as a JSON string with its quotes: control characters, quote and backslash escaped,
 * the rest (valid UTF-8) as it stands; bytes that are not UTF-8 become U+FFFD. */
void sbuf_json_string(struct sbuf *b, const char *s, size_t n);
/* Appends the shortest decimal that reads back as exactly `x`; `null` when x is not finite. */
void sbuf_json_double(struct sbuf *b, double x);
const char *sbuf_str(struct sbuf *b); /* borrowed; "" when empty */
enum status sbuf_status(const struct sbuf *b, struct err *e) WARN_UNUSED;

#endif
