/* Members of rows, which every kind of job prints alike: each appends ,"key":value. Private to jobs/. */
#ifndef BASIN_JOBS_ROWS_IMPL_H
#define BASIN_JOBS_ROWS_IMPL_H

#include "jobs/doc.h"

void row_name(struct sbuf *out, const char *key); /* ,"key": */
void row_text(struct sbuf *out, const char *key, const char *value);
void row_int(struct sbuf *out, const char *key, int64_t value);
void row_int_or_null(struct sbuf *out, const char *key, int64_t value, bool known);
void row_bool(struct sbuf *out, const char *key, bool value);
/* NaN and infinity (a ratio with a zero denominator, an exponential past the range) print as null. */
void row_num(struct sbuf *out, const char *key, double value);

/* {"id":..,"source":..,"offset":..,"setting":..: what a row begins with. */
void row_identity(const struct doc *d, const struct man_setting *s, struct sbuf *out);
/* protocol, sink_tokens, window_tokens, prefill */
void row_setting(const struct man_setting *s, struct sbuf *out);
void row_text_hash(const struct doc *d, struct sbuf *out);

#endif
