#include "cmd/direct.h"

#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "cmd/signals.h"
#include "cmd/text.h"
#include "io/corpus.h"
#include "io/json.h"

#include <inttypes.h>
#include <string.h>

const char *const cmd_direct_modes[] = {"sink", "window", "dense", NULL};
const char *const cmd_direct_dtypes[] = {"auto", "f32", "bf16", "int8", NULL};

/* ---- the manifest that the options stand for ---- */

static void put_inputs(struct sbuf *b, const struct cmd_direct_options *o, char **files, int n) {
    cmd_text_key(b, "input");
    for (int i = 0; i < n; i++) {
        enum corpus_kind kind = CORPUS_TXT;
        const bool keys = o->text_key != NULL || o->ids_key != NULL || o->messages_key != NULL;
        // Keys are for the JSON lines among the files; what is wrong with a path is said later.
        const bool lines =
            corpus_kind_of(files[i], keys, &kind, NULL) == OK && kind == CORPUS_JSONL;
        sbuf_puts(b, i == 0 ? "[{" : ",{");
        cmd_text_json_str(b, "path", files[i]);
        if (lines && o->text_key != NULL) cmd_text_json_str(b, "text_key", o->text_key);
        if (lines && o->messages_key != NULL) {
            cmd_text_json_str(b, "messages_key", o->messages_key);
        }
        if (lines && o->ids_key != NULL) cmd_text_json_str(b, "ids_key", o->ids_key);
        if (lines && o->id_key != NULL) cmd_text_json_str(b, "id_key", o->id_key);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
}

void cmd_direct_manifest(struct sbuf *b, const struct cmd_direct_options *o, const char *job,
                         char **operands, int n) {
    cmd_text_json_int(b, "version", 1);
    cmd_text_json_str(b, "job", job);
    cmd_text_json_str(b, "model", operands[0]);
    put_inputs(b, o, operands + 1, n - 1);
    cmd_text_key(b, "cache");
    sbuf_puts(b, "{");
    if (o->mode != NULL) cmd_text_json_str(b, "mode", o->mode);
    if (o->sink >= 0) cmd_text_json_int(b, "sink_tokens", o->sink);
    if (o->window >= 0) cmd_text_json_int(b, "window_tokens", o->window);
    sbuf_puts(b, "}");
    if (o->dtype == NULL) return;
    cmd_text_key(b, "compute");
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "dtype", o->dtype);
    sbuf_puts(b, "}");
}

// What the user typed for a place in the manifest.
static const char *option_of(const struct cmd_direct *d, const char *place) {
    static const struct cmd_direct_place both[] = {{"$.model", "MODEL"},
                                                   {"$.input", "FILE"},
                                                   {"$.cache.sink_tokens", "--sink"},
                                                   {"$.cache.window_tokens", "--window"},
                                                   {"$.cache.mode", "--mode"},
                                                   {"$.compute.dtype", "--dtype"}};
    for (size_t i = 0; i < d->n_place; i++) {
        if (strcmp(place, d->places[i].place) == 0) return d->places[i].option;
    }
    for (size_t i = 0; i < COUNTOF(both); i++) {
        if (strncmp(place, both[i].place, strlen(both[i].place)) == 0) return both[i].option;
    }
    return place;
}

static int open_manifest(struct manifest **out, const struct cmd_direct *d,
                         const struct sbuf *text) {
    struct err e = {.code = OK};
    struct man_problems problems;
    struct json *doc = NULL;
    int code = CMD_EXIT_OK;
    man_problems_init(&problems);
    enum status st = sbuf_status(text, &e);
    if (st == OK) st = json_open_text(&doc, "options", text->s, text->n, &e);
    if (st == OK) st = man_parse(out, doc, ".", MAN_NO_OUTPUT, &problems, &e);
    for (size_t i = 0; i < problems.n_errors; i++) {
        const struct man_problem *x = &problems.errors[i];
        cmd_say("%s: %s: %s", d->name, option_of(d, x->path), x->message);
    }
    for (size_t i = 0; i < problems.n_warnings && !d->o->quiet; i++) {
        const struct man_problem *x = &problems.warnings[i];
        cmd_say("warning: %s: %s", option_of(d, x->path), x->message);
    }
    if (st != OK) {
        // Everything in this manifest was typed behind the command.
        code = problems.n_errors > 0 ? CMD_EXIT_USAGE : cmd_fail(&e, CMD_FROM_OPTIONS);
    }
    man_problems_fini(&problems);
    json_close(doc);
    return code;
}

/* ---- rows ---- */

struct rows {
    struct cmd_out out;
    struct cmd_progress progress;
    char kind; /* of the lines that are results */
};

static const char *text_of(const struct json *doc, const char *key) {
    const struct jnode *v = doc != NULL ? json_get(json_root(doc), key) : NULL;
    return v != NULL && json_kind_of(v) == JSON_STR ? json_str(v, NULL) : NULL;
}

// {"id":..,"source":..,"message":..} for people.
static void say_failed(struct rows *r, const char *line, size_t n) {
    struct json *doc = NULL;
    cmd_progress_clear(&r->progress);
    if (json_open_text(&doc, "row", line, n, NULL) != OK) doc = NULL;
    const char *source = text_of(doc, "source"), *message = text_of(doc, "message");
    if (source != NULL && message != NULL) {
        cmd_say_about(text_of(doc, "id"), source, message);
    } else {
        cmd_say("%.*s", (int)strcspn(line, "\n"), line);
    }
    json_close(doc);
}

static enum status on_line(void *ctx, char kind, const char *line, size_t n, struct err *e) {
    struct rows *r = ctx;
    if (kind == 'e') say_failed(r, line, n);
    if (kind != r->kind) return OK;
    cmd_progress_clear(&r->progress);
    return cmd_out_write(&r->out, line, n, e);
}

static int run(const struct manifest *m, struct run_options *options, struct rows *r) {
    const struct run_sink sink = {.ctx = r, .line = on_line};
    struct run_result result = {.end = RUN_DONE};
    struct err e = {.code = OK};
    cmd_progress_hooks(&r->progress, &options->hooks);
    const enum status st = run_direct(m, options, &sink, &result, &e);
    cmd_progress_fini(&r->progress);
    int code = CMD_EXIT_OK;
    if (st == OK) {
        code = cmd_exit_run(&result);
    } else if (st == E_CANCEL || r->out.gone) {
        code = CMD_EXIT_STOPPED;
    } else if (r->out.failed) { // said when it happened
        code = CMD_EXIT_IO;
    } else {
        code = cmd_fail(&e, CMD_FROM_JOB);
    }
    return cmd_out_end(&r->out, code);
}

int cmd_direct_run(const struct cmd_direct *d, const struct sbuf *text) {
    struct cmd_env env;
    struct run_options options;
    struct rows r = {.kind = d->kind, .out = {.at_once = d->at_once}};
    struct manifest *m = NULL;
    struct err e = {.code = OK};
    cmd_env_read(&env);
    cmd_signals_catch();
    env.rank = (struct rank_env){.shard = NULL}; // rows go to one stdout: nothing to share out
    if (cmd_job_setup(&options, &d->o->job, &env, &e) != OK) return cmd_fail(&e, CMD_FROM_OPTIONS);
    options.tmp_dir = env.tmp_dir;
    int code = open_manifest(&m, d, text);
    if (code == CMD_EXIT_OK) {
        cmd_progress_init(&r.progress, &env, d->o->quiet, NULL);
        code = run(m, &options, &r);
    }
    man_close(m);
    return code;
}
