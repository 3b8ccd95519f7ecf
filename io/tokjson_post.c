/* The post_processor tree of tokenizer.json: only what it puts in front of a text is used. */
#include "io/tokjson_impl.h"

#include <stdio.h>
#include <string.h>

struct post {
    const struct json *j;
    int32_t *first;
};

static enum status read_template(struct post *r, const struct jnode *v, const char *path,
                                 struct err *e) {
    enum status st = OK;
    const struct json *j = r->j;
    char at[160];
    snprintf(at, sizeof at, "%s.single", path);
    const struct jnode *single = json_get(v, "single");
    TRY(tokjson_want(j, single, at, JSON_ARR, e));
    const struct jnode *first = json_at(single, 0);
    const struct jnode *special =
        first != NULL && json_kind_of(first) == JSON_OBJ ? json_get(first, "SpecialToken") : NULL;
    if (special == NULL || json_kind_of(special) != JSON_OBJ) goto done;
    struct tokjson_str name;
    snprintf(at, sizeof at, "%s.single[0].SpecialToken", path);
    TRY(tokjson_string(j, special, at, "id", &name, e));
    const struct jnode *table = json_get(v, "special_tokens");
    const struct jnode *entry =
        table != NULL && json_kind_of(table) == JSON_OBJ ? json_get(table, name.s) : NULL;
    const struct jnode *ids =
        entry != NULL && json_kind_of(entry) == JSON_OBJ ? json_get(entry, "ids") : NULL;
    if (ids == NULL || json_kind_of(ids) != JSON_ARR || json_len(ids) != 1) {
        st = tokjson_fail(j, e, E_FORMAT, at, "special_tokens has no single id for \"%.60s\"",
                          name.s);
        goto done;
    }
    TRY(tokjson_id(j, json_at(ids, 0), at, name.s, r->first, e));
done:
    return st;
}

static enum status read_post(struct post *r, const struct jnode *v, const char *path, int depth,
                             struct err *e) {
    enum status st = OK;
    const struct json *j = r->j;
    struct tokjson_str type;
    if (v == NULL || json_kind_of(v) == JSON_NIL) goto done;
    TRY(tokjson_want(j, v, path, JSON_OBJ, e));
    TRY(tokjson_string(j, v, path, "type", &type, e));
    if (strcmp(type.s, "ByteLevel") == 0) goto done; // offsets only
    if (strcmp(type.s, "TemplateProcessing") == 0) {
        TRY(read_template(r, v, path, e));
    } else if (strcmp(type.s, "RobertaProcessing") == 0 || strcmp(type.s, "BertProcessing") == 0) {
        char at[96];
        snprintf(at, sizeof at, "%s.cls", path);
        const struct jnode *cls = json_get(v, "cls");
        TRY(tokjson_want(j, cls, at, JSON_ARR, e));
        TRY(tokjson_id(j, json_at(cls, 1), at, "cls", r->first, e));
    } else if (strcmp(type.s, "Sequence") == 0 && depth < 4) {
        const struct jnode *list = json_get(v, "processors");
        char at[96];
        snprintf(at, sizeof at, "%s.processors", path);
        TRY(tokjson_want(j, list, at, JSON_ARR, e));
        for (size_t i = 0; i < json_len(list); i++) {
            snprintf(at, sizeof at, "%s.processors[%zu]", path, i);
            TRY(read_post(r, json_at(list, i), at, depth + 1, e));
        }
    } else {
        st = tokjson_fail(j, e, E_UNSUPPORTED, path, "post-processor \"%.40s\" is not supported",
                          type.s);
    }
done:
    return st;
}

enum status tokjson_read_post(const struct json *j, int32_t *first, struct err *e) {
    struct post r = {j, first};
    return read_post(&r, json_get(json_root(j), "post_processor"), "$.post_processor", 0, e);
}
