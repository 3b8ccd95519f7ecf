#include "io/manifest_impl.h"

#include <inttypes.h>
#include <string.h>

static void put_section(struct sbuf *b, const struct man_section *s);

// "name": behind what is there, with a comma where needed.
static void put_key(struct sbuf *b, const char *name) {
    const char last = b->n > 0 ? b->s[b->n - 1] : '{';
    if (last != '{') sbuf_putc(b, ',');
    sbuf_json_string(b, name, strlen(name));
    sbuf_putc(b, ':');
}

static void put_text(struct sbuf *b, const char *name, const char *text) {
    put_key(b, name);
    sbuf_json_string(b, text, strlen(text));
}

static void put_words(struct sbuf *b, const char *const *words) {
    put_key(b, "enum");
    for (int i = 0; words[i] != NULL; i++) {
        sbuf_putc(b, i == 0 ? '[' : ',');
        sbuf_json_string(b, words[i], strlen(words[i]));
    }
    sbuf_putc(b, ']');
}

// One element of a list, or what stands for a list of one.
static void put_element(struct sbuf *b, const struct man_field *f) {
    const bool path = f->form == MAN_F_PATH_OR_OBJECT || f->form == MAN_F_LIST_OF_PATHS;
    if (path) sbuf_puts(b, "\"if\":{\"type\":\"string\"},\"then\":{" MAN_TEXT "},\"else\":{");
    put_section(b, f->section);
    if (path) sbuf_putc(b, '}');
}

static bool is_list(const struct man_field *f) {
    return f->form == MAN_F_LIST || f->form == MAN_F_LIST_OF_PATHS;
}

// if/then/else on the type, not anyOf, so that a validator's message is about the branch that is
// meant.
static void put_list(struct sbuf *b, const struct man_field *f) {
    put_key(b, "if");
    sbuf_printf(b,
                "{\"type\":\"array\"},\"then\":{\"minItems\":1,\"maxItems\":%" PRId64
                ",\"uniqueItems\":true,\"items\":{\"$ref\":\"#/$defs/%s\"",
                f->hi, f->key);
    if (f->section->in_list != NULL) sbuf_printf(b, ",\"required\":[\"%s\"]", f->section->in_list);
    sbuf_printf(b, "}},\"else\":{\"$ref\":\"#/$defs/%s\"}", f->key);
}

static void put_own(struct sbuf *b, const struct man_field *f) {
    if (is_list(f)) {
        put_list(b, f);
    } else if (f->section != NULL) {
        sbuf_putc(b, ',');
        put_element(b, f);
    }
}

static void put_field(struct sbuf *b, const struct man_field *f) {
    put_key(b, f->key);
    sbuf_putc(b, '{');
    put_text(b, "description", f->about);
    if (f->fallback != NULL) sbuf_printf(b, ",\"default\":%s", f->fallback);
    switch (f->kind) {
    case MAN_K_BOOL: put_text(b, "type", "boolean"); break;
    case MAN_K_INT:
        put_text(b, "type", "integer");
        sbuf_printf(b, ",\"minimum\":%" PRId64 ",\"maximum\":%" PRId64, f->lo, f->hi);
        break;
    case MAN_K_REAL:
        put_text(b, "type", "number");
        sbuf_printf(b, ",\"%s\":%g,\"maximum\":%g", f->above ? "exclusiveMinimum" : "minimum",
                    f->rlo, f->rhi);
        break;
    case MAN_K_STRING: sbuf_puts(b, "," MAN_TEXT); break;
    case MAN_K_WORD: put_words(b, f->words); break;
    case MAN_K_OWN: put_own(b, f); break;
    }
    if (f->schema != NULL) sbuf_printf(b, ",%s", f->schema);
    sbuf_putc(b, '}');
}

static void put_section(struct sbuf *b, const struct man_section *s) {
    int n_required = 0;
    sbuf_puts(b, "\"type\":\"object\",\"additionalProperties\":false,\"properties\":{");
    for (size_t i = 0; i < s->n_fields; i++) {
        put_field(b, &s->fields[i]);
    }
    sbuf_putc(b, '}');
    for (size_t i = 0; i < s->n_fields; i++) {
        if (!s->fields[i].required) continue;
        sbuf_printf(b, "%s\"%s\"", n_required++ == 0 ? ",\"required\":[" : ",", s->fields[i].key);
    }
    if (n_required > 0) sbuf_putc(b, ']');
    for (int i = 0; s->rules != NULL && s->rules[i] != NULL; i++) {
        sbuf_printf(b, "%s%s%s", i == 0 ? ",\"allOf\":[" : ",", s->rules[i],
                    s->rules[i + 1] == NULL ? "]" : "");
    }
}

// Elements of lists, which are referred to twice.
static void put_defs(struct sbuf *b, const struct man_section *root) {
    sbuf_puts(b, ",\"$defs\":{");
    for (size_t i = 0; i < root->n_fields; i++) {
        if (!is_list(&root->fields[i])) continue;
        put_key(b, root->fields[i].key);
        sbuf_putc(b, '{');
        put_element(b, &root->fields[i]);
        sbuf_putc(b, '}');
    }
    sbuf_putc(b, '}');
}

// JSON without white space, a member a line; lists of scalars stay on one.
static void put_indented(struct sbuf *out, const char *json) {
    int depth = 0;
    bool quoted = false, flat = false;
    for (const char *c = json; *c != '\0'; c++) {
        if (quoted || *c == '"') {
            sbuf_putc(out, *c);
            if (*c == '"') quoted = !quoted;
            if (*c == '\\') sbuf_putc(out, *++c);
            continue;
        }
        if (*c == '[') flat = c[1] != '{';
        const bool open = *c == '{' || (*c == '[' && !flat);
        const bool close = *c == '}' || (*c == ']' && !flat);
        if (close) sbuf_printf(out, "\n%*s", 2 * --depth, "");
        sbuf_putc(out, *c);
        if (open) sbuf_printf(out, "\n%*s", 2 * ++depth, "");
        if (*c == ':' || (*c == ',' && flat)) sbuf_putc(out, ' ');
        if (*c == ',' && !flat) sbuf_printf(out, "\n%*s", 2 * depth, "");
        if (*c == ']') flat = false;
    }
    sbuf_putc(out, '\n');
}

void man_schema(struct sbuf *out) {
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, "{");
    put_text(&b, "$schema", "https://json-schema.org/draft/2020-12/schema");
    put_text(&b, "title", "basin job manifest, version 1");
    sbuf_putc(&b, ',');
    put_section(&b, &man_root_section);
    put_defs(&b, &man_root_section);
    sbuf_putc(&b, '}');
    put_indented(out, sbuf_str(&b));
    out->failed = out->failed || b.failed;
    sbuf_fini(&b);
}
