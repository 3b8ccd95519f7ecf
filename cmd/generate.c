#include "cmd/cmd.h"
#include "cmd/direct.h"
#include "cmd/text.h"
#include "io/json.h"

#include <string.h>

struct options {
    struct cmd_direct_options direct;                         /* first */
    int64_t max_new, min_new, top_k, seed, streams, logprobs; /* -1: not given */
    /* Numbers as they were typed: the manifest's own checks say what is wrong with them. */
    const char *temperature, *top_p, *min_p, *repetition, *presence, *frequency, *alpha;
    const char *template, *turn;
    struct cmd_list stop;
    bool token_ids, tokens, ignore_eos;
};

static const char *const turns[] = {"stream", "chunk", "room", NULL};

#define AT(member) offsetof(struct options, member)
#define NUMBER(key, value_name, member, text)                                                      \
    { .name = key, .value = value_name, .kind = CMD_TEXT, .offset = AT(member), .help = text }
#define COUNT(key, least, most, member, text)                                                      \
    {                                                                                              \
        .name = key, .value = "N", .kind = CMD_INT, .lo = least, .hi = most, .offset = AT(member), \
        .help = text                                                                               \
    }
static const struct cmd_option table[] = {
    COUNT("max-new-tokens", 1, (int64_t)1 << 40, max_new,
          "tokens of an answer at most (default 256)"),
    COUNT("min-new-tokens", 0, (int64_t)1 << 40, min_new,
          "before so many tokens nothing ends an answer"),
    NUMBER("temperature", "T", temperature,
           "draw tokens at this temperature (default 0: the most probable)"),
    COUNT("top-k", 0, INT32_MAX, top_k, "draw from the k most probable tokens only"),
    NUMBER("top-p", "P", top_p, "draw from the most probable tokens that reach P together"),
    NUMBER("min-p", "P", min_p, "draw from tokens at least P times as probable as the first"),
    COUNT("seed", 0, (int64_t)1 << 53, seed, "of the random numbers (default 0)"),
    NUMBER("repetition-penalty", "X", repetition,
           "against tokens of prompt and answer (default 1: none)"),
    NUMBER("presence-penalty", "X", presence, "against tokens that are in the answer"),
    NUMBER("frequency-penalty", "X", frequency, "the same for each time that they are in it"),
    NUMBER("penalty-alpha", "X", alpha, "contrastive search with --top-k candidates"),
    {.name = "stop",
     .value = "TEXT",
     .kind = CMD_LIST,
     .offset = AT(stop),
     .help = "an answer ends before this text; may be repeated"},
    {.name = "ignore-eos",
     .kind = CMD_FLAG,
     .offset = AT(ignore_eos),
     .help = "go on past the model's end of text"},
    {.name = "token-ids", .kind = CMD_FLAG, .offset = AT(token_ids), .help = "ids in the rows"},
    COUNT("logprobs", 0, 20, logprobs,
          "log-probabilities in the rows, of so many other tokens too"),
    {.name = "tokens",
     .kind = CMD_FLAG,
     .offset = AT(tokens),
     .help = "rows of 4096 tokens as they come instead of a row per document"},
    COUNT("streams", 1, 4096, streams, "answers written at once (else as memory lets)"),
    {.name = "template",
     .value = "NAME",
     .kind = CMD_TEXT,
     .offset = AT(template),
     .help = "how messages become a prompt (default: as the model says)"},
    {.name = "turn",
     .value = "NAME",
     .kind = CMD_WORD,
     .words = turns,
     .offset = AT(turn),
     .help = "how turns meet their cache: stream (default), chunk or room"},
    {.name = "messages-key",
     .value = "KEY",
     .kind = CMD_TEXT,
     .offset = AT(direct.messages_key),
     .help = "JSON lines: where chats are (default \"messages\")"},
    CMD_DIRECT_CACHE,
    CMD_DIRECT_INPUT,
    CMD_DIRECT_COMPUTE,
};

// A number stays one; anything else becomes a string, which is refused by name.
static void put_number(struct sbuf *b, const char *key, const char *text) {
    struct json *doc = NULL;
    if (text == NULL) return;
    const bool json = json_open_text(&doc, key, text, strlen(text), NULL) == OK;
    const enum json_kind kind = json ? json_kind_of(json_root(doc)) : JSON_STR;
    json_close(doc);
    if (kind == JSON_INT || kind == JSON_NUM) {
        cmd_text_key(b, key);
        sbuf_puts(b, text);
    } else {
        cmd_text_json_str(b, key, text);
    }
}

static void put_count(struct sbuf *b, const char *key, int64_t n) {
    if (n >= 0) cmd_text_json_int(b, key, n);
}

static void put_sampling(struct sbuf *b, const struct options *o) {
    put_number(b, "temperature", o->temperature);
    put_count(b, "top_k", o->top_k);
    put_number(b, "top_p", o->top_p);
    put_number(b, "min_p", o->min_p);
    put_count(b, "seed", o->seed);
    put_number(b, "repetition_penalty", o->repetition);
    put_number(b, "presence_penalty", o->presence);
    put_number(b, "frequency_penalty", o->frequency);
    put_number(b, "penalty_alpha", o->alpha);
}

static void put_manifest(struct sbuf *b, const struct options *o, char **operands, int n) {
    sbuf_puts(b, "{");
    cmd_direct_manifest(b, &o->direct, "generate", operands, n);
    cmd_text_key(b, "generate");
    sbuf_puts(b, "{");
    cmd_text_json_int(b, "max_new_tokens", o->max_new);
    put_count(b, "min_new_tokens", o->min_new);
    put_sampling(b, o);
    put_count(b, "streams", o->streams);
    put_count(b, "logprobs", o->logprobs);
    if (o->token_ids) cmd_text_json_bool(b, "token_ids", true);
    if (o->tokens) cmd_text_json_bool(b, "tokens", true);
    if (o->ignore_eos) cmd_text_json_bool(b, "ignore_eos", true);
    if (o->direct.bos || o->direct.no_bos) cmd_text_json_bool(b, "add_bos", o->direct.bos);
    if (o->template != NULL) cmd_text_json_str(b, "template", o->template);
    if (o->turn != NULL) cmd_text_json_str(b, "turn", o->turn);
    if (o->stop.n > 0) {
        cmd_text_key(b, "stop");
        for (size_t i = 0; i < o->stop.n; i++) {
            sbuf_puts(b, i > 0 ? "," : "[");
            sbuf_json_string(b, o->stop.v[i], strlen(o->stop.v[i]));
        }
        sbuf_puts(b, "]");
    }
    sbuf_puts(b, "}}");
}

static int generate_main(const struct cmd_sub *self, int argc, char **argv) {
    static const struct cmd_direct_place places[] = {
        {"$.generate.temperature", "--temperature"},
        {"$.generate.top_k", "--top-k"},
        {"$.generate.top_p", "--top-p"},
        {"$.generate.min_p", "--min-p"},
        {"$.generate.seed", "--seed"},
        {"$.generate.min_new_tokens", "--min-new-tokens"},
        {"$.generate.repetition_penalty", "--repetition-penalty"},
        {"$.generate.presence_penalty", "--presence-penalty"},
        {"$.generate.frequency_penalty", "--frequency-penalty"},
        {"$.generate.penalty_alpha", "--penalty-alpha"},
        {"$.generate.stop", "--stop"}};
    struct options o = {.direct = {.sink = -1, .window = -1},
                        .max_new = 256,
                        .min_new = -1,
                        .top_k = -1,
                        .seed = -1,
                        .streams = -1,
                        .logprobs = -1};
    struct sbuf text;
    int n = 0, code = 0;
    sbuf_init(&text);
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) goto done;
    if (o.direct.bos && o.direct.no_bos) {
        code = cmd_args_misuse(&self->args, "--bos and --no-bos exclude each other");
        goto done;
    }
    const struct cmd_direct d = {.name = "generate",
                                 .o = &o.direct,
                                 .places = places,
                                 .n_place = COUNTOF(places),
                                 .at_once = true,
                                 .kind = o.tokens ? 't' : 'r'};
    put_manifest(&text, &o, argv, n);
    code = cmd_direct_run(&d, &text);
done:
    cmd_list_fini(&o.stop);
    sbuf_fini(&text);
    return code;
}

const struct cmd_sub cmd_generate = {
    .args =
        {
            .name = "generate",
            .operands = "MODEL FILE...",
            .min_operands = 2,
            .max_operands = -1,
            .summary = "continue files without a manifest: rows to stdout, nothing left on disk",
            .about =
                "MODEL is a model's directory or a GGUF file. FILE is a prompt (.txt), prompts,\n"
                "chats or requests of an OpenAI batch (.jsonl), each also .gz, .zst or .lz4, a\n"
                "pattern, or - for a text on stdin. Documents that fail are named on stderr (exit "
                "3).\n",
            .examples =
                "  basin generate models/smol prompt.txt | jq -r .text\n"
                "  basin generate models/smol chats.jsonl --temperature 0.8 --top-p 0.95 --seed 7\n"
                "  echo 'Once upon a time' | basin generate models/smol - --stop $'\\n\\n'\n"
                "  basin generate models/smol prompt.txt --max-new-tokens 1000000 --tokens | jq -j "
                ".text\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = generate_main,
};
