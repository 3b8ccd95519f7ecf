#include "cmd/cmd.h"
#include "cmd/direct.h"
#include "cmd/text.h"

struct options {
    struct cmd_direct_options direct; /* first */
    int64_t limit;                    /* -1: not given */
    bool tokens;
};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    CMD_DIRECT_CACHE,
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
    CMD_DIRECT_INPUT,
    CMD_DIRECT_COMPUTE,
};

static void put_manifest(struct sbuf *b, const struct options *o, char **operands, int n) {
    sbuf_puts(b, "{");
    cmd_direct_manifest(b, &o->direct, "score", operands, n);
    cmd_text_key(b, "score");
    sbuf_puts(b, "{");
    if (o->tokens) cmd_text_json_bool(b, "tokens", true);
    if (o->limit >= 0) cmd_text_json_int(b, "limit_tokens", o->limit);
    if (o->direct.bos || o->direct.no_bos) cmd_text_json_bool(b, "add_bos", o->direct.bos);
    sbuf_puts(b, "}}");
}

static int score_main(const struct cmd_sub *self, int argc, char **argv) {
    static const struct cmd_direct_place places[] = {{"$.score.limit_tokens", "--limit"}};
    struct options o = {.direct = {.sink = -1, .window = -1}, .limit = -1};
    struct sbuf text;
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    if (o.direct.bos && o.direct.no_bos)
        return cmd_args_misuse(&self->args, "--bos and --no-bos exclude each other");
    const struct cmd_direct d = {.name = "score",
                                 .o = &o.direct,
                                 .places = places,
                                 .n_place = COUNTOF(places),
                                 .kind = o.tokens ? 't' : 'r'};
    sbuf_init(&text);
    put_manifest(&text, &o, argv, n);
    code = cmd_direct_run(&d, &text);
    sbuf_fini(&text);
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
