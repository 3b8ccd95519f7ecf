#include "io/manifest_impl.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INPUTS = 65536, MAX_SETTINGS = 64, MAX_NAME = 64 };

/* ---- words ---- */

static const char *const job_words[] = {"score", NULL};
static const char *const job_later[] = {"generate", "probe", "experiment", "train", NULL};
static const char *const mode_words[] = {"sink", "window", "dense", NULL};
static const char *const mode_later[] = {"recompute", NULL};
static const char *const prefill_words[] = {"stream", "dense", NULL};
static const char *const utf8_words[] = {"fail", "replace", NULL};
static const char *const dtype_words[] = {"auto", "f32", "bf16", NULL};
static const char *const dtype_later[] = {"int8", NULL};

const char *man_mode_name(enum man_mode v) {
    return mode_words[v];
}

const char *man_prefill_name(enum man_prefill v) {
    return prefill_words[v];
}

const char *man_dtype_name(enum man_dtype v) {
    return dtype_words[v];
}

/* ---- cache ---- */

#define SINK_ALIAS "attention_sink_size"
#define WINDOW_ALIAS "attention_sink_window_size"

#define IN_SETTING(member) offsetof(struct man_setting, member)
static const struct man_field setting_fields[] = {
    {.key = "name", .kind = MAN_K_STRING, .offset = IN_SETTING(name)},
    {.key = "mode",
     .kind = MAN_K_WORD,
     .offset = IN_SETTING(mode),
     .words = mode_words,
     .later = mode_later},
    {.key = "sink_tokens", .kind = MAN_K_INT, .offset = IN_SETTING(sink_tokens), .hi = 65536},
    {.key = SINK_ALIAS, .kind = MAN_K_INT, .offset = IN_SETTING(sink_tokens), .hi = 65536},
    {.key = "window_tokens",
     .kind = MAN_K_INT,
     .offset = IN_SETTING(window_tokens),
     .lo = 1,
     .hi = 16777216},
    {.key = WINDOW_ALIAS,
     .kind = MAN_K_INT,
     .offset = IN_SETTING(window_tokens),
     .lo = 1,
     .hi = 16777216},
    {.key = "prefill", .kind = MAN_K_WORD, .offset = IN_SETTING(prefill), .words = prefill_words},
    {.key = "prefill_tokens",
     .kind = MAN_K_INT,
     .offset = IN_SETTING(prefill_tokens),
     .lo = 1,
     .hi = 16777216},
    {.key = "chunk_tokens",
     .kind = MAN_K_INT,
     .offset = IN_SETTING(chunk_tokens),
     .lo = 1,
     .hi = 1048576},
    {.key = "strict_window", .kind = MAN_K_BOOL, .offset = IN_SETTING(strict_window)},
};

// The number under `key`, or `otherwise`.
static int64_t number_at(const struct jnode *object, const char *key, int64_t otherwise) {
    const struct jnode *v = json_get(object, key);
    return v != NULL && json_kind_of(v) == JSON_INT ? json_int(v) : otherwise;
}

// Names that other programs use for S and W: refused with the right name and number.
static bool foreign_setting(struct man_reader *r, const struct jnode *object, const char *key) {
    static const struct {
        const char *theirs, *ours;
    } names[] = {{"start_size", "sink_tokens"},
                 {"num_sink_tokens", "sink_tokens"},
                 {"recent_size", "window_tokens"},
                 {"window_size", "window_tokens"},
                 {"window_length", "window_tokens"}};
    size_t i = 0;
    while (i < COUNTOF(names) && strcmp(names[i].theirs, key) != 0) i++;
    if (i == COUNTOF(names)) return false;
    const bool with_sinks = strcmp(key, "window_length") == 0;
    int64_t value = number_at(object, key, -1);
    if (with_sinks) {
        int64_t sinks = number_at(object, "num_sink_tokens", number_at(object, "start_size", 4));
        sinks = number_at(object, "sink_tokens", number_at(object, SINK_ALIAS, sinks));
        if (sinks >= 0 && value > sinks) {
            man_complain(r, E_FORMAT, key,
                         "counts the sinks too; write \"window_tokens\": %" PRId64
                         " (without the %" PRId64 " sinks)",
                         value - sinks, sinks);
        } else {
            man_complain(
                r, E_FORMAT, key,
                "counts the sinks too; write \"window_tokens\", which is window_length less "
                "sink_tokens");
        }
    } else if (value >= 0) {
        man_complain(r, E_FORMAT, key, "unknown key; write \"%s\": %" PRId64, names[i].ours, value);
    } else {
        man_complain(r, E_FORMAT, key, "unknown key; write \"%s\"", names[i].ours);
    }
    return true;
}

static const struct man_section setting_section = {setting_fields, COUNTOF(setting_fields),
                                                   foreign_setting};

static bool word_is(const struct jnode *object, const char *key, const char *word) {
    const struct jnode *v = json_get(object, key);
    return v != NULL && json_kind_of(v) == JSON_STR && strcmp(json_str(v, NULL), word) == 0;
}

// Keys that would have no effect in the setting's mode, and what prefill needs.
static void check_setting(struct man_reader *r, const struct jnode *v, struct man_setting *s) {
    const char *sink = man_given(v, SINK_ALIAS) ? SINK_ALIAS : "sink_tokens";
    const char *window = man_given(v, WINDOW_ALIAS) ? WINDOW_ALIAS : "window_tokens";
    if (man_given(v, SINK_ALIAS) && man_given(v, "sink_tokens")) {
        man_complain(r, E_FORMAT, SINK_ALIAS, "is another name of sink_tokens, which is given too");
    }
    if (man_given(v, WINDOW_ALIAS) && man_given(v, "window_tokens")) {
        man_complain(r, E_FORMAT, WINDOW_ALIAS,
                     "is another name of window_tokens, which is given too");
    }
    if (s->mode == MAN_WINDOW && s->sink_tokens > 0) {
        man_complain(r, E_FORMAT, sink,
                     "must be 0 in mode \"window\", which has no sinks; mode \"sink\" has them");
    }
    if (s->mode == MAN_DENSE) {
        static const char *const no_effect = "has no effect in mode \"dense\"";
        if (man_given(v, sink)) man_complain(r, E_FORMAT, sink, "%s", no_effect);
        if (man_given(v, window)) man_complain(r, E_FORMAT, window, "%s", no_effect);
        if (s->prefill == MAN_PREFILL_DENSE) man_complain(r, E_FORMAT, "prefill", "%s", no_effect);
        if (s->chunk_tokens != 1) man_complain(r, E_FORMAT, "chunk_tokens", "%s", no_effect);
        if (s->strict_window) man_complain(r, E_FORMAT, "strict_window", "%s", no_effect);
    } else if (s->prefill == MAN_PREFILL_DENSE && !man_given(v, "prefill_tokens")) {
        man_complain(r, E_FORMAT, "prefill",
                     "\"dense\" needs \"prefill_tokens\": how many tokens attend densely");
    }
    if (man_given(v, "prefill_tokens") &&
        (!man_given(v, "prefill") || word_is(v, "prefill", "stream"))) {
        man_complain(r, E_FORMAT, "prefill_tokens", "has no effect without \"prefill\": \"dense\"");
    }
}

static void set_setting_defaults(struct man_setting *s) {
    if (s->sink_tokens < 0) s->sink_tokens = s->mode == MAN_SINK ? 4 : 0;
    if (s->window_tokens < 0) s->window_tokens = s->mode == MAN_DENSE ? 0 : 1020;
}

static void read_setting(struct man_reader *r, const struct jnode *v, struct man_setting *s,
                         bool in_list) {
    s->sink_tokens = s->window_tokens = -1; // not given
    s->chunk_tokens = 1;
    if (!man_read_section(r, &setting_section, v, s)) return;
    check_setting(r, v, s);
    set_setting_defaults(s);
    if (s->prefill == MAN_PREFILL_DENSE && s->prefill_tokens > 0 &&
        s->prefill_tokens <= s->sink_tokens + s->window_tokens) {
        man_complain(r, OK, "prefill_tokens",
                     "changes nothing: the cache of %" PRId64 " tokens holds them all",
                     s->sink_tokens + s->window_tokens);
    }
    if (s->name == NULL && !man_given(v, "name")) {
        if (in_list) {
            man_complain(r, E_FORMAT, "name", "is missing; each setting of a list needs one");
            return;
        }
        const char *name = man_mode_name(s->mode);
        if (mem_dup(&s->name, name, strlen(name), NULL) != OK) r->out_of_memory = true;
    } else if (s->name != NULL) {
        bool odd = strlen(s->name) > MAX_NAME;
        for (const char *c = s->name; *c != '\0'; c++) odd = odd || (unsigned char)*c < 0x20;
        if (odd) {
            man_complain(r, E_FORMAT, "name", "must be 1..%d bytes without control characters",
                         MAX_NAME);
        }
    }
}

static bool same_setting(const struct man_setting *a, const struct man_setting *b) {
    return a->mode == b->mode && a->sink_tokens == b->sink_tokens &&
           a->window_tokens == b->window_tokens && a->prefill == b->prefill &&
           a->prefill_tokens == b->prefill_tokens && a->chunk_tokens == b->chunk_tokens &&
           a->strict_window == b->strict_window;
}

static void compare_settings(struct man_reader *r, size_t i) {
    const struct man_setting *s = r->m->settings;
    for (size_t j = 0; j < i; j++) {
        if (s[i].name == NULL || s[j].name == NULL) continue;
        if (strcmp(s[i].name, s[j].name) == 0) {
            man_complain(r, E_FORMAT, "name", "\"%.*s\" is the name of $.cache[%zu] too", MAX_NAME,
                         s[i].name, j);
        } else if (same_setting(&s[i], &s[j])) {
            man_complain(r, OK, NULL, "the same as $.cache[%zu] but for its name", j);
        }
    }
}

// Room for the elements of a list, or for the single one that stands for a list of one.
static size_t list_length(struct man_reader *r, const struct jnode *v, size_t max, size_t size,
                          void *out) {
    const size_t n = v != NULL && json_kind_of(v) == JSON_ARR ? json_len(v) : 1;
    if (n == 0 || n > max) {
        if (n == 0) man_complain(r, E_FORMAT, NULL, "must not be empty");
        if (n > max) man_complain(r, E_FORMAT, NULL, "%zu elements; at most %zu are read", n, max);
        return 0;
    }
    if (mem_zalloc(out, n, size, NULL) == OK) return n;
    r->out_of_memory = true;
    return 0;
}

static void read_cache(struct man_reader *r, const struct jnode *v) {
    struct manifest *m = r->m;
    const bool list = json_kind_of(v) == JSON_ARR;
    m->n_settings = list_length(r, v, MAX_SETTINGS, sizeof *m->settings, &m->settings);
    const size_t mark = r->place.n;
    for (size_t i = 0; i < m->n_settings; i++) {
        if (list) sbuf_printf(&r->place, "[%zu]", i);
        read_setting(r, list ? json_at(v, i) : v, &m->settings[i], list);
        compare_settings(r, i);
        r->place.n = mark;
    }
}

/* ---- input ---- */

#define IN_INPUT(member) offsetof(struct man_input, member)
static const struct man_field input_fields[] = {
    {.key = "path", .kind = MAN_K_STRING, .offset = IN_INPUT(path)},
    {.key = "text_key", .kind = MAN_K_STRING, .offset = IN_INPUT(text_key)},
    {.key = "id_key", .kind = MAN_K_STRING, .offset = IN_INPUT(id_key)},
    {.key = "ids_key", .kind = MAN_K_STRING, .offset = IN_INPUT(ids_key)},
    {.key = "invalid_utf8",
     .kind = MAN_K_WORD,
     .offset = IN_INPUT(invalid_utf8),
     .words = utf8_words},
};
static const struct man_section input_section = {input_fields, COUNTOF(input_fields), NULL};

static bool is_plain_text(const char *path) {
    static const char *const endings[] = {".txt", ".txt.gz", ".txt.zst", ".txt.lz4"};
    const size_t n = strlen(path);
    for (size_t i = 0; i < COUNTOF(endings); i++) {
        const size_t k = strlen(endings[i]);
        if (n >= k && strcmp(path + n - k, endings[i]) == 0) return true;
    }
    return false;
}

static void set_default(struct man_reader *r, char **key, const char *value) {
    if (*key == NULL && mem_dup(key, value, strlen(value), NULL) != OK) r->out_of_memory = true;
}

static void drop(char **key) {
    mem_free(*key);
    *key = NULL;
}

static void read_input_entry(struct man_reader *r, const struct jnode *v, struct man_input *in) {
    if (json_kind_of(v) == JSON_STR) {
        man_read_string(r, v, &in->path);
    } else if (json_kind_of(v) != JSON_OBJ) {
        man_expect(r, "a path or an object", v);
        return;
    } else {
        man_read_section(r, &input_section, v, in);
        man_require(r, v, "path");
        if (man_given(v, "ids_key") && man_given(v, "text_key")) {
            man_complain(r, E_FORMAT, "ids_key", "excludes text_key: a line is ids or text");
        }
        if (man_given(v, "ids_key") && in->invalid_utf8 == MAN_UTF8_REPLACE) {
            man_complain(r, OK, "invalid_utf8", "has no effect on ids");
        }
        in->keys_given = man_given(v, "text_key") || man_given(v, "ids_key");
        const bool plain = in->path != NULL && is_plain_text(in->path);
        if (plain && man_given(v, "ids_key")) {
            man_complain(r, E_FORMAT, "ids_key", "needs .jsonl input: a .txt file has no keys");
        }
        for (size_t i = 1; i <= 2 && plain; i++) { // text_key and id_key
            if (!man_given(v, input_fields[i].key)) continue;
            man_complain(r, OK, input_fields[i].key, "has no effect on a .txt file");
        }
    }
    if (in->path != NULL && is_plain_text(in->path)) {
        drop(&in->text_key);
        drop(&in->id_key);
    } else {
        if (in->ids_key == NULL) set_default(r, &in->text_key, "text");
        set_default(r, &in->id_key, "id");
    }
}

static int by_path(const void *a, const void *b) {
    const struct man_input *x = *(const struct man_input *const *)a;
    const struct man_input *y = *(const struct man_input *const *)b;
    const int order = strcmp(x->path, y->path);
    return order != 0 ? order : (x > y) - (x < y);
}

// A document is known by its source and offset, so no source may come twice. Patterns that overlap
// are found when they are expanded.
static void find_repeated(struct man_reader *r) {
    const struct manifest *m = r->m;
    const struct man_input **sorted = NULL; /* owned */
    size_t n = 0;
    if (mem_zalloc(&sorted, m->n_inputs, sizeof *sorted, NULL) != OK) {
        r->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < m->n_inputs; i++) {
        if (m->inputs[i].path != NULL) sorted[n++] = &m->inputs[i];
    }
    qsort(sorted, n, sizeof *sorted, by_path);
    const size_t mark = r->place.n;
    for (size_t i = 1; i < n; i++) {
        if (strcmp(sorted[i]->path, sorted[i - 1]->path) != 0) continue;
        const bool stdin_twice = strcmp(sorted[i]->path, "-") == 0;
        sbuf_printf(&r->place, "[%zu]", (size_t)(sorted[i] - m->inputs));
        man_complain(r, E_FORMAT, NULL, "%s; the first time at $.input[%zu]",
                     stdin_twice ? "\"-\" (stdin) can be read only once" : "is listed twice",
                     (size_t)(sorted[i - 1] - m->inputs));
        r->place.n = mark;
    }
    mem_free(sorted);
}

static void read_inputs(struct man_reader *r, const struct jnode *v) {
    struct manifest *m = r->m;
    const bool list = json_kind_of(v) == JSON_ARR;
    m->n_inputs = list_length(r, v, MAX_INPUTS, sizeof *m->inputs, &m->inputs);
    const size_t mark = r->place.n;
    for (size_t i = 0; i < m->n_inputs; i++) {
        if (list) sbuf_printf(&r->place, "[%zu]", i);
        read_input_entry(r, list ? json_at(v, i) : v, &m->inputs[i]);
        r->place.n = mark;
    }
    find_repeated(r);
}

/* ---- the other sections ---- */

#define IN_MANIFEST(member) offsetof(struct manifest, member)

static const struct man_field model_fields[] = {
    {.key = "path", .kind = MAN_K_STRING, .offset = IN_MANIFEST(model_path)},
};
static const struct man_section model_section = {model_fields, COUNTOF(model_fields), NULL};

static void read_model(struct man_reader *r, const struct jnode *v) {
    if (json_kind_of(v) == JSON_STR) {
        man_read_string(r, v, &r->m->model_path);
    } else if (json_kind_of(v) != JSON_OBJ) {
        man_expect(r, "a path or an object", v);
    } else {
        man_read_section(r, &model_section, v, r->m);
        man_require(r, v, "path");
    }
}

static void read_add_bos(struct man_reader *r, const struct jnode *v) {
    if (json_kind_of(v) == JSON_BOOL) {
        r->m->score.add_bos = json_bool(v) ? MAN_BOS_TRUE : MAN_BOS_FALSE;
    } else if (json_kind_of(v) != JSON_STR || strcmp(json_str(v, NULL), "auto") != 0) {
        man_complain(r, E_FORMAT, NULL, "must be \"auto\", true or false");
    }
}

static const struct man_field score_fields[] = {
    {.key = "tokens", .kind = MAN_K_BOOL, .offset = IN_MANIFEST(score.tokens)},
    {.key = "limit_tokens",
     .kind = MAN_K_INT,
     .offset = IN_MANIFEST(score.limit_tokens),
     .hi = (int64_t)1 << 40},
    {.key = "add_bos", .kind = MAN_K_OWN, .own = read_add_bos},
};
static const struct man_section score_section = {score_fields, COUNTOF(score_fields), NULL};

static void read_score(struct man_reader *r, const struct jnode *v) {
    man_read_section(r, &score_section, v, r->m);
}

static const struct man_field output_fields[] = {
    {.key = "path", .kind = MAN_K_STRING, .offset = IN_MANIFEST(output.path)},
    {.key = "part_bytes",
     .kind = MAN_K_INT,
     .offset = IN_MANIFEST(output.part_bytes),
     .lo = 1024,
     .hi = (int64_t)1 << 40},
};
static const struct man_section output_section = {output_fields, COUNTOF(output_fields), NULL};

static void read_output(struct man_reader *r, const struct jnode *v) {
    if (!man_read_section(r, &output_section, v, r->m)) return;
    if ((r->flags & MAN_NO_OUTPUT) == 0) man_require(r, v, "path");
}

static const struct man_field compute_fields[] = {
    {.key = "dtype",
     .kind = MAN_K_WORD,
     .offset = IN_MANIFEST(compute.dtype),
     .words = dtype_words,
     .later = dtype_later},
    {.key = "span_tokens",
     .kind = MAN_K_INT,
     .offset = IN_MANIFEST(compute.span_tokens),
     .hi = 1048576},
};

// Where a job runs may change from start to start, so it is said on the command line.
static bool foreign_compute(struct man_reader *r, const struct jnode *object, const char *key) {
    (void)object;
    if (strcmp(key, "threads") != 0 && strcmp(key, "devices") != 0) return false;
    man_complain(r, E_FORMAT, key, "unknown key; give --%s on the command line", key);
    return true;
}

static const struct man_section compute_section = {compute_fields, COUNTOF(compute_fields),
                                                   foreign_compute};

static void read_compute(struct man_reader *r, const struct jnode *v) {
    man_read_section(r, &compute_section, v, r->m);
}

static void read_version(struct man_reader *r, const struct jnode *v) {
    if (json_kind_of(v) != JSON_INT) {
        man_expect(r, "the integer 1", v);
    } else if (json_int(v) != 1) {
        man_complain(r, E_UNSUPPORTED, NULL, "manifest version %" PRId64 "; this program reads 1",
                     json_int(v));
    } else {
        r->m->version = 1;
    }
}

static void read_generate(struct man_reader *r, const struct jnode *v) {
    (void)v;
    if (word_is(json_root(r->doc), "job", "generate")) return; // refused there already
    man_complain(r, E_FORMAT, NULL, "has no effect unless \"job\" is \"generate\"");
}

static const struct man_field root_fields[] = {
    {.key = "version", .kind = MAN_K_OWN, .own = read_version},
    {.key = "job",
     .kind = MAN_K_WORD,
     .offset = IN_MANIFEST(job),
     .words = job_words,
     .later = job_later},
    {.key = "model", .kind = MAN_K_OWN, .own = read_model},
    {.key = "input", .kind = MAN_K_OWN, .own = read_inputs},
    {.key = "cache", .kind = MAN_K_OWN, .own = read_cache},
    {.key = "score", .kind = MAN_K_OWN, .own = read_score},
    {.key = "output", .kind = MAN_K_OWN, .own = read_output},
    {.key = "compute", .kind = MAN_K_OWN, .own = read_compute},
    {.key = "generate", .kind = MAN_K_OWN, .own = read_generate},
};
static const struct man_section root_section = {root_fields, COUNTOF(root_fields), NULL};

// "$.cache" for a key that is right there and nowhere else; NULL for others ("path" is in three).
static const char *section_of(const char *key) {
    static const struct {
        const char *place;
        const struct man_section *section;
    } sections[] = {{"$.cache", &setting_section}, {"$.input", &input_section},
                    {"$.model", &model_section},   {"$.score", &score_section},
                    {"$.output", &output_section}, {"$.compute", &compute_section},
                    {"$", &root_section}};
    const char *found = NULL;
    int n = 0;
    for (size_t i = 0; i < COUNTOF(sections); i++) {
        for (size_t k = 0; k < sections[i].section->n_fields; k++) {
            if (strcmp(sections[i].section->fields[k].key, key) != 0) continue;
            found = sections[i].place;
            n++;
        }
    }
    return n == 1 ? found : NULL;
}

static void read_root(struct man_reader *r) {
    static const char *const required[] = {"version", "job", "model", "input", "output"};
    struct manifest *m = r->m;
    const struct jnode *root = json_root(r->doc);
    m->output.part_bytes = 64 << 20;
    if (!man_read_section(r, &root_section, root, m)) return;
    for (size_t i = 0; i < COUNTOF(required); i++) {
        const bool optional = strcmp(required[i], "output") == 0 && (r->flags & MAN_NO_OUTPUT) != 0;
        if (!optional) man_require(r, root, required[i]);
    }
    if (man_given(root, "cache")) return;
    m->n_settings = list_length(r, NULL, 1, sizeof *m->settings, &m->settings);
    if (m->n_settings == 0) return;
    m->settings[0] =
        (struct man_setting){.sink_tokens = -1, .window_tokens = -1, .chunk_tokens = 1};
    set_setting_defaults(&m->settings[0]);
    set_default(r, &m->settings[0].name, man_mode_name(m->settings[0].mode));
}

enum status man_parse(struct manifest **out, const struct json *doc, const char *dir,
                      unsigned flags, struct man_problems *problems, struct err *e) {
    enum status st = OK;
    struct man_problems own;
    man_problems_init(&own);
    struct man_reader r = {.doc = doc,
                           .flags = flags,
                           .problems = problems != NULL ? problems : &own,
                           .home = section_of};
    sbuf_init(&r.place);
    *out = NULL;
    TRY(mem_zalloc(&r.m, 1, sizeof *r.m, e));
    TRY(mem_dup(&r.m->dir, dir, strlen(dir), e));
    sbuf_puts(&r.place, "$");
    read_root(&r);
    if (r.out_of_memory || r.place.failed) FAIL(e, E_NOMEM, "out of memory");
    if (r.problems->n_errors > 0) {
        const struct man_problem *p = &r.problems->errors[0];
        FAIL(e, p->code, "%s:%d: %s: %s", json_borrow_label(doc), p->line, p->path, p->message);
    }
    *out = r.m;
    r.m = NULL;
done:
    man_close(r.m);
    sbuf_fini(&r.place);
    man_problems_fini(&own);
    return st;
}
