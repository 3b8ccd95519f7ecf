#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "cmd/text.h"
#include "jobs/report.h"

#include <stddef.h>

struct options {
    bool failed, json;
};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    {.name = "failed",
     .kind = CMD_FLAG,
     .offset = AT(failed),
     .help = "the documents that failed instead, as JSON lines"},
    {.name = "json", .kind = CMD_FLAG, .offset = AT(json), .help = "as a JSON object"},
};

static void put_json(struct sbuf *b, const struct report_status *s) {
    sbuf_puts(b, "{");
    cmd_text_json_int(b, "parts", s->n_part);
    cmd_text_json_int(b, "published", s->published);
    cmd_text_json_int(b, "in_progress", s->in_progress);
    cmd_text_json_int(b, "held", s->held);
    cmd_text_json_int(b, "documents", s->documents);
    cmd_text_json_int(b, "failed", s->failed);
    cmd_text_json_int(b, "tokens", s->tokens);
    cmd_text_json_bool(b, "success", s->success);
    sbuf_puts(b, "}\n");
}

static void put_people(struct sbuf *b, const struct report_status *s) {
    sbuf_puts(b, "parts      ");
    cmd_text_count(b, s->published);
    sbuf_puts(b, " of ");
    cmd_text_count(b, s->n_part);
    sbuf_puts(b, " done");
    if (s->in_progress > 0) {
        sbuf_puts(b, ", ");
        cmd_text_count(b, s->in_progress);
        sbuf_puts(b, " begun");
    }
    if (s->held > 0) {
        sbuf_puts(b, ", ");
        cmd_text_count(b, s->held);
        sbuf_puts(b, " held by a run");
    }
    sbuf_puts(b, "\ndocuments  ");
    cmd_text_count(b, s->documents);
    sbuf_puts(b, "\nfailed     ");
    cmd_text_count(b, s->failed);
    sbuf_puts(b, "\ntokens     ");
    cmd_text_count(b, s->tokens);
    sbuf_puts(b, s->success    ? "\nfinished   yes\n"
                 : s->held > 0 ? "\nfinished   no, a run is going on\n"
                               : "\nfinished   no\n");
}

static int status_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.failed = false};
    struct report_status s = {.n_part = 0};
    struct sbuf b;
    struct err e = {.code = OK};
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    sbuf_init(&b);
    if (report_status(argv[0], &s, o.failed ? &b : NULL, &e) != OK) {
        sbuf_fini(&b);
        return cmd_fail(&e, CMD_FROM_RESULTS);
    }
    if (!o.failed && o.json) put_json(&b, &s);
    if (!o.failed && !o.json) put_people(&b, &s);
    return cmd_out_text(&b);
}

const struct cmd_sub cmd_status = {
    .args =
        {
            .name = "status",
            .operands = "DIR",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "how far a job is; safe while it runs",
            .examples = "  basin status out/books\n"
                        "  basin status out/books --failed | jq -r .message\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = status_main,
};
