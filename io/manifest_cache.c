#include "io/manifest_impl.h"

#include <inttypes.h>
#include <string.h>

enum { MAX_NAME = 64 };

static const char *const mode_words[] = {"sink", "window", "dense", NULL};
static const char *const mode_later[] = {"recompute", NULL};
static const char *const prefill_words[] = {"stream", "dense", NULL};

const char *man_mode_name(enum man_mode v) {
    return mode_words[v];
}

const char *man_prefill_name(enum man_prefill v) {
    return prefill_words[v];
}

#define SINK_ALIAS "attention_sink_size"
#define WINDOW_ALIAS "attention_sink_window_size"

#define IN_SETTING(member) offsetof(struct man_setting, member)
static const struct man_field setting_fields[] = {
    {.key = "name",
     .kind = MAN_K_STRING,
     .offset = IN_SETTING(name),
     .schema = "\"maxLength\":64,\"allOf\":[{\"not\":{\"pattern\":\"[\\u0000-\\u001F]\"}}]",
     .about = "What rows call this setting: at most 64 bytes. One setting alone is named by its "
              "mode; in a list each needs a name of its own."},
    {.key = "mode",
     .kind = MAN_K_WORD,
     .offset = IN_SETTING(mode),
     .words = mode_words,
     .later = mode_later,
     .fallback = "\"sink\"",
     .about = "sink: the first tokens and a sliding window; window: the window alone; dense: "
              "ordinary causal attention."},
    {.key = "sink_tokens",
     .kind = MAN_K_INT,
     .offset = IN_SETTING(sink_tokens),
     .hi = 65536,
     .about = "S: tokens at the beginning of a document that stay visible (BOS counts). Default 4 "
              "in mode sink; 0 in mode window."},
    {.key = SINK_ALIAS,
     .kind = MAN_K_INT,
     .offset = IN_SETTING(sink_tokens),
     .hi = 65536,
     .about = "Another name of sink_tokens."},
    {.key = "window_tokens",
     .kind = MAN_K_INT,
     .offset = IN_SETTING(window_tokens),
     .lo = 1,
     .hi = 16777216,
     .about = "W: tokens before the current one that are visible. Default 1020."},
    {.key = WINDOW_ALIAS,
     .kind = MAN_K_INT,
     .offset = IN_SETTING(window_tokens),
     .lo = 1,
     .hi = 16777216,
     .about = "Another name of window_tokens."},
    {.key = "prefill",
     .kind = MAN_K_WORD,
     .offset = IN_SETTING(prefill),
     .words = prefill_words,
     .fallback = "\"stream\"",
     .about = "stream: one rule for all tokens; dense: the first prefill_tokens attend densely to "
              "themselves, then the cache is cut."},
    {.key = "prefill_tokens",
     .kind = MAN_K_INT,
     .offset = IN_SETTING(prefill_tokens),
     .lo = 1,
     .hi = 16777216,
     .about = "How many tokens the dense prefill takes."},
    {.key = "chunk_tokens",
     .kind = MAN_K_INT,
     .offset = IN_SETTING(chunk_tokens),
     .lo = 1,
     .hi = 1048576,
     .fallback = "1",
     .about = "Tokens fed together: each sees the whole cache and the chunk so far, and tokens are "
              "dropped behind a chunk."},
    {.key = "strict_window",
     .kind = MAN_K_BOOL,
     .offset = IN_SETTING(strict_window),
     .fallback = "false",
     .about = "The current token counts inside W."},
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

#define IF(key, word)                                                                              \
    "\"if\":{\"required\":[\"" key "\"],\"properties\":{\"" key "\":{\"const\":\"" word "\"}}}"

// What check_setting() refuses, as schemas.
static const char *const setting_rules[] = {
    "{\"not\":{\"required\":[\"sink_tokens\",\"" SINK_ALIAS "\"]}}",
    "{\"not\":{\"required\":[\"window_tokens\",\"" WINDOW_ALIAS "\"]}}",
    "{" IF("mode", "window") ",\"then\":{\"properties\":{\"sink_tokens\":{\"const\":0},"
                             "\"" SINK_ALIAS "\":{\"const\":0}}}}",
    "{" IF("mode", "dense") ",\"then\":{\"properties\":{\"sink_tokens\":false,\"" SINK_ALIAS
                            "\":false,\"window_tokens\":false,\"" WINDOW_ALIAS "\":false,"
                            "\"prefill\":{\"const\":\"stream\"},\"chunk_tokens\":{\"const\":1},"
                            "\"strict_window\":{\"const\":false}}}}",
    NULL,
};

const struct man_section man_setting_section = {.fields = setting_fields,
                                                .n_fields = COUNTOF(setting_fields),
                                                .foreign = foreign_setting,
                                                .rules = setting_rules,
                                                .in_list = "name"};

// Keys that would have no effect in the setting's mode, and what prefill needs.
static void check_setting(struct man_reader *r, const struct jnode *v, struct man_setting *s) {
    const bool generates = man_word_is(json_root(r->doc), "job", "generate");
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
    } else if (generates) {
        // What is dense is the prompt, and how a prompt is fed is its turn's.
        if (man_given(v, "prefill_tokens")) {
            man_complain(r, E_FORMAT, "prefill_tokens",
                         "has no effect in a generate job: the "
                         "prompt is what \"prefill\": \"dense\" is about");
        }
        if (s->chunk_tokens != 1) {
            man_complain(r, E_FORMAT, "chunk_tokens",
                         "has no effect in a generate job; see $.generate.turn");
        }
        return;
    } else if (s->prefill == MAN_PREFILL_DENSE && !man_given(v, "prefill_tokens")) {
        man_complain(r, E_FORMAT, "prefill",
                     "\"dense\" needs \"prefill_tokens\": how many tokens attend densely");
    }
    if (man_given(v, "prefill_tokens") &&
        (!man_given(v, "prefill") || man_word_is(v, "prefill", "stream"))) {
        man_complain(r, E_FORMAT, "prefill_tokens", "has no effect without \"prefill\": \"dense\"");
    }
}

static void start_setting(struct man_setting *s) {
    s->sink_tokens = s->window_tokens = -1; // not given
    s->chunk_tokens = 1;
}

static void set_setting_defaults(struct man_setting *s) {
    if (s->sink_tokens < 0) s->sink_tokens = s->mode == MAN_SINK ? 4 : 0;
    if (s->window_tokens < 0) s->window_tokens = s->mode == MAN_DENSE ? 0 : 1020;
}

static void read_setting(struct man_reader *r, const struct jnode *v, struct man_setting *s,
                         bool in_list) {
    start_setting(s);
    if (!man_read_section(r, &man_setting_section, v, s)) return;
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
        man_set_default(r, &s->name, man_mode_name(s->mode));
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

void man_read_cache(struct man_reader *r, const struct jnode *v) {
    struct manifest *m = r->m;
    const bool list = json_kind_of(v) == JSON_ARR;
    m->n_settings = man_list_length(r, v, MAN_MAX_SETTINGS, sizeof *m->settings, &m->settings);
    const size_t mark = r->place.n;
    for (size_t i = 0; i < m->n_settings; i++) {
        if (list) sbuf_printf(&r->place, "[%zu]", i);
        read_setting(r, list ? json_at(v, i) : v, &m->settings[i], list);
        compare_settings(r, i);
        r->place.n = mark;
    }
}

void man_default_cache(struct man_reader *r) {
    struct manifest *m = r->m;
    m->n_settings = man_list_length(r, NULL, 1, sizeof *m->settings, &m->settings);
    if (m->n_settings == 0) return;
    struct man_setting *s = &m->settings[0];
    start_setting(s);
    set_setting_defaults(s);
    man_set_default(r, &s->name, man_mode_name(s->mode));
}
