#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/job.h"
#include "cmd/out.h"
#include "cmd/text.h"
#include "base/suggest.h"
#include "core/chat.h"
#include "core/model.h"
#include "core/tok.h"
#include "io/corpus.h"
#include "io/json.h"
#include "jobs/plan.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct options {
    struct cmd_job_options job;
};

static const struct cmd_option table[] = {CMD_JOB_SET(struct options)};

// What was found: a line each, and how the process is to end.
struct findings {
    const char *file;
    struct json *doc; /* owned: for lines; NULL when the file is no JSON */
    struct sbuf text;
    int64_t errors, warnings;
    int code; /* 66 while nothing worse than missing inputs was found */
};

static void add(struct findings *f, int line, const char *place, bool warning,
                const char *message) {
    struct sbuf b;
    sbuf_init(&b);
    sbuf_printf(&b, "%s:%d: %s: %s%s", f->file, line, place, warning ? "warning: " : "", message);
    cmd_out_printable(&f->text, sbuf_str(&b));
    sbuf_putc(&f->text, '\n');
    f->errors += !warning;
    f->warnings += warning;
    sbuf_fini(&b);
}

static void add_error(struct findings *f, const char *place, enum status st, const char *message) {
    const int code = cmd_exit_code(st, CMD_FROM_JOB);
    add(f, f->doc != NULL ? json_line(f->doc, place) : 1, place, false, message);
    if (f->code == CMD_EXIT_OK || f->code == CMD_EXIT_NOINPUT) f->code = code;
}

// Of a path that may be written as "PATH" or as {"path": "PATH"}.
static void add_path_error(struct findings *f, const char *place, const struct jnode *v,
                           enum status st, const char *message) {
    char inner[64];
    const bool object = v != NULL && json_kind_of(v) == JSON_OBJ;
    snprintf(inner, sizeof inner, "%s%s", place, object ? ".path" : "");
    add_error(f, inner, st, message);
}

/* ---- what the manifest names ---- */

// Sinks and window together reach beyond what the model was trained on.
static void check_context(struct findings *f, const struct manifest *m, const struct arch *a) {
    const struct jnode *cache = f->doc != NULL ? json_get(json_root(f->doc), "cache") : NULL;
    const bool list = cache != NULL && json_kind_of(cache) == JSON_ARR;
    for (size_t i = 0; i < m->n_settings; i++) {
        const struct man_setting *s = &m->settings[i];
        const int64_t c = s->sink_tokens + s->window_tokens;
        if (s->mode == MAN_DENSE || a->n_ctx_train <= 0 || c <= a->n_ctx_train) continue;
        char place[64], message[160];
        snprintf(place, sizeof place, list ? "$.cache[%zu].window_tokens" : "$.cache.window_tokens",
                 i);
        snprintf(message, sizeof message,
                 "%" PRId64 " sink and window tokens; the model was trained on %" PRId64, c,
                 a->n_ctx_train);
        add(f, f->doc != NULL ? json_line(f->doc, place) : 1, place, true, message);
    }
}

static bool reads_text(const struct manifest *m) {
    for (size_t i = 0; i < m->n_inputs; i++) {
        if (m->inputs[i].ids_key == NULL) return true;
    }
    return false;
}

static void check_template(struct findings *f, const struct manifest *m) {
    const char *name = m->generate.template;
    if (m->job != MAN_GENERATE || strcmp(name, "auto") == 0 || chat_find(name) != NULL) return;
    char message[256];
    const char *near = suggest_closest(name, chat_names());
    snprintf(message, sizeof message, "\"%.64s\" is not a template this program knows%s%s%s", name,
             near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
             near != NULL ? "\"?" : "");
    add_error(f, "$.generate.template", E_FORMAT, message);
}

static void check_model(struct findings *f, const struct manifest *m) {
    struct model *model = NULL;
    struct tok *tok = NULL;
    struct sbuf path;
    struct err e = {.code = OK};
    const struct jnode *v = f->doc != NULL ? json_get(json_root(f->doc), "model") : NULL;
    sbuf_init(&path);
    man_path(m, m->model_path, &path);
    if (model_open(&model, sbuf_str(&path), &e) != OK) {
        add_path_error(f, "$.model", v, e.code, e.msg);
    } else {
        check_context(f, m, model_arch(model));
    }
    e.code = OK;
    // One missing directory is one mistake; a corpus of ids needs no tokenizer.
    if (model != NULL && (reads_text(m) || m->job == MAN_GENERATE) &&
        tok_open(&tok, sbuf_str(&path), &e) != OK) {
        add_path_error(f, "$.model", v, e.code, e.msg);
    }
    tok_close(tok);
    model_close(model);
    sbuf_fini(&path);
}

// The plan's messages begin with a place, "$.input[2]: ". Moves it to `place`, which stays as it is
// when there is none; returns the rest of the message.
static const char *take_place(const char *message, char *place, size_t cap) {
    const char *colon = strstr(message, ": ");
    if (strncmp(message, "$.input", 7) != 0 || colon == NULL) return message;
    snprintf(place, cap, "%.*s", (int)(colon - message), message);
    return colon + 2;
}

// Every input of a list by itself, so that each missing one is named; then all together.
static void check_inputs(struct findings *f, const struct manifest *m, struct plan **plan) {
    const int64_t errors = f->errors;
    char place[48] = "$.input", ignored[48];
    struct err e = {.code = OK};
    const struct jnode *input = f->doc != NULL ? json_get(json_root(f->doc), "input") : NULL;
    const bool list = input != NULL && json_kind_of(input) == JSON_ARR;
    for (size_t i = 0; i < m->n_inputs && list; i++) {
        struct manifest one = *m;
        struct plan *p = NULL;
        one.inputs = &m->inputs[i];
        one.n_inputs = 1;
        snprintf(place, sizeof place, "$.input[%zu]", i);
        e.code = OK;
        if (plan_make(&p, &one, &e) != OK) {
            add_path_error(f, place, json_at(input, i), e.code,
                           take_place(e.msg, ignored, sizeof ignored)); // it knows one input only
        }
        plan_free(p);
    }
    if (f->errors > errors) return;
    e.code = OK;
    snprintf(place, sizeof place, "$.input");
    if (plan_make(plan, m, &e) != OK) {
        const char *message = take_place(e.msg, place, sizeof place);
        add_error(f, place, e.code, message);
    }
}

// Of a manifest that has other mistakes: the files it names, by themselves.
static void check_files(struct findings *f, const char *dir) {
    const struct jnode *input = json_get(json_root(f->doc), "input");
    const bool list = input != NULL && json_kind_of(input) == JSON_ARR;
    const size_t n = list ? json_len(input) : input != NULL;
    for (size_t i = 0; i < n; i++) {
        const struct jnode *one = list ? json_at(input, i) : input, *path = one;
        if (json_kind_of(one) == JSON_OBJ) path = json_get(one, "path");
        if (path == NULL || json_kind_of(path) != JSON_STR) continue;
        struct corpus_list files = {.v = NULL};
        struct err e = {.code = OK};
        char place[48];
        const char *name = json_str(path, NULL);
        snprintf(place, sizeof place, list ? "$.input[%zu]" : "$.input", i);
        if (strcmp(name, "-") == 0 || corpus_glob(name, dir, &files, &e) == OK) {
            corpus_list_fini(&files);
        } else if (e.code == E_NOINPUT) {
            add_path_error(f, place, one, e.code, e.msg);
        }
    }
}

// The directory of a file.
static void dir_of(const char *file, struct sbuf *out) {
    const char *slash = strrchr(file, '/');
    if (slash == NULL) sbuf_puts(out, ".");
    if (slash != NULL) sbuf_add(out, file, slash > file ? (size_t)(slash - file) : 1);
}

/* ---- the command ---- */

static void say_verdict(const struct findings *f, const struct plan *plan) {
    struct sbuf b;
    sbuf_init(&b);
    if (f->errors > 0) {
        cmd_text_plural(&b, f->errors, "error");
    } else {
        sbuf_puts(&b, "nothing wrong");
    }
    if (f->warnings > 0) {
        sbuf_puts(&b, ", ");
        cmd_text_plural(&b, f->warnings, "warning");
    }
    if (plan != NULL && f->errors == 0) {
        sbuf_puts(&b, "; ");
        cmd_text_plural(&b, plan->n_part, "part");
        sbuf_puts(&b, ", ");
        cmd_text_bytes(&b, plan->bytes);
        sbuf_printf(&b, "; next: basin plan %s", f->file);
    }
    cmd_say("%s: %s", f->file, sbuf_str(&b));
    sbuf_fini(&b);
}

static int validate(const char *file, const struct options *o) {
    struct findings f = {.file = file, .code = CMD_EXIT_OK};
    struct man_problems problems;
    struct manifest *m = NULL;
    struct plan *plan = NULL;
    struct err e = {.code = OK};
    struct sbuf dir;
    sbuf_init(&dir);
    man_problems_init(&problems);
    const enum status st = cmd_job_load(&m, file, &o->job, &problems, &e);
    if (st != OK && problems.n_errors == 0) { // no JSON at all, or no such file
        f.code = cmd_fail(&e, st == E_ARG ? CMD_FROM_OPTIONS : CMD_FROM_JOB);
        goto done;
    }
    for (size_t i = 0; i < problems.n_errors; i++) {
        const struct man_problem *x = &problems.errors[i];
        add(&f, x->line, x->path, false, x->message);
        f.code = CMD_EXIT_DATA;
    }
    for (size_t i = 0; i < problems.n_warnings; i++) {
        const struct man_problem *x = &problems.warnings[i];
        add(&f, x->line, x->path, true, x->message);
    }
    const struct cmd_list *sets = &o->job.sets;
    if (man_open(&f.doc, file, sets->v, (int)sets->n, NULL) != OK) f.doc = NULL;
    if (m != NULL) {
        check_model(&f, m);
        check_template(&f, m);
        check_inputs(&f, m, &plan);
    } else if (f.doc != NULL && json_kind_of(json_root(f.doc)) == JSON_OBJ) {
        dir_of(file, &dir);
        check_files(&f, sbuf_str(&dir));
    }
    const int code = cmd_out_text(&f.text);
    if (code != CMD_EXIT_OK) f.code = code;
    say_verdict(&f, plan);
done:
    plan_free(plan);
    man_close(m);
    json_close(f.doc);
    man_problems_fini(&problems);
    sbuf_fini(&f.text);
    sbuf_fini(&dir);
    return f.code;
}

static int validate_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.job = {.out = NULL}};
    int n = 0, code = 0;
    if (cmd_args_read(&self->args, argc, argv, &o, &n, &code)) code = validate(argv[0], &o);
    cmd_list_fini(&o.job.sets);
    return code;
}

const struct cmd_sub cmd_validate = {
    .args =
        {
            .name = "validate",
            .operands = "MANIFEST",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "everything that is wrong with a manifest, its model and its inputs",
            .about = "A line each, FILE:LINE: $.place: message, on stdout. Computes nothing.\n"
                     "\n"
                     "exit codes: 0 nothing wrong (warnings do not count), 65 something is,\n"
                     "66 only missing files\n",
            .examples = "  basin validate job.json\n"
                        "  basin validate job.json --set cache.sink_tokens=0\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = validate_main,
};
