#include "cmd/args.h"

#include "base/mem.h"
#include "base/num.h"
#include "base/sbuf.h"
#include "base/suggest.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "jobs/rank.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_OPTIONS = 40, HELP_COLUMN = 26 };

void cmd_list_fini(struct cmd_list *l) {
    mem_free(l->v);
    *l = (struct cmd_list){.v = NULL};
}

static void put_usage(struct sbuf *b, const struct cmd_args_spec *spec) {
    sbuf_printf(b, "usage: basin %s%s%s%s\n", spec->name, *spec->operands != '\0' ? " " : "",
                spec->operands, spec->n_option > 0 ? " [options]" : "");
}

int cmd_args_misuse(const struct cmd_args_spec *spec, const char *fmt, ...) {
    struct sbuf b;
    sbuf_init(&b);
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cmd_say("%s: %s", spec->name, text);
    put_usage(&b, spec);
    sbuf_printf(&b, "'basin %s -h' says more\n", spec->name);
    cmd_say_raw(sbuf_str(&b));
    sbuf_fini(&b);
    return CMD_EXIT_USAGE;
}

/* ---- help ---- */

static void put_option(struct sbuf *b, const char *name, const char *value, const char *help) {
    const size_t begin = b->n;
    sbuf_printf(b, "  %s%s%s", name, value != NULL ? " " : "", value != NULL ? value : "");
    size_t width = b->n - begin;
    if (width >= HELP_COLUMN) {
        sbuf_putc(b, '\n');
        width = 0;
    }
    for (; width < HELP_COLUMN; width++) sbuf_putc(b, ' ');
    for (const char *at = help; *at != '\0'; at++) { // further lines hang under the first
        sbuf_putc(b, *at);
        if (*at == '\n') sbuf_printf(b, "%*s", HELP_COLUMN, "");
    }
    sbuf_putc(b, '\n');
}

int cmd_args_help(const struct cmd_args_spec *spec) {
    struct sbuf b;
    sbuf_init(&b);
    put_usage(&b, spec);
    sbuf_printf(&b, "\n%s\n", spec->summary);
    if (spec->about != NULL) sbuf_printf(&b, "\n%s", spec->about);
    sbuf_puts(&b, "\noptions:\n");
    for (int i = 0; i < spec->n_option; i++) {
        const struct cmd_option *o = &spec->options[i];
        char name[48];
        snprintf(name, sizeof name, "--%s", o->name);
        if (o->help != NULL) put_option(&b, name, o->value, o->help);
    }
    put_option(&b, "-h, --help", NULL, "this text");
    sbuf_printf(&b, "\nexamples:\n%s", spec->examples);
    return cmd_out_text(&b);
}

/* ---- reading ---- */

static const struct cmd_option *find_option(const struct cmd_args_spec *spec, const char *name,
                                            size_t n) {
    for (int i = 0; i < spec->n_option; i++) {
        const char *known = spec->options[i].name;
        if (strlen(known) == n && memcmp(known, name, n) == 0) return &spec->options[i];
    }
    return NULL;
}

static int unknown_option(const struct cmd_args_spec *spec, const char *word) {
    const char *names[MAX_OPTIONS + 2];
    char bare[64];
    int n = 0;
    CHECK(spec->n_option <= MAX_OPTIONS);
    for (int i = 0; i < spec->n_option; i++) {
        if (spec->options[i].help != NULL) names[n++] = spec->options[i].name;
    }
    names[n++] = "help";
    names[n] = NULL;
    snprintf(bare, sizeof bare, "%s", word + strspn(word, "-"));
    bare[strcspn(bare, "=")] = '\0';
    const char *near = suggest_closest(bare, names);
    return cmd_args_misuse(spec, "no option %.*s%s%s%s", (int)strcspn(word, "="), word,
                           near != NULL ? "; did you mean --" : "", near != NULL ? near : "",
                           near != NULL ? "?" : "");
}

static int bad_word(const struct cmd_args_spec *spec, const struct cmd_option *o,
                    const char *value) {
    struct sbuf list;
    sbuf_init(&list);
    for (int i = 0; o->words[i] != NULL; i++) {
        sbuf_printf(&list, "%s%s",
                    i == 0                    ? ""
                    : o->words[i + 1] == NULL ? " or "
                                              : ", ",
                    o->words[i]);
    }
    const char *near = suggest_closest(value, o->words);
    const int code = cmd_args_misuse(spec, "--%s %s: must be %s%s%s%s", o->name, value,
                                     sbuf_str(&list), near != NULL ? "; did you mean " : "",
                                     near != NULL ? near : "", near != NULL ? "?" : "");
    sbuf_fini(&list);
    return code;
}

static bool is_word(const char *const *words, const char *value) {
    for (; *words != NULL; words++) {
        if (strcmp(*words, value) == 0) return true;
    }
    return false;
}

// Puts an option's value into its member. Returns 0, or the exit code of a misuse.
static int take_value(const struct cmd_args_spec *spec, const struct cmd_option *o,
                      const char *value, void *into) {
    void *member = (char *)into + o->offset;
    struct err e = {.code = OK};
    if (o->kind != CMD_FLAG && *value == '\0') {
        return cmd_args_misuse(spec, "--%s: its value is empty", o->name);
    }
    switch (o->kind) {
    case CMD_FLAG: *(bool *)member = true; break;
    case CMD_TEXT: *(const char **)member = value; break;
    case CMD_WORD:
        if (!is_word(o->words, value)) return bad_word(spec, o, value);
        *(const char **)member = value;
        break;
    case CMD_INT: {
        int64_t v = 0;
        if (!num_parse_int(value, o->hi, &v) || v < o->lo) {
            return cmd_args_misuse(spec, "--%s %s: must be a number, %" PRId64 "..%" PRId64,
                                   o->name, value, o->lo, o->hi);
        }
        *(int64_t *)member = v;
        break;
    }
    case CMD_DURATION:
        if (rank_parse_duration(value, (double *)member, &e) != OK) {
            return cmd_args_misuse(spec, "--%s: %s", o->name, e.msg);
        }
        if (*(double *)member <= 0) {
            return cmd_args_misuse(spec, "--%s %s: must be above 0", o->name, value);
        }
        break;
    case CMD_LIST: {
        struct cmd_list *l = member;
        if (mem_grow(&l->v, &l->cap, l->n + 1, sizeof *l->v, &e) != OK) {
            return cmd_fail(&e, CMD_FROM_OPTIONS);
        }
        l->v[l->n++] = value;
        break;
    }
    }
    return CMD_EXIT_OK;
}

// Reads the option argv[*i] and perhaps the value behind it. Returns 0, or an exit code.
static int read_option(const struct cmd_args_spec *spec, int argc, char **argv, int *i,
                       void *into) {
    const char *word = argv[*i];
    const char *equals = strchr(word, '=');
    const size_t n = equals != NULL ? (size_t)(equals - word) : strlen(word);
    const struct cmd_option *o =
        n > 2 && word[1] == '-' ? find_option(spec, word + 2, n - 2) : NULL;
    if (o == NULL) return unknown_option(spec, word);
    const char *value = equals != NULL ? equals + 1 : NULL;
    if (o->kind == CMD_FLAG) {
        if (value != NULL) return cmd_args_misuse(spec, "--%s takes no value", o->name);
        value = "";
    } else if (value == NULL) {
        // A forgotten value would swallow the next option; a value that looks like one needs '='.
        if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0) {
            return cmd_args_misuse(spec, "--%s needs a value: --%s %s", o->name, o->name, o->value);
        }
        value = argv[++*i];
    }
    return take_value(spec, o, value, into);
}

static int check_operands(const struct cmd_args_spec *spec, char **argv, int n) {
    if (n < spec->min_operands) {
        const char *missing = spec->operands; // the n-th word of "MODEL FILE..."
        for (int i = 0; i < n; i++) missing += strcspn(missing, " ") + 1;
        return cmd_args_misuse(spec, "%.*s is missing", (int)strcspn(missing, " "), missing);
    }
    if (spec->max_operands >= 0 && n > spec->max_operands) {
        return cmd_args_misuse(spec, "unexpected argument \"%s\"", argv[spec->max_operands]);
    }
    return CMD_EXIT_OK;
}

bool cmd_args_read(const struct cmd_args_spec *spec, int argc, char **argv, void *into,
                   int *n_operand, int *code) {
    int n = 0;
    bool only_operands = false;
    *code = CMD_EXIT_OK;
    // Help first: somebody who asks for it is not to be told about the rest of the line.
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "-h") != 0 && strcmp(argv[i], "--help") != 0) continue;
        *code = cmd_args_help(spec);
        return false;
    }
    for (int i = 0; i < argc; i++) {
        if (only_operands || argv[i][0] != '-' || strcmp(argv[i], "-") == 0) {
            argv[n++] = argv[i];
        } else if (strcmp(argv[i], "--") == 0) {
            only_operands = true;
        } else {
            *code = read_option(spec, argc, argv, &i, into);
            if (*code != CMD_EXIT_OK) return false;
        }
    }
    *n_operand = n;
    *code = check_operands(spec, argv, n);
    return *code == CMD_EXIT_OK;
}
