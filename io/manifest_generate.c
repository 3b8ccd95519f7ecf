/* The section "generate": what a generate job writes, and how its tokens are chosen. */
#include "io/manifest_impl.h"

#include "base/mem.h"
#include "base/num.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_STOPS = 64,
    MAX_STOP_BYTES = 1024,
    MAX_STOP_IDS = 1024,
    MAX_BAD_WORDS = 1024,
    MAX_BIASES = 1024,
    MAX_LOGPROBS = 20
};

static const char *const turn_words[] = {"stream", "chunk", "room", NULL};

const char *man_turn_name(enum man_turn v) {
    return turn_words[v];
}

static const char *const given_keys[MAN_GIVEN_COUNT] = {
    [MAN_GIVEN_TEMPERATURE] = "temperature",
    [MAN_GIVEN_TOP_K] = "top_k",
    [MAN_GIVEN_TOP_P] = "top_p",
    [MAN_GIVEN_MIN_P] = "min_p",
    [MAN_GIVEN_REPETITION] = "repetition_penalty",
};

/* ---- lists ---- */

// Calls `one` on each element of a list, or on the value that stands for a list of one.
static void each_of(struct man_reader *r, const struct jnode *v, size_t n,
                    void (*one)(struct man_reader *r, const struct jnode *v, size_t i)) {
    const bool list = json_kind_of(v) == JSON_ARR;
    const size_t mark = r->place.n;
    for (size_t i = 0; i < n; i++) {
        if (list) sbuf_printf(&r->place, "[%zu]", i);
        one(r, list ? json_at(v, i) : v, i);
        r->place.n = mark;
    }
}

// A string of a list of them, none longer than MAX_STOP_BYTES and none twice.
static void read_one_text(struct man_reader *r, const struct jnode *v, char **list, size_t i) {
    man_read_string(r, v, &list[i]);
    if (list[i] == NULL) return;
    if (strlen(list[i]) > MAX_STOP_BYTES) {
        man_complain(r, E_FORMAT, NULL, "is %zu bytes long; at most %d are taken", strlen(list[i]),
                     MAX_STOP_BYTES);
    }
    for (size_t k = 0; k < i; k++) {
        if (list[k] == NULL || strcmp(list[k], list[i]) != 0) continue;
        man_complain(r, E_FORMAT, NULL, "is listed twice");
        break;
    }
}

static void read_one_stop(struct man_reader *r, const struct jnode *v, size_t i) {
    read_one_text(r, v, r->m->generate.stop, i);
}

static void read_one_bad_word(struct man_reader *r, const struct jnode *v, size_t i) {
    read_one_text(r, v, r->m->generate.bad_words, i);
}

// A list may be empty: nothing is asked for then.
static size_t list_length(struct man_reader *r, const struct jnode *v, size_t max, size_t size,
                          void *out) {
    if (json_kind_of(v) == JSON_ARR && json_len(v) == 0) return 0;
    return man_list_length(r, v, max, size, out);
}

static void read_stop(struct man_reader *r, const struct jnode *v) {
    struct man_generate *g = &r->m->generate;
    g->n_stop = list_length(r, v, MAX_STOPS, sizeof *g->stop, &g->stop);
    each_of(r, v, g->n_stop, read_one_stop);
}

static void read_bad_words(struct man_reader *r, const struct jnode *v) {
    struct man_generate *g = &r->m->generate;
    g->n_bad_words = list_length(r, v, MAX_BAD_WORDS, sizeof *g->bad_words, &g->bad_words);
    each_of(r, v, g->n_bad_words, read_one_bad_word);
}

static void read_one_stop_id(struct man_reader *r, const struct jnode *v, size_t i) {
    struct man_generate *g = &r->m->generate;
    int64_t id = 0;
    const struct man_field any = {.hi = INT32_MAX};
    man_read_int(r, &any, v, &id);
    g->stop_ids[i] = (int32_t)id;
    for (size_t k = 0; k < i; k++) {
        if (g->stop_ids[k] != id) continue;
        man_complain(r, E_FORMAT, NULL, "is listed twice");
        break;
    }
}

static void read_stop_ids(struct man_reader *r, const struct jnode *v) {
    struct man_generate *g = &r->m->generate;
    if (json_kind_of(v) != JSON_ARR) {
        man_expect(r, "a list of token ids", v);
        return;
    }
    g->n_stop_ids = list_length(r, v, MAX_STOP_IDS, sizeof *g->stop_ids, &g->stop_ids);
    each_of(r, v, g->n_stop_ids, read_one_stop_id);
}

static int by_id(const void *a, const void *b) {
    const struct man_bias *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static void read_logit_bias(struct man_reader *r, const struct jnode *v) {
    struct man_generate *g = &r->m->generate;
    if (json_kind_of(v) != JSON_OBJ) {
        man_expect(r, "an object of token ids and numbers", v);
        return;
    }
    const size_t n = json_len(v);
    if (n > MAX_BIASES) {
        man_complain(r, E_FORMAT, NULL, "%zu members; at most %d are read", n, MAX_BIASES);
        return;
    }
    if (n == 0) return;
    if (mem_zalloc(&g->bias, n, sizeof *g->bias, NULL) != OK) {
        r->out_of_memory = true;
        return;
    }
    const struct man_field range = {.rlo = -100, .rhi = 100};
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        int64_t id = 0;
        const size_t mark = r->place.n;
        if (!num_parse_int(it.key, INT32_MAX, &id) || (it.key[0] == '0' && it.key[1] != '\0')) {
            man_complain(r, E_FORMAT, it.key, "is not a token id");
            continue;
        }
        sbuf_printf(&r->place, ".%s", it.key);
        g->bias[g->n_bias].id = (int32_t)id;
        man_read_real(r, &range, it.value, &g->bias[g->n_bias++].bias);
        r->place.n = mark;
    }
    qsort(g->bias, g->n_bias, sizeof *g->bias, by_id);
}

static void read_logprobs(struct man_reader *r, const struct jnode *v) {
    const struct man_field range = {.hi = MAX_LOGPROBS};
    struct man_generate *g = &r->m->generate;
    if (json_kind_of(v) == JSON_BOOL) {
        g->logprobs = json_bool(v) ? 0 : -1;
    } else if (json_kind_of(v) != JSON_INT && json_kind_of(v) != JSON_NUM) {
        man_complain(r, E_FORMAT, NULL, "must be false, true or an integer, found %s",
                     json_kind_name(json_kind_of(v)));
    } else {
        man_read_int(r, &range, v, &g->logprobs);
    }
}

static void read_add_bos(struct man_reader *r, const struct jnode *v) {
    man_read_add_bos(r, v, &r->m->generate.add_bos);
}

/* ---- the section ---- */

// A string, or a list of at most `n` different ones.
#define STRINGS(n)                                                                                 \
    "\"if\":{\"type\":\"array\"},\"then\":{\"maxItems\":" n                                        \
    ",\"uniqueItems\":true,\"items\":{" MAN_TEXT ",\"maxLength\":1024}},\"else\":{" MAN_TEXT       \
    ",\"maxLength\":1024}"

#define IN_GENERATE(member) offsetof(struct man_generate, member)
#define TOKENS_MOST ((int64_t)1 << 40)

static const struct man_field generate_fields[] = {
    {.key = "max_new_tokens",
     .kind = MAN_K_INT,
     .offset = IN_GENERATE(max_new_tokens),
     .lo = 1,
     .hi = TOKENS_MOST,
     .about = "Tokens of an answer at most. Required, by this name or as max_tokens."},
    {.key = "max_tokens",
     .kind = MAN_K_INT,
     .offset = IN_GENERATE(max_new_tokens),
     .lo = 1,
     .hi = TOKENS_MOST,
     .about = "Another name of max_new_tokens."},
    {.key = "min_new_tokens",
     .kind = MAN_K_INT,
     .offset = IN_GENERATE(min_new_tokens),
     .hi = TOKENS_MOST,
     .fallback = "0",
     .about = "Before so many tokens nothing ends an answer."},
    {.key = "temperature",
     .kind = MAN_K_REAL,
     .offset = IN_GENERATE(temperature),
     .rhi = 100,
     .about = "Logits are divided by it and a token is drawn; 0, the default: the most probable "
              "token is taken. 1 where do_sample is true."},
    {.key = "do_sample",
     .kind = MAN_K_BOOL,
     .offset = IN_GENERATE(do_sample),
     .about = "false: temperature 0; true: temperature 1 unless it is given."},
    {.key = "top_k",
     .kind = MAN_K_INT,
     .offset = IN_GENERATE(top_k),
     .hi = INT32_MAX,
     .about = "Only the k most probable tokens are drawn from; 0, the default: all. Of contrastive "
              "search, the candidates of a step."},
    {.key = "top_p",
     .kind = MAN_K_REAL,
     .offset = IN_GENERATE(top_p),
     .above = true,
     .rhi = 1,
     .about = "Only the most probable tokens that together reach p; 1, the default: all."},
    {.key = "min_p",
     .kind = MAN_K_REAL,
     .offset = IN_GENERATE(min_p),
     .rhi = 1,
     .about = "Only tokens at least p times as probable as the most probable one; 0, the default: "
              "all."},
    {.key = "repetition_penalty",
     .kind = MAN_K_REAL,
     .offset = IN_GENERATE(repetition_penalty),
     .above = true,
     .rhi = 100,
     .about = "Logits of tokens seen before, in the prompt or the answer, are divided by it where "
              "positive and multiplied where negative; 1, the default: none."},
    {.key = "presence_penalty",
     .kind = MAN_K_REAL,
     .offset = IN_GENERATE(presence_penalty),
     .rlo = -2,
     .rhi = 2,
     .fallback = "0",
     .about = "Taken from the logits of tokens that are in the answer."},
    {.key = "frequency_penalty",
     .kind = MAN_K_REAL,
     .offset = IN_GENERATE(frequency_penalty),
     .rlo = -2,
     .rhi = 2,
     .fallback = "0",
     .about = "Taken from a token's logit for each time that it is in the answer."},
    {.key = "penalty_alpha",
     .kind = MAN_K_REAL,
     .offset = IN_GENERATE(penalty_alpha),
     .rhi = 1,
     .fallback = "0",
     .about = "Contrastive search: the weight of a candidate's likeness to what came before, "
              "against its probability. Needs top_k of 2 or more."},
    {.key = "contrastive_window",
     .kind = MAN_K_INT,
     .offset = IN_GENERATE(contrastive_window),
     .lo = 1,
     .hi = 1048576,
     .fallback = "16384",
     .about = "Contrastive search: how many of the last tokens a candidate is compared with."},
    {.key = "stop",
     .kind = MAN_K_OWN,
     .own = read_stop,
     .fallback = "[]",
     .schema = STRINGS("64"),
     .about = "A string, or at most 64: an answer ends before the first of them. At most 1024 "
              "bytes each."},
    {.key = "stop_token_ids",
     .kind = MAN_K_OWN,
     .own = read_stop_ids,
     .fallback = "[]",
     .schema = "\"type\":\"array\",\"maxItems\":1024,\"uniqueItems\":true,\"items\":{\"type\":"
               "\"integer\",\"minimum\":0,\"maximum\":2147483647}",
     .about = "Token ids that end an answer, besides the model's own."},
    {.key = "ignore_eos",
     .kind = MAN_K_BOOL,
     .offset = IN_GENERATE(ignore_eos),
     .fallback = "false",
     .about = "The model's own end of text does not end an answer."},
    {.key = "bad_words",
     .kind = MAN_K_OWN,
     .own = read_bad_words,
     .fallback = "[]",
     .schema = STRINGS("1024"),
     .about = "A string, or at most 1024, whose tokens are never written in a row."},
    {.key = "logit_bias",
     .kind = MAN_K_OWN,
     .own = read_logit_bias,
     .fallback = "{}",
     .schema = "\"type\":\"object\",\"maxProperties\":1024,\"additionalProperties\":false,"
               "\"patternProperties\":{\"^(0|[1-9][0-9]{0,8}|1[0-9]{9}|20[0-9]{8}|21[0-3][0-9]{7}|"
               "214[0-6][0-9]{6}|2147[0-3][0-9]{5}|21474[0-7][0-9]{4}|214748[0-2][0-9]{3}|"
               "2147483[0-5][0-9]{2}|21474836[0-3][0-9]|214748364[0-7])$\":{\"type\":\"number\","
               "\"minimum\":-100,\"maximum\":100}}",
     .about = "Numbers added to the logits of token ids."},
    {.key = "seed",
     .kind = MAN_K_INT,
     .offset = IN_GENERATE(seed),
     .hi = (int64_t)1 << 53,
     .fallback = "0",
     .about = "Of the random numbers, which depend on it, the document and the step alone."},
    {.key = "logprobs",
     .kind = MAN_K_OWN,
     .own = read_logprobs,
     .fallback = "false",
     .schema = "\"if\":{\"type\":\"boolean\"},\"else\":{\"type\":\"integer\",\"minimum\":0,"
               "\"maximum\":20}",
     .about = "true: the log-probability of every token in the row; a number: those of so many of "
              "the most probable ones too."},
    {.key = "token_ids",
     .kind = MAN_K_BOOL,
     .offset = IN_GENERATE(token_ids),
     .fallback = "false",
     .about = "The ids of the answer in its row."},
    {.key = "tokens",
     .kind = MAN_K_BOOL,
     .offset = IN_GENERATE(tokens),
     .about = "Token rows too, which appear while an answer is written: ids, log-probabilities and "
              "text by 4096. Always with max_new_tokens above 16384, where they alone hold the "
              "text of long answers."},
    {.key = "streams",
     .kind = MAN_K_INT,
     .offset = IN_GENERATE(streams),
     .hi = 4096,
     .fallback = "0",
     .about = "Answers written at once; 0: chosen by the program. Changes speed and memory, never "
              "results."},
    {.key = "turn",
     .kind = MAN_K_WORD,
     .offset = IN_GENERATE(turn),
     .words = turn_words,
     .fallback = "\"stream\"",
     .about = "How a document's turns meet their cache: stream: token by token; chunk: a turn's "
              "prompt at once, then tokens are dropped; room: tokens are dropped first, to make "
              "room for prompt and answer."},
    {.key = "template",
     .kind = MAN_K_STRING,
     .offset = IN_GENERATE(template),
     .fallback = "\"auto\"",
     .about = "How messages become a prompt, by name; auto: as the model says."},
    {.key = "add_bos",
     .kind = MAN_K_OWN,
     .own = read_add_bos,
     .fallback = "\"auto\"",
     .schema = MAN_BOS_SCHEMA,
     .about = "Whether a prompt begins with the BOS token; auto: as the tokenizer is configured, "
              "or the template says."},
    {.key = "use_generation_config",
     .kind = MAN_K_BOOL,
     .offset = IN_GENERATE(use_generation_config),
     .fallback = "false",
     .about = "The model's generation_config.json holds for what is not given here."},
};

#define GIVEN(key, what) "\"required\":[\"" key "\"],\"properties\":{\"" key "\":" what "}"
#define POSITIVE "{\"type\":\"number\",\"exclusiveMinimum\":0}"
#define NOT_ABOVE_0 "{\"not\":" POSITIVE "}"
#define IS_TRUE "{\"const\":true}"
// Whether tokens are drawn, as settle() finds it.
#define DRAWN                                                                                      \
    "\"anyOf\":[{" GIVEN("temperature", POSITIVE) "},{\"not\":{\"required\":[\"temperature\"]}"    \
                                                  "," GIVEN("do_sample", IS_TRUE) "},{" GIVEN(     \
                                                      "use_generation_config", IS_TRUE) "}]"

// What check_generate() refuses, as schemas.
static const char *const generate_rules[] = {
    "{\"anyOf\":[{\"required\":[\"max_new_tokens\"]},{\"required\":[\"max_tokens\"]}]}",
    "{\"not\":{\"required\":[\"max_new_tokens\",\"max_tokens\"]}}",
    "{\"not\":{\"allOf\":[{" GIVEN("do_sample", "{\"const\":false}") "},{" GIVEN("temperature",
                                                                                 POSITIVE) "}]}}",
    "{\"not\":{\"allOf\":[{" GIVEN("do_sample", IS_TRUE) "},{" GIVEN("temperature",
                                                                     "{\"const\":0}") "}]}}",
    "{\"if\":{" DRAWN "},\"else\":{\"properties\":{\"top_p\":{\"const\":1},\"min_p\":{\"const\":0},"
    "\"seed\":{\"const\":0}}}}",
    "{\"if\":{" DRAWN "},\"else\":{\"if\":{" GIVEN(
        "penalty_alpha", POSITIVE) "},\"else\":{\"properties\":{\"top_k\":{\"const\":0}}}}}",
    "{\"if\":{" GIVEN("penalty_alpha", POSITIVE) "},\"then\":{" GIVEN(
        "top_k",
        "{\"type\":\"integer\",\"minimum\":2}") ",\"allOf\":[{\"properties\":{"
                                                "\"temperature\":" NOT_ABOVE_0
                                                ",\"do_sample\":{\"const\":false}}}]},\"else\":{"
                                                "\"properties\":{\"contrastive_window\":{\"const\":"
                                                "16384}}}}",
    "{\"if\":{\"anyOf\":[{" GIVEN("max_new_tokens", "{\"exclusiveMinimum\":16384}") "},{" GIVEN(
        "max_tokens",
        "{\"exclusiveMinimum\":16384}") "}]},"
                                        "\"then\":{\"properties\":{\"tokens\":{\"const\":true}}}}",
    NULL,
};

const struct man_section man_generate_section = {
    .fields = generate_fields, .n_fields = COUNTOF(generate_fields), .rules = generate_rules};

// What samples are drawn from has no meaning where none are drawn.
static void check_sampling(struct man_reader *r, const struct man_generate *g) {
    static const char *const greedy =
        "has no effect while the temperature is 0, where the most probable token is taken";
    const bool contrastive = g->penalty_alpha > 0;
    if (contrastive && g->top_k < 2) {
        man_complain(r, E_FORMAT, "penalty_alpha",
                     "needs \"top_k\" of 2 or more: the candidates of contrastive search");
    }
    if (contrastive && g->temperature > 0) {
        man_complain(r, E_FORMAT, "penalty_alpha",
                     "is for contrastive search, which draws no tokens: the temperature must be 0");
        return;
    }
    if (!contrastive && g->contrastive_window != MAN_CONTRASTIVE_WINDOW) {
        man_complain(r, E_FORMAT, "contrastive_window", "has no effect without \"penalty_alpha\"");
    }
    if (g->temperature > 0 || g->use_generation_config) return;
    if (g->top_k != 0 && !contrastive) man_complain(r, E_FORMAT, "top_k", "%s", greedy);
    if (g->top_p < 1) man_complain(r, E_FORMAT, "top_p", "%s", greedy);
    if (g->min_p > 0) man_complain(r, E_FORMAT, "min_p", "%s", greedy);
    if (g->seed != 0) man_complain(r, E_FORMAT, "seed", "%s", greedy);
}

static void check_generate(struct man_reader *r, const struct jnode *v, struct man_generate *g) {
    const bool by_alias = man_given(v, "max_tokens");
    if (by_alias && man_given(v, "max_new_tokens")) {
        man_complain(r, E_FORMAT, "max_tokens",
                     "is another name of max_new_tokens, which is given too");
    } else if (!by_alias && !man_given(v, "max_new_tokens")) {
        man_complain(r, E_FORMAT, "max_new_tokens", "is missing");
    }
    if (g->max_new_tokens > 0 && g->min_new_tokens > g->max_new_tokens) {
        man_complain(r, E_FORMAT, "min_new_tokens", "is more than max_new_tokens, %" PRId64,
                     g->max_new_tokens);
    }
    if (man_given(v, "do_sample")) {
        const bool given = man_given(v, "temperature");
        if (g->do_sample && !given) g->temperature = 1;
        if (g->do_sample != (g->temperature > 0)) {
            man_complain(r, E_FORMAT, "do_sample",
                         g->do_sample ? "true and a temperature of 0 contradict each other"
                                      : "false means a temperature of 0, but %g is given",
                         g->temperature);
        }
    }
    check_sampling(r, g);
    if (g->max_new_tokens > MAN_ROW_TOKENS && man_given(v, "tokens") && !g->tokens) {
        man_complain(r, E_FORMAT, "tokens",
                     "must not be false with max_new_tokens above %d: token rows hold the text of "
                     "long answers",
                     MAN_ROW_TOKENS);
    }
    if (g->max_new_tokens > MAN_ROW_TOKENS) g->tokens = true;
}

void man_read_generate(struct man_reader *r, const struct jnode *v) {
    struct man_generate *g = &r->m->generate;
    if (!man_word_is(json_root(r->doc), "job", "generate")) {
        man_complain(r, E_FORMAT, NULL, "has no effect unless \"job\" is \"generate\"");
        return;
    }
    g->top_p = g->repetition_penalty = 1;
    g->contrastive_window = MAN_CONTRASTIVE_WINDOW;
    g->logprobs = -1;
    const size_t n_errors = r->problems->n_errors;
    if (!man_read_section(r, &man_generate_section, v, g)) return;
    for (int i = 0; i < MAN_GIVEN_COUNT; i++) {
        g->given[i] = man_given(v, given_keys[i]);
    }
    g->given[MAN_GIVEN_TEMPERATURE] = g->given[MAN_GIVEN_TEMPERATURE] || man_given(v, "do_sample");
    // One mistake is one finding: what a value that was refused would mean is not gone into.
    if (r->problems->n_errors == n_errors) check_generate(r, v, g);
    man_set_default(r, &g->template, "auto");
}

void man_generate_fini(struct man_generate *g) {
    for (size_t i = 0; i < g->n_stop; i++) mem_free(g->stop[i]);
    for (size_t i = 0; i < g->n_bad_words; i++) mem_free(g->bad_words[i]);
    mem_free(g->stop);
    mem_free(g->bad_words);
    mem_free(g->stop_ids);
    mem_free(g->bias);
    mem_free(g->template);
}
