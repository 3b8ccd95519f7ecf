#include "io/manifest.h"

#include "base/mem.h"
#include "base/num.h"
#include "base/utf8.h"
#include "io/json.h"
#include "io/manifest_impl.h"

#include <inttypes.h>
#include <string.h>

enum { MAX_BYTES = 16 << 20 };

/* ---- --set key=value: an edit of the text, so that lines in messages stay those of the file ----
 */

// Appends assignment's value as JSON on one line.
static enum status add_value(struct sbuf *out, const char *key, const char *value, struct err *e) {
    enum status st = OK;
    const size_t n = strlen(value);
    bool cut = false;
    struct json *j = NULL;
    st = json_open_text(&j, key, value, n, NULL);
    json_close(j);
    if (st == E_NOMEM) return err_fail(e, E_NOMEM, "out of memory");
    if (st == OK) {
        // Outside strings, which hold no raw control bytes, a line feed is white space like any.
        for (size_t i = 0; i < n; i++) sbuf_putc(out, value[i] == '\n' ? ' ' : value[i]);
        return OK;
    }
    if (utf8_valid_prefix(value, n, &cut) != n) {
        return err_fail(e, E_ARG, "the value set for %s is not UTF-8", key);
    }
    sbuf_json_string(out, value, n);
    return OK;
}

// Where an assignment goes: the existing value at `place`, or a new member of the object there.
struct target {
    struct sbuf place;         /* "$.input[0].path" */
    const struct jnode *value; /* borrowed: from the document */
    const char *missing;       /* borrowed: rest of the key that has no value yet, or NULL */
};

static enum status find_target(struct target *t, const struct json *doc, const char *key,
                               struct err *e) {
    enum status st = OK;
    struct sbuf name;
    sbuf_init(&name);
    sbuf_puts(&t->place, "$");
    t->value = json_root(doc);
    t->missing = NULL;
    for (const char *at = key, *next = NULL; at != NULL; at = next) {
        const size_t n = strcspn(at, ".");
        next = at[n] == '.' ? at + n + 1 : NULL;
        if (n == 0) FAIL(e, E_ARG, "an empty name in the key \"%s\"", key);
        if (t->missing != NULL) continue; // what follows a missing member need only be well formed
        sbuf_clear(&name);
        sbuf_add(&name, at, n);
        TRY(sbuf_status(&name, e));
        const struct jnode *child = NULL;
        if (json_kind_of(t->value) == JSON_OBJ) {
            child = json_get(t->value, sbuf_str(&name));
            if (child == NULL) {
                t->missing = at;
                continue;
            }
            sbuf_printf(&t->place, ".%s", sbuf_str(&name));
        } else {
            int64_t i = 0;
            if (num_parse_int(sbuf_str(&name), MAX_BYTES, &i)) child = json_at(t->value, (size_t)i);
            if (child == NULL) {
                FAIL(e, E_ARG, "cannot set %s: %s has no element \"%s\"", key, sbuf_str(&t->place),
                     sbuf_str(&name));
            }
            sbuf_printf(&t->place, "[%" PRId64 "]", i);
        }
        t->value = child;
    }
    TRY(sbuf_status(&t->place, e));
done:
    sbuf_fini(&name);
    return st;
}

// "a":{"b":value} for the dotted key "a.b".
static void add_member(struct sbuf *out, const char *key, const struct sbuf *value) {
    size_t depth = 0;
    for (const char *at = key; at != NULL; depth++) {
        const size_t n = strcspn(at, ".");
        if (depth > 0) sbuf_putc(out, '{');
        sbuf_json_string(out, at, n);
        sbuf_putc(out, ':');
        at = at[n] == '.' ? at + n + 1 : NULL;
    }
    sbuf_add(out, value->s, value->n);
    while (depth-- > 1) sbuf_putc(out, '}');
}

enum status man_set(struct sbuf *text, const char *label, const char *assignment, struct err *e) {
    enum status st = OK;
    struct json *doc = NULL;
    char *key = NULL;
    struct target t = {.value = NULL};
    struct sbuf value, edited;
    sbuf_init(&value);
    sbuf_init(&edited);
    bool cut = false;
    const char *equals = strchr(assignment, '=');
    if (equals == NULL) FAIL(e, E_ARG, "\"%s\" is not of the form key=value", assignment);
    TRY(mem_dup(&key, assignment, (size_t)(equals - assignment), e));
    if (utf8_valid_prefix(key, strlen(key), &cut) != strlen(key)) {
        FAIL(e, E_ARG, "the key of \"%s\" is not UTF-8", assignment);
    }
    TRY(json_open_text(&doc, label, sbuf_str(text), text->n, e));
    if (json_kind_of(json_root(doc)) != JSON_OBJ) {
        FAIL(e, E_FORMAT, "%s:1: $: must be an object, found %s", label,
             json_kind_name(json_kind_of(json_root(doc))));
    }
    TRY(find_target(&t, doc, key, e));
    TRY(add_value(&value, key, equals + 1, e));
    size_t begin = 0, end = 0;
    if (!json_span(doc, sbuf_str(&t.place), &begin, &end)) {
        FAIL(e, E_ARG, "cannot set %s: a name with brackets or escapes is in the way", key);
    }
    if (t.missing != NULL) end = ++begin; // just behind the opening brace
    sbuf_add(&edited, text->s, begin);
    if (t.missing != NULL) {
        add_member(&edited, t.missing, &value);
        if (json_len(t.value) > 0) sbuf_putc(&edited, ',');
    } else {
        sbuf_add(&edited, value.s, value.n);
    }
    sbuf_add(&edited, text->s + end, text->n - end);
    TRY(sbuf_status(&value, e));
    TRY(sbuf_status(&edited, e));
    const struct sbuf old = *text;
    *text = edited;
    edited = old;
done:
    sbuf_fini(&edited);
    sbuf_fini(&value);
    sbuf_fini(&t.place);
    json_close(doc);
    mem_free(key);
    return st;
}

/* ---- files ---- */

static enum status directory_of(char **out, const char *path, struct err *e) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return mem_dup(out, ".", 1, e);
    return mem_dup(out, path, slash == path ? 1 : (size_t)(slash - path), e);
}

enum status man_open(struct json **doc, const char *path, const char *const *sets, int n_set,
                     struct err *e) {
    enum status st = OK;
    struct json *file = NULL;
    struct sbuf text;
    sbuf_init(&text);
    *doc = NULL;
    TRY(json_open(&file, path, MAX_BYTES, e));
    if (n_set > 0) {
        size_t n = 0;
        const char *whole = json_borrow_text(file, &n);
        sbuf_add(&text, whole, n);
        TRY(sbuf_status(&text, e));
        for (int i = 0; i < n_set; i++) TRY(man_set(&text, path, sets[i], e));
        json_close(file);
        file = NULL;
        TRY(json_open_text(&file, path, text.s, text.n, e));
    }
    *doc = file;
    file = NULL;
done:
    sbuf_fini(&text);
    json_close(file);
    return st;
}

enum status man_load(struct manifest **out, const char *path, const char *const *sets, int n_set,
                     struct man_problems *problems, struct err *e) {
    enum status st = OK;
    struct json *doc = NULL;
    char *dir = NULL;
    *out = NULL;
    TRY(directory_of(&dir, path, e));
    TRY(man_open(&doc, path, sets, n_set, e));
    TRY(man_parse(out, doc, dir, 0, problems, e));
done:
    json_close(doc);
    mem_free(dir);
    return st;
}

void man_close(struct manifest *m) {
    if (m == NULL) return;
    for (size_t i = 0; i < m->n_inputs; i++) {
        mem_free(m->inputs[i].path);
        mem_free(m->inputs[i].text_key);
        mem_free(m->inputs[i].messages_key);
        mem_free(m->inputs[i].id_key);
        mem_free(m->inputs[i].ids_key);
    }
    for (size_t i = 0; i < m->n_settings; i++) mem_free(m->settings[i].name);
    mem_free(m->inputs);
    mem_free(m->settings);
    man_generate_fini(&m->generate);
    mem_free(m->dir);
    mem_free(m->model_path);
    mem_free(m->output.path);
    mem_free(m);
}

void man_path(const struct manifest *m, const char *path, struct sbuf *out) {
    const bool as_is = path[0] == '/' || strcmp(path, "-") == 0 || strcmp(m->dir, ".") == 0;
    if (!as_is) {
        sbuf_puts(out, m->dir);
        if (m->dir[strlen(m->dir) - 1] != '/') sbuf_putc(out, '/');
    }
    sbuf_puts(out, path);
}

/* ---- the effective manifest ---- */

static void put_string(struct sbuf *out, const char *before, const char *s) {
    sbuf_puts(out, before);
    sbuf_json_string(out, s, strlen(s));
}

static const char *bool_name(bool b) {
    return b ? "true" : "false";
}

static void put_setting(struct sbuf *out, const struct man_setting *s) {
    const bool dense = s->mode == MAN_DENSE;
    sbuf_putc(out, '{');
    if (!dense) sbuf_printf(out, "\"chunk_tokens\":%" PRId64 ",", s->chunk_tokens);
    put_string(out, "\"mode\":", man_mode_name(s->mode));
    put_string(out, ",\"name\":", s->name);
    if (!dense) {
        put_string(out, ",\"prefill\":", man_prefill_name(s->prefill));
        if (s->prefill_tokens > 0) {
            sbuf_printf(out, ",\"prefill_tokens\":%" PRId64, s->prefill_tokens);
        }
        sbuf_printf(out,
                    ",\"sink_tokens\":%" PRId64 ",\"strict_window\":%s,\"window_tokens\":%" PRId64,
                    s->sink_tokens, bool_name(s->strict_window), s->window_tokens);
    }
    sbuf_putc(out, '}');
}

static void put_key(struct sbuf *out, const char *before, const char *key) {
    if (key == NULL) return;
    put_string(out, before, key);
    sbuf_putc(out, ',');
}

static void put_input(struct sbuf *out, const struct man_input *in) {
    sbuf_putc(out, '{');
    put_key(out, "\"id_key\":", in->id_key);
    put_key(out, "\"ids_key\":", in->ids_key);
    put_string(out, "\"invalid_utf8\":", in->invalid_utf8 == MAN_UTF8_REPLACE ? "replace" : "fail");
    put_key(out, ",\"messages_key\":", in->messages_key);
    put_string(out, in->messages_key != NULL ? "\"path\":" : ",\"path\":", in->path);
    if (in->text_key != NULL) put_string(out, ",\"text_key\":", in->text_key);
    sbuf_putc(out, '}');
}

void man_canonical(const struct manifest *m, struct sbuf *out) {
    const bool generates = m->job == MAN_GENERATE;
    sbuf_puts(out, "{\"cache\":[");
    for (size_t i = 0; i < m->n_settings; i++) {
        if (i > 0) sbuf_putc(out, ',');
        put_setting(out, &m->settings[i]);
    }
    put_string(out, "],\"compute\":{\"dtype\":", man_dtype_name(m->compute.dtype));
    sbuf_printf(out, ",\"span_tokens\":%" PRId64 "}", m->compute.span_tokens);
    if (generates) {
        sbuf_puts(out, ",\"generate\":");
        man_put_generate(out, &m->generate);
    }
    sbuf_puts(out, ",\"input\":[");
    for (size_t i = 0; i < m->n_inputs; i++) {
        if (i > 0) sbuf_putc(out, ',');
        put_input(out, &m->inputs[i]);
    }
    sbuf_printf(out, "],\"job\":\"%s\"", generates ? "generate" : "score");
    put_string(out, ",\"model\":{\"path\":", m->model_path);
    if (m->output.path != NULL) {
        sbuf_printf(out, "},\"output\":{\"part_bytes\":%" PRId64, m->output.part_bytes);
        put_string(out, ",\"path\":", m->output.path);
    }
    sbuf_putc(out, '}');
    if (!generates) {
        sbuf_printf(out, ",\"score\":{\"add_bos\":%s,\"limit_tokens\":%" PRId64 ",\"tokens\":%s}",
                    man_bos_json(m->score.add_bos), m->score.limit_tokens,
                    bool_name(m->score.tokens));
    }
    sbuf_printf(out, ",\"version\":%" PRId64 "}", m->version);
}

bool man_wants_tokens(const struct manifest *m) {
    return m->job == MAN_GENERATE ? m->generate.tokens : m->score.tokens;
}

enum man_bos man_add_bos(const struct manifest *m) {
    return m->job == MAN_GENERATE ? m->generate.add_bos : m->score.add_bos;
}
