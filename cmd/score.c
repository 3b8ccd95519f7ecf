#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/job.h"
#include "cmd/out.h"
#include "cmd/progress.h"
#include "cmd/signals.h"
#include "cmd/text.h"
#include "io/corpus.h"
#include "io/json.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

struct options {
    struct cmd_job_options job;
    int64_t sink, window, limit; /* -1: not given */
    const char *mode, *dtype, *text_key, *id_key, *ids_key;
    bool tokens, bos, no_bos, quiet;
};

static const char *const modes[] = {"sink", "window", "dense", NULL};
static const char *const dtypes[] = {"auto", "f32", "bf16", NULL};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    {.name = "sink",
     .value = "N",
     .kind = CMD_INT,
     .hi = 65536,
     .offset = AT(sink),
     .help = "sink tokens S (default 4)"},
    {.name = "window",
     .value = "N",
     .kind = CMD_INT,
     .lo = 1,
     .hi = 16777216,
     .offset = AT(window),
     .help = "window tokens W (default 1020)"},
    {.name = "mode",
     .value = "NAME",
     .kind = CMD_WORD,
     .words = modes,
     .offset = AT(mode),
     .help = "sink (default), window or dense"},
    {.name = "tokens",
     .kind = CMD_FLAG,
     .offset = AT(tokens),
     .help = "log-probabilities of the tokens instead of a row per document"},
    {.name = "limit",
     .value = "N",
     .kind = CMD_INT,
     .hi = (int64_t)1 << 40,
     .offset = AT(limit),
     .help = "only the first N tokens of each document"},
    {.name = "bos",
     .kind = CMD_FLAG,
     .offset = AT(bos),
     .help = "begin with the BOS token (else as the tokenizer is configured)"},
    {.name = "no-bos", .kind = CMD_FLAG, .offset = AT(no_bos), .help = "begin without it"},
    {.name = "text-key",
     .value = "KEY",
     .kind = CMD_TEXT,
     .offset = AT(text_key),
     .help = "JSON lines: where the text is (default \"text\")"},
    {.name = "id-key",
     .value = "KEY",
     .kind = CMD_TEXT,
     .offset = AT(id_key),
     .help = "JSON lines: where the id is (default \"id\")"},
    {.name = "ids-key",
     .value = "KEY",
     .kind = CMD_TEXT,
     .offset = AT(ids_key),
     .help = "JSON lines of token ids instead of text: where they are"},
    {.name = "dtype",
     .value = "NAME",
     .kind = CMD_WORD,
     .words = dtypes,
     .offset = AT(dtype),
     .help = "auto (default), f32 or bf16"},
    CMD_JOB_DEVICES(struct options),
    CMD_JOB_THREADS(struct options),
    {.name = "quiet", .kind = CMD_FLAG, .offset = AT(quiet), .help = "no progress on stderr"},
};

/* ---- the manifest that the options stand for ---- */

static void put_inputs(struct sbuf *b, const struct options *o, char **files, int n) {
    cmd_text_key(b, "input");
    for (int i = 0; i < n; i++) {
        enum corpus_kind kind = CORPUS_TXT;
        const bool keys = o->text_key != NULL || o->ids_key != NULL;
        // Keys are for the JSON lines among the files; what is wrong with a path is said later.
        const bool lines =
            corpus_kind_of(files[i], keys, &kind, NULL) == OK && kind == CORPUS_JSONL;
        sbuf_puts(b, i == 0 ? "[{" : ",{");
        cmd_text_json_str(b, "path", files[i]);
        if (lines && o->text_key != NULL) cmd_text_json_str(b, "text_key", o->text_key);
        if (lines && o->ids_key != NULL) cmd_text_json_str(b, "ids_key", o->ids_key);
        if (lines && o->id_key != NULL) cmd_text_json_str(b, "id_key", o->id_key);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
}

static void put_manifest(struct sbuf *b, const struct options *o, char **operands, int n) {
    sbuf_puts(b, "{");
    cmd_text_json_int(b, "version", 1);
    cmd_text_json_str(b, "job", "score");
    cmd_text_json_str(b, "model", operands[0]);
    put_inputs(b, o, operands + 1, n - 1);
    cmd_text_key(b, "cache");
    sbuf_puts(b, "{");
    if (o->mode != NULL) cmd_text_json_str(b, "mode", o->mode);
    if (o->sink >= 0) cmd_text_json_int(b, "sink_tokens", o->sink);
    if (o->window >= 0) cmd_text_json_int(b, "window_tokens", o->window);
    sbuf_puts(b, "}");
    cmd_text_key(b, "score");
    sbuf_puts(b, "{");
    if (o->tokens) cmd_text_json_bool(b, "tokens", true);
    if (o->limit >= 0) cmd_text_json_int(b, "limit_tokens", o->limit);
    if (o->bos || o->no_bos) cmd_text_json_bool(b, "add_bos", o->bos);
    sbuf_puts(b, "}");
    if (o->dtype != NULL) {
        cmd_text_key(b, "compute");
        sbuf_puts(b, "{");
        cmd_text_json_str(b, "dtype", o->dtype);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "}");
}

// What the user typed for a place in the manifest.
static const char *option_of(const char *place) {
    static const struct {
        const char *place, *option;
    } rows[] = {{"$.model", "MODEL"},
                {"$.input", "FILE"},
                {"$.cache.sink_tokens", "--sink"},
                {"$.cache.window_tokens", "--window"},
                {"$.cache.mode", "--mode"},
                {"$.score.limit_tokens", "--limit"},
                {"$.compute.dtype", "--dtype"}};
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        if (strncmp(place, rows[i].place, strlen(rows[i].place)) == 0) return rows[i].option;
    }
    return place;
}

static int make_manifest(struct manifest **out, const struct options *o, char **operands, int n) {
    struct err e = {.code = OK};
    struct man_problems problems;
    struct json *doc = NULL;
    struct sbuf text;
    int code = CMD_EXIT_OK;
    sbuf_init(&text);
    man_problems_init(&problems);
    put_manifest(&text, o, operands, n);
    enum status st = sbuf_status(&text, &e);
    if (st == OK) st = json_open_text(&doc, "options", text.s, text.n, &e);
    if (st == OK) st = man_parse(out, doc, ".", MAN_NO_OUTPUT, &problems, &e);
    for (size_t i = 0; i < problems.n_errors; i++) {
        const struct man_problem *x = &problems.errors[i];
        cmd_say("score: %s: %s", option_of(x->path), x->message);
    }
    for (size_t i = 0; i < problems.n_warnings && !o->quiet; i++) {
        const struct man_problem *x = &problems.warnings[i];
        cmd_say("warning: %s: %s", option_of(x->path), x->message);
    }
    if (st != OK) {
        // Everything in this manifest was typed behind `basin score`.
        code = problems.n_errors > 0 ? CMD_EXIT_USAGE : cmd_fail(&e, CMD_FROM_OPTIONS);
    }
    man_problems_fini(&problems);
    json_close(doc);
    sbuf_fini(&text);
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

static int score(const struct manifest *m, struct run_options *run, struct rows *r) {
    const struct run_sink sink = {.ctx = r, .line = on_line};
    struct run_result result = {.end = RUN_DONE};
    struct err e = {.code = OK};
    cmd_progress_hooks(&r->progress, &run->hooks);
    const enum status st = run_direct(m, run, &sink, &result, &e);
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

static int score_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.sink = -1, .window = -1, .limit = -1};
    struct cmd_env env;
    struct run_options run;
    struct rows r = {.kind = 'r'};
    struct manifest *m = NULL;
    struct err e = {.code = OK};
    int n = 0, code = 0;
    cmd_env_read(&env);
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    if (o.bos && o.no_bos)
        return cmd_args_misuse(&self->args, "--bos and --no-bos exclude each other");
    cmd_signals_catch();
    env.rank = (struct rank_env){.shard = NULL}; // rows go to one stdout: nothing to share out
    if (cmd_job_setup(&run, &o.job, &env, &e) != OK) return cmd_fail(&e, CMD_FROM_OPTIONS);
    run.tmp_dir = env.tmp_dir;
    code = make_manifest(&m, &o, argv, n);
    if (code == CMD_EXIT_OK) {
        r.kind = o.tokens ? 't' : 'r';
        cmd_progress_init(&r.progress, &env, o.quiet, NULL);
        code = score(m, &run, &r);
    }
    man_close(m);
    return code;
}

const struct cmd_sub cmd_score = {
    .args =
        {
            .name = "score",
            .operands = "MODEL FILE...",
            .min_operands = 2,
            .max_operands = -1,
            .summary = "score files without a manifest: rows to stdout, nothing left on disk",
            .about =
                "MODEL is a model's directory or a GGUF file. FILE is .txt (one document), .jsonl\n"
                "(a document a line), each also .gz, .zst or .lz4, a pattern, or - for a text on\n"
                "stdin. Documents that fail are named on stderr (exit 3).\n",
            .examples = "  basin score models/smol book.txt\n"
                        "  basin score models/smol book.txt --sink 4 --window 508 --tokens\n"
                        "  basin score models/smol docs.jsonl --text-key body | jq .ppl\n"
                        "  xzcat book.txt.xz | basin score models/smol -\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = score_main,
};
