/* Private to io/tokjson*.c: reading members with errors that name file, line and JSON path. */
#ifndef BASIN_IO_TOKJSON_IMPL_H
#define BASIN_IO_TOKJSON_IMPL_H

#include "io/json.h"
#include "io/tokjson.h"

/* Text to number, open addressing; the texts are borrowed. */
struct tokjson_map {
    struct {
        struct tokjson_str key;
        int32_t value;
    } * slots;
    size_t cap; /* power of two, at least twice the number of entries */
};
enum status tokjson_map_init(struct tokjson_map *m, size_t n, struct err *e) WARN_UNUSED;
void tokjson_map_fini(struct tokjson_map *m);
void tokjson_map_put(struct tokjson_map *m, struct tokjson_str key, int32_t value);
int32_t tokjson_map_get(const struct tokjson_map *m, const char *s, size_t n); /* -1: none */

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

/* The normalizer and pre_tokenizer trees, flattened; the decoder is checked only. */
enum status tokjson_read_pipeline(struct tokjson *t, const struct json *j,
                                  struct err *e) WARN_UNUSED;

#endif
