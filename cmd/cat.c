#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "cmd/signals.h"
#include "jobs/report.h"

#include <stddef.h>
#include <string.h>

struct options {
    bool tokens, tsv, follow;
    const char *id, *setting, *fields, *format;
};

static const char *const formats[] = {"jsonl", "tsv", "openai", NULL};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    {.name = "tokens",
     .kind = CMD_FLAG,
     .offset = AT(tokens),
     .help = "the rows of log-probabilities instead of a row per document"},
    {.name = "id",
     .value = "ID",
     .kind = CMD_TEXT,
     .offset = AT(id),
     .help = "only rows of documents with this id"},
    {.name = "setting",
     .value = "NAME",
     .kind = CMD_TEXT,
     .offset = AT(setting),
     .help = "only rows of this cache setting"},
    {.name = "fields",
     .value = "A,B",
     .kind = CMD_TEXT,
     .offset = AT(fields),
     .help = "only these fields, in this order"},
    {.name = "tsv",
     .kind = CMD_FLAG,
     .offset = AT(tsv),
     .help = "tab-separated values with a header instead of JSON lines"},
    {.name = "format",
     .value = "NAME",
     .kind = CMD_WORD,
     .words = formats,
     .offset = AT(format),
     .help = "jsonl (default), tsv, or openai: lines of a batch's output"},
    {.name = "follow",
     .kind = CMD_FLAG,
     .offset = AT(follow),
     .help = "wait for more rows until the job is finished"},
};

// "a,b" as a list whose strings lie in *text. Both are owned by the caller.
static enum status split_fields(const char *list, char **text, const char ***fields, int *n,
                                struct err *e) {
    enum status st = OK;
    size_t most = 1;
    for (const char *c = list; *c != '\0'; c++) most += *c == ',';
    TRY(mem_dup(text, list, strlen(list), e));
    TRY(mem_zalloc(fields, most, sizeof **fields, e));
    for (char *at = *text, *next = NULL; at != NULL; at = next) {
        next = strchr(at, ',');
        if (next != NULL) *next++ = '\0';
        if (*at == '\0') FAIL(e, E_ARG, "--fields %s: an empty name", list);
        (*fields)[(*n)++] = at;
    }
done:
    return st;
}

static int cat(const char *dir, const struct options *o, const struct report_query *q) {
    struct cmd_out out = {.at_once = o->follow};
    struct err e = {.code = OK};
    int code = CMD_EXIT_OK;
    const enum status st = report_cat(dir, q, cmd_out_write, &out, &e);
    // What was read comes out before what went wrong is said.
    if (st != OK && st != E_CANCEL && !out.failed && !out.gone) {
        (void)!cmd_out_flush(&out, NULL);
        code = cmd_fail(&e, CMD_FROM_RESULTS);
    }
    if (o->follow && cmd_signals_asked(NULL)) code = CMD_EXIT_STOPPED;
    return cmd_out_end(&out, code);
}

static int cat_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.follow = false};
    char *text = NULL;
    const char **fields = NULL;
    struct err e = {.code = OK};
    int n = 0, n_field = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    if (o.fields != NULL && split_fields(o.fields, &text, &fields, &n_field, &e) != OK) {
        code = cmd_fail(&e, CMD_FROM_OPTIONS);
        goto done;
    }
    const bool openai = o.format != NULL && strcmp(o.format, "openai") == 0;
    o.tsv = o.tsv || (o.format != NULL && strcmp(o.format, "tsv") == 0);
    if (openai && (o.tsv || o.tokens || o.follow || o.fields != NULL)) {
        code =
            cmd_args_misuse(&self->args, "--format openai excludes --tokens, --fields, --tsv and "
                                         "--follow");
        goto done;
    }
    const struct report_query q = {
        .stream = o.tokens ? LEDGER_TOKENS : LEDGER_RESULTS,
        .id = o.id,
        .setting = o.setting,
        .fields = fields,
        .n_field = n_field,
        .tsv = o.tsv,
        .openai = openai,
        .follow = o.follow,
        .stop = o.follow ? cmd_signals_asked : NULL,
    };
    if (o.follow) cmd_signals_catch();
    code = cat(argv[0], &o, &q);
done:
    mem_free(fields);
    mem_free(text);
    return code;
}

const struct cmd_sub cmd_cat = {
    .args =
        {
            .name = "cat",
            .operands = "DIR",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "the rows of a job, of finished and unfinished parts alike",
            .about = "No row comes twice, also while runs are going on.\n"
                     "\n"
                     "exit codes: 64 the job has no setting of that name, 66 no row has that id\n",
            .examples = "  basin cat out/books | jq -c '[.id, .ppl]'\n"
                        "  basin cat out/books --fields id,setting,ppl --tsv > ppl.tsv\n"
                        "  basin cat out/chats --format openai > answers.jsonl\n"
                        "  basin cat out/endless --tokens --follow | jq -j .text\n"
                        "  basin cat out/books --tokens --id moby-dick.txt --setting sink\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = cat_main,
};
