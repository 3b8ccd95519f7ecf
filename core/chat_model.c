/* Where a model keeps its chat template. */
#include "core/chat.h"
#include "io/file.h"
#include "io/gguf.h"
#include "io/json.h"

#include <string.h>
#include <unistd.h>

enum { MAX_BYTES = 64 << 20, MAX_TEMPLATE_BYTES = 4 << 20 };

// "chat_template": a text, or a list of {"name", "template"} of which the default is meant.
static enum status from_config(const char *path, struct sbuf *text, struct err *e) {
    enum status st = OK;
    struct json *doc = NULL;
    size_t n = 0;
    TRY(json_open(&doc, path, MAX_BYTES, e));
    const struct jnode *v =
        json_kind_of(json_root(doc)) == JSON_OBJ ? json_get(json_root(doc), "chat_template") : NULL;
    for (size_t i = 0; v != NULL && json_kind_of(v) == JSON_ARR && i < json_len(v); i++) {
        const struct jnode *one = json_at(v, i);
        if (json_kind_of(one) != JSON_OBJ) continue;
        const struct jnode *name = json_get(one, "name");
        if (name == NULL || json_kind_of(name) != JSON_STR) continue;
        if (strcmp(json_str(name, NULL), "default") != 0) continue;
        v = json_get(one, "template");
        break;
    }
    if (v != NULL && json_kind_of(v) == JSON_STR) {
        const char *s = json_str(v, &n);
        sbuf_add(text, s, n);
    }
    TRY(sbuf_status(text, e));
done:
    json_close(doc);
    return st;
}

static enum status from_gguf(const char *path, struct sbuf *text, struct err *e) {
    enum status st = OK;
    struct gguf_files *f = NULL;
    const char *s = NULL;
    size_t n = 0;
    TRY(gguf_open(&f, path, e));
    const struct gguf_value *v = gguf_meta_get(f, "tokenizer.chat_template");
    if (v != NULL && !v->array && gguf_get_str(v, 0, &s, &n)) sbuf_add(text, s, n);
    TRY(sbuf_status(text, e));
    if (gguf_torn(f, NULL)) FAIL(e, E_IO, "%s: cut short while it was read", path);
done:
    gguf_close(f);
    return st;
}

static enum status find_in(const char *dir, const char *name, struct sbuf *path, bool *there,
                           struct err *e) {
    sbuf_clear(path);
    sbuf_printf(path, "%s/%s", dir, name);
    *there = access(sbuf_str(path), F_OK) == 0;
    return sbuf_status(path, e);
}

static enum status read_template(const char *model, struct sbuf *text, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    bool there = false;
    const size_t n = strlen(model);
    sbuf_init(&path);
    if (n >= 5 && strcmp(model + n - 5, ".gguf") == 0) {
        TRY(from_gguf(model, text, e));
        goto done;
    }
    TRY(find_in(model, "chat_template.jinja", &path, &there, e));
    if (there) {
        TRY(file_read_all(path.s, MAX_TEMPLATE_BYTES, text, e));
        goto done;
    }
    TRY(find_in(model, "tokenizer_config.json", &path, &there, e));
    if (there) {
        TRY(from_config(path.s, text, e));
        goto done;
    }
    sbuf_clear(&path);
    TRY(gguf_find(&path, model, e));
    if (path.n > 0) TRY(from_gguf(sbuf_str(&path), text, e));
done:
    sbuf_fini(&path);
    return st;
}

enum status chat_of_model(const struct chat_template **out, const char *path, struct err *e) {
    enum status st = OK;
    struct sbuf text, known;
    sbuf_init(&text);
    sbuf_init(&known);
    *out = NULL;
    for (const char *const *name = chat_names(); *name != NULL; name++) {
        sbuf_printf(&known, "%s%s", known.n > 0 ? ", " : "", *name);
    }
    TRY(read_template(path, &text, e));
    if (text.n == 0) {
        FAIL(e, E_UNSUPPORTED, "%s: the model brings no chat template; name one of %s", path,
             sbuf_str(&known));
    }
    *out = chat_recognise(text.s, text.n);
    if (*out == NULL) {
        FAIL(e, E_UNSUPPORTED,
             "%s: the model's chat template is not one this program knows; name one of %s", path,
             sbuf_str(&known));
    }
done:
    sbuf_fini(&text);
    sbuf_fini(&known);
    return st;
}
