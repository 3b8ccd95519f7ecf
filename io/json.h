/* JSON documents, read whole and strictly. The only door to jansson: nothing outside io/ sees it.
 *
 * Strict: UTF-8 only, no NaN or Infinity, no trailing text, duplicate keys refused, nesting at most
 * 2,048. Nodes are borrowed views that die with their document. */
#ifndef BASIN_IO_JSON_H
#define BASIN_IO_JSON_H

#include "base/err.h"

struct json;  /* opaque: a parsed document */
struct jnode; /* opaque: a value in it */

enum json_kind { JSON_NIL, JSON_BOOL, JSON_INT, JSON_NUM, JSON_STR, JSON_ARR, JSON_OBJ };

/* Parses the regular file `path`, at most max_bytes long. Errors: E_NOINPUT, E_IO, E_NOMEM,
 * E_FORMAT ("PATH:LINE:COLUMN: what"). */
enum status json_open(struct json **out, const char *path, size_t max_bytes,
                      struct err *e) WARN_UNUSED;

/* Parses text[0..n); `label` stands for the path in messages. The text is copied. */
enum status json_open_text(struct json **out, const char *label, const char *text, size_t n,
                           struct err *e) WARN_UNUSED;
void json_close(struct json *j);

const struct jnode *json_root(const struct json *j);
const char *json_borrow_label(const struct json *j);
const char *json_borrow_text(const struct json *j, size_t *n); /* the text as it was read */

/* The line (1-based) where the value at `path` begins, e.g. "$.cache.sink_tokens",
 * "$.input[2].path"; of the deepest enclosing value that exists when there is no such value. */
int json_line(const struct json *j, const char *path);

/* The bytes [*begin, *end) of the text that the value at `path` takes; false (and the range of the
 * deepest enclosing value that exists) when there is no such value. */
bool json_span(const struct json *j, const char *path, size_t *begin, size_t *end);

enum json_kind json_kind_of(const struct jnode *v);
const char *json_kind_name(enum json_kind k); /* "null", "boolean", "integer", "number", ... */

bool json_bool(const struct jnode *v);   /* JSON_BOOL only */
int64_t json_int(const struct jnode *v); /* JSON_INT only */
double json_num(const struct jnode *v);  /* JSON_INT or JSON_NUM */
const char *json_str(const struct jnode *v,
                     size_t *n);        /* JSON_STR only; NUL-terminated, n may be NULL */
size_t json_len(const struct jnode *v); /* elements or members; 0 otherwise */
const struct jnode *json_at(const struct jnode *v, size_t i);         /* element; NULL when none */
const struct jnode *json_get(const struct jnode *v, const char *key); /* member; NULL when none */

/* Members in file order:
 *   for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) ... it.key, it.value
 */
struct json_iter {
    const struct jnode *object;
    void *at;
    const char *key;
    const struct jnode *value;
};
struct json_iter json_iter(const struct jnode *v);
void json_next(struct json_iter *it);

#endif
