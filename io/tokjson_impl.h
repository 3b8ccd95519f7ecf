/* Private to io/tokjson*.c: reading members with errors that name file, line and JSON path. */
#ifndef BASIN_IO_TOKJSON_IMPL_H
#define BASIN_IO_TOKJSON_IMPL_H

#include "io/json.h"
#include "io/tokjson.h"

/* Records "FILE:LINE: PATH: text". */
enum status tokjson_fail(const struct json *j, struct err *e, enum status code, const char *path,
                         const char *fmt, ...) PRINTF_LIKE(5, 6);

/* Members of the object v at `path`. A boolean that is absent or null is `fallback`. */
enum status tokjson_bool(const struct json *j, const struct jnode *v, const char *path,
                         const char *key, bool fallback, bool *out, struct err *e) WARN_UNUSED;
enum status tokjson_string(const struct json *j, const struct jnode *v, const char *path,
                           const char *key, struct tokjson_str *out, struct err *e) WARN_UNUSED;
enum status tokjson_want(const struct json *j, const struct jnode *v, const char *path,
                         enum json_kind kind, struct err *e) WARN_UNUSED;

/* An id, 0 .. TOKJSON_MAX_ID; `name` is what has it, for messages. */
enum status tokjson_id(const struct json *j, const struct jnode *v, const char *path,
                       const char *name, int32_t *out, struct err *e) WARN_UNUSED;
/* A key that this version does not know may change ids. `keys` ends with NULL. */
enum status tokjson_only_known(const struct json *j, const struct jnode *v, const char *path,
                               const char *const *keys, struct err *e) WARN_UNUSED;

/* DIR/vocab.json and DIR/merges.txt as one tokenizer.json; what was read is added to h. config: of
 * tokenizer_config.json, NULL without one. Errors: E_NOINPUT, E_IO, E_NOMEM, E_FORMAT, E_UNSUPPORTED (the
 * files may be of another kind of tokenizer). */
enum status tokjson_open_pair(struct json **out, const struct json *config, const char *dir,
                              struct hash *h, struct err *e) WARN_UNUSED;

/* The normalizer and pre_tokenizer trees, flattened; the decoder is checked only. */
enum status tokjson_read_pipeline(struct tokjson *t, const struct json *j,
                                  struct err *e) WARN_UNUSED;
/* The post_processor tree; *first becomes the id that it puts first, and stays when it puts none. */
enum status tokjson_read_post(const struct json *j, int32_t *first, struct err *e) WARN_UNUSED;

#endif
