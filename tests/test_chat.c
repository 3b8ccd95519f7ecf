#include "core/chat.h"
#include "jobs/gen_ask.h"
#include "jobs/gen_prompt.h"
#include "jobs/gen_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define MODEL "examples/demo/model" /* BOS and EOS are both <|endoftext|> */
#define MARK "<|endoftext|>"

static int open_tok(void **state) {
    struct tok *tok = NULL;
    assert_int_equal(tok_open(&tok, MODEL, NULL), OK);
    *state = tok;
    return 0;
}

static int close_tok(void **state) {
    tok_close(*state);
    return 0;
}

/* ---- templates ---- */

// What apply_chat_template(messages, add_generation_prompt=True) gives with each family's own template for
// [system,] user " Hi ", assistant "Yes", user "Why?".
static void test_render(void **state) {
    static const struct {
        const char *name;
        bool system;
        const char *want;
    } rows[] = {
        {"chatml", false,
         "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
         "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"},
        {"smollm2", false,
         "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
         "Face<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
         "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"},
        {"qwen2.5", true,
         "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
         "<|im_start|>assistant\nYes<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {"qwen2.5", false,
         "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
         "<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
         "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"},
        {"llama-3", true,
         MARK "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
              "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\nYes<|eot_id|>"
              "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"llama-2", true,
         MARK "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Yes " MARK MARK
              "[INST] Why? [/INST]"},
        {"mistral", false, MARK "[INST]  Hi  [/INST]Yes" MARK "[INST] Why? [/INST]"},
        {"phi-3", true,
         "<|system|>\nBe kind.<|end|>\n<|user|>\n Hi <|end|>\n<|assistant|>\nYes<|end|>\n"
         "<|user|>\nWhy?<|end|>\n<|assistant|>\n"},
        {"zephyr", true,
         "<|system|>\nBe kind." MARK "\n<|user|>\n Hi " MARK "\n<|assistant|>\nYes" MARK
         "\n<|user|>\nWhy?" MARK "\n<|assistant|>\n"},
        {"gemma", true,
         MARK "<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes"
              "<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n"},
        {"vicuna", true, MARK "Be kind. USER:  Hi  ASSISTANT: Yes" MARK "USER: Why? ASSISTANT:"},
        {"plain", true, "Be kind.\n\n Hi \n\nYes\n\nWhy?\n\n"},
    };
    static const struct chat_message chat[] = {{"system", "Be kind.", 8},
                                               {"user", " Hi ", 4},
                                               {"assistant", "Yes", 3},
                                               {"user", "Why?", 4}};
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        struct sbuf b;
        struct err e = {.code = OK};
        sbuf_init(&b);
        const struct chat_template *t = chat_find(rows[i].name);
        assert_non_null(t);
        const size_t from = rows[i].system ? 0 : 1;
        assert_int_equal(chat_render(t, *state, chat + from, COUNTOF(chat) - from, &b, &e), OK);
        assert_string_equal(sbuf_str(&b), rows[i].want);
        // The chat up to its first question, and then the next turn behind the answer, is the same text.
        struct sbuf two;
        sbuf_init(&two);
        assert_int_equal(chat_render(t, *state, chat + from, 2 - from, &two, &e), OK);
        sbuf_puts(&two, strcmp(rows[i].name, "llama-2") == 0  ? " Yes"
                        : strcmp(rows[i].name, "vicuna") == 0 ? " Yes"
                                                              : "Yes");
        assert_int_equal(chat_render_turn(t, *state, &chat[3], &two, &e), OK);
        assert_string_equal(sbuf_str(&two), sbuf_str(&b));
        sbuf_fini(&two);
        sbuf_fini(&b);
    }
}

// What the templates in real models' files make of conversations (tools/mkchat.py).
static void test_recorded(void **state) {
    int n_line = 0;
    char line[4096];
    FILE *f = fopen("tests/data/chats.jsonl", "r");
    assert_non_null(f);
    for (; fgets(line, sizeof line, f) != NULL; n_line++) {
        struct json *doc = NULL;
        struct err e = {.code = OK};
        struct chat_message chat[16];
        struct sbuf b;
        size_t n = 0;
        sbuf_init(&b);
        assert_int_equal(json_open_text(&doc, "line", line, strlen(line), &e), OK);
        const struct jnode *messages = json_get(json_root(doc), "messages");
        for (; n < json_len(messages); n++) {
            assert_true(n < COUNTOF(chat));
            chat[n].role = json_str(json_get(json_at(messages, n), "role"), NULL);
            chat[n].content = json_str(json_get(json_at(messages, n), "content"), &chat[n].n);
        }
        const char *name = json_str(json_get(json_root(doc), "template"), NULL);
        assert_int_equal(chat_render(chat_find(name), *state, chat, n, &b, &e), OK);
        assert_string_equal(sbuf_str(&b), json_str(json_get(json_root(doc), "text"), NULL));
        sbuf_fini(&b);
        json_close(doc);
    }
    assert_int_equal(n_line, 24);
    fclose(f);
}

static void test_names(void **state) {
    (void)state;
    size_t n = 0;
    for (const char *const *name = chat_names(); *name != NULL; name++, n++) {
        assert_string_equal(chat_name(chat_find(*name)), *name);
    }
    assert_int_equal(n, 12);
    assert_null(chat_find("chatlm"));
}

static void test_recognise(void **state) {
    (void)state;
    static const struct {
        const char *text, *name;
    } rows[] = {
        {"{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}", "chatml"},
        {"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
         "<|im_end|>",
         "smollm2"},
        {"'<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n'", "qwen2"},
        {"<|im_start|> 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'",
         "qwen2.5"},
        {"<|im_start|> <|im_end|> You are somebody else", NULL},
        {"<|im_start|> <|im_end|> <think>", NULL},
        {"'<|start_header_id|>' + role + '<|end_header_id|>' <|eot_id|>", "llama-3"},
        {"<|start_header_id|> <|eot_id|> Cutting Knowledge Date: December 2023", NULL},
        {"'[INST] ' '<<SYS>>\\n' ' [/INST]'", "llama-2"},
        {"'[INST] ' + content + ' [/INST]' eos_token", "mistral"},
        {"[INST] [/INST] [AVAILABLE_TOOLS]", NULL},
        {"<|user|> <|end|> <|assistant|>", "phi-3"},
        {"'<|user|>\\n' + content + eos_token '<|assistant|>'", "zephyr"},
        {"'<start_of_turn>' + role '<end_of_turn>\\n'", "gemma"},
        {"'USER: ' + content 'ASSISTANT: '", "vicuna"},
        {"", NULL},
        {"{{ messages }}", NULL},
    };
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        const struct chat_template *t = chat_recognise(rows[i].text, strlen(rows[i].text));
        if (rows[i].name == NULL) {
            assert_null(t);
        } else {
            assert_non_null(t);
            assert_string_equal(chat_name(t), rows[i].name);
        }
    }
    const struct chat_template *t = NULL;
    struct err e = {.code = OK};
    assert_int_equal(chat_of_model(&t, MODEL, &e), E_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "brings no chat template"));
}

static void test_wrong_chats(void **state) {
    static const struct {
        const char *name;
        struct chat_message m[3];
        size_t n;
        const char *message;
    } rows[] = {
        {"chatml", {{"user", "a", 1}}, 0, "no messages"},
        {"chatml", {{"tool", "a", 1}}, 1, "the role \"tool\" is not one of"},
        {"chatml",
         {{"user", "a", 1}, {"assistant", "b", 1}},
         2,
         "the last message is the assistant's"},
        {"gemma", {{"user", "a", 1}, {"user", "b", 1}}, 2, "message 1: in template gemma user and"},
        {"llama-2", {{"user", "a", 1}, {"system", "b", 1}}, 2, "a system message in front only"},
        {"mistral", {{"system", "a", 1}, {"user", "b", 1}}, 2, "has no system messages"},
        {"llama-2", {{"system", "a", 1}}, 1, "the last message is the system's"},
    };
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        struct sbuf b;
        struct err e = {.code = OK};
        sbuf_init(&b);
        assert_int_equal(chat_render(chat_find(rows[i].name), *state, rows[i].m, rows[i].n, &b, &e),
                         E_FORMAT);
        if (strstr(e.msg, rows[i].message) == NULL) fail_msg("row %zu: %s", i, e.msg);
        sbuf_fini(&b);
    }
}

/* ---- prompts as JSON ---- */

static void test_prompts(void **state) {
    const struct gen_chat chat = {chat_find("plain"), NULL, *state};
    static const struct {
        const char *json;
        enum gen_kind kind;
        size_t n_turn;
        const char *text;
    } rows[] = {
        {"[{\"role\":\"user\",\"content\":\"Hi\"}]", GEN_CHAT, 1, "Hi\n\n"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"H\"},{\"text\":\"i\"}]},"
         "{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":[{\"text\":\"y\"}]}"
         "]",
         GEN_CHAT, 1, "Hi\n\nx\n\ny\n\n"},
        {"[\"one\",\"two\"]", GEN_TURNS, 2, "one\n\n"},
        {"{\"prompt\":\"p\\u0000q\"}", GEN_TEXT, 1, "p"},
        {"{\"prompt\":[\"only\"]}", GEN_TEXT, 1, "only"},
        {"{\"prompt\":[1,2]}", GEN_TEXT, 1, ""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", GEN_CHAT, 1, "Hi\n\n"},
    };
    static const char *const wrong[] = {
        "[]",
        "[1]",
        "[\"a\",2]",
        "[{\"role\":\"user\"}]",
        "[{\"content\":\"a\"}]",
        "[{\"role\":\"user\",\"content\":3}]",
        "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]",
        "[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[]}]",
        "{}",
        "{\"prompt\":\"a\",\"messages\":[]}",
        "{\"messages\":\"a\"}",
        "{\"prompt\":[\"a\",\"b\"]}",
        "{\"prompt\":[1,-2]}",
        "{\"prompt\":3}",
        "{",
    };
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        struct gen_prompt p;
        struct err e = {.code = OK};
        if (gen_prompt_read(&p, &chat, rows[i].json, strlen(rows[i].json), &e) != OK)
            fail_msg("%s", e.msg);
        assert_int_equal(p.kind, rows[i].kind);
        assert_int_equal(p.n_turn, rows[i].n_turn);
        assert_string_equal(sbuf_str(&p.text), rows[i].text);
        gen_prompt_fini(&p);
    }
    for (size_t i = 0; i < COUNTOF(wrong); i++) {
        struct gen_prompt p;
        struct err e = {.code = OK};
        const enum status st = gen_prompt_read(&p, &chat, wrong[i], strlen(wrong[i]), &e);
        if (st != E_FORMAT) fail_msg("%s: %s", wrong[i], err_name(st));
        gen_prompt_fini(&p);
    }
}

/* ---- what a body asks for ---- */

static enum status read_body(struct gen_ask *a, const char *json, struct err *e) {
    struct json *doc = NULL;
    struct gen_ask job;
    memset(&job, 0, sizeof job);
    stream_how_init(&job.how);
    job.how.max_new = 100;
    job.how.n_logprob = 3;
    job.logprobs = -1;
    assert_int_equal(json_open_text(&doc, "body", json, strlen(json), e), OK);
    const enum status st = gen_ask_of_body(a, &job, json_root(doc), 2048, e);
    json_close(doc);
    return st;
}

static void test_bodies(void **state) {
    (void)state;
    struct gen_ask a;
    struct err e = {.code = OK};
    assert_int_equal(
        read_body(&a,
                  "{\"model\":\"m\",\"max_completion_tokens\":7,\"temperature\":0.5,\"top_p\":0.9,"
                  "\"seed\":4,\"stop\":[\"x\",\"yz\"],\"presence_penalty\":-1,\"top_k\":-1,"
                  "\"frequency_penalty\":2,\"logit_bias\":{\"5\":-100,\"6\":1.5},\"n\":1,"
                  "\"logprobs\":true,\"top_logprobs\":2,\"stream\":false,\"user\":null}",
                  &e),
        OK);
    assert_int_equal(a.how.max_new, 7);
    assert_true(a.how.samp.temperature == 0.5 && a.how.samp.top_p == 0.9);
    assert_int_equal(a.seed, 4);
    assert_int_equal(a.n_stop, 2);
    assert_string_equal(a.stop[1], "yz");
    assert_true(a.how.samp.presence_penalty == -1 && a.how.samp.frequency_penalty == 2);
    assert_int_equal(a.how.samp.n_bias, 2);
    assert_true(a.how.samp.bias[1].id == 6 && a.how.samp.bias[1].add == 1.5);
    assert_int_equal(a.logprobs, 2);
    gen_ask_fini(&a);
    static const struct {
        const char *json, *message;
    } wrong[] = {
        {"{\"temperature\":-0.5}", "body.temperature: -0.5 is out of range"},
        {"{\"temperature\":\"hot\"}", "body.temperature: must be a number, found string"},
        {"{\"top_p\":0}", "top_p"},
        {"{\"top_p\":1.1}", "body.top_p"},
        {"{\"max_tokens\":101}", "body.max_tokens: 101 is out of range 1..100"},
        {"{\"max_tokens\":0}", "body.max_tokens"},
        {"{\"max_tokens\":1.5}", "body.max_tokens: must be an integer, found 1.5"},
        {"{\"max_tokens\":5,\"min_tokens\":6}", "body.min_tokens: more than max_tokens"},
        {"{\"stop\":\"\"}", "body.stop: must be 1 to 1024 bytes"},
        {"{\"stop\":[\"a\",3]}", "body.stop: must be a string"},
        {"{\"stop\":\"a\\u0000\"}", "body.stop: must be 1 to 1024 bytes without NUL"},
        {"{\"n\":2}", "body.n"},
        {"{\"stream\":true}", "body.stream: only false"},
        {"{\"logit_bias\":{\"2048\":1}}", "body.logit_bias: \"2048\" is not a token id"},
        {"{\"logit_bias\":{\"7\":101}}", "body.logit_bias"},
        {"{\"logit_bias\":[7]}", "body.logit_bias: must be an object"},
        {"{\"logprobs\":4}", "body.logprobs: 4, but the job's generate.logprobs allows 3"},
        {"{\"tools\":[]}", "body.tools: not a member this program reads"},
        {"{\"repetition_penalty\":0}", "repetition_penalty"},
    };
    for (size_t i = 0; i < COUNTOF(wrong); i++) {
        struct err why = {.code = OK};
        const enum status st = read_body(&a, wrong[i].json, &why);
        if (st != E_FORMAT || strstr(why.msg, wrong[i].message) == NULL) {
            fail_msg("%s: %s: %s", wrong[i].json, err_name(st), why.msg);
        }
    }
}

/* ---- text as it comes ---- */

// The ids of a text by single bytes where the tokenizer has them, so that every cut occurs.
static size_t byte_ids(const struct tok *tok, const char *text, size_t n, int32_t *ids) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        for (int32_t id = 0; id < tok_n_vocab(tok); id++) {
            size_t length = 0;
            const char *piece = tok_borrow_piece(tok, id, &length);
            if (piece == NULL || length != 1 || piece[0] != text[i]) continue;
            ids[k++] = id;
            break;
        }
    }
    assert_int_equal(k, n);
    return k;
}

static void check_text(const struct tok *tok, const char *text, size_t n, char *const *stops,
                       size_t n_stop, const char *want) {
    int32_t ids[256];
    const size_t n_id = byte_ids(tok, text, n, ids);
    struct gen_text t = {{NULL, 0, 0, false}};
    struct sbuf out;
    const struct gen_stops s = {stops, n_stop};
    bool stopped = false;
    sbuf_init(&out);
    for (size_t i = 0; i < n_id && !stopped; i++) {
        assert_int_equal(
            gen_text_add(&t, tok, ids[i], n_stop > 0 ? &s : NULL, &out, &stopped, NULL), OK);
        // What has been let go is never taken back.
        assert_true(out.n <= strlen(want));
        assert_memory_equal(sbuf_str(&out), want, out.n);
    }
    assert_int_equal(gen_text_end(&t, &out, NULL), OK);
    assert_string_equal(sbuf_str(&out), want);
    sbuf_fini(&out);
    sbuf_fini(&t.tail);
}

static void test_text(void **state) {
    char *const none[1] = {NULL};
    char one[] = "stop", overlap[] = "aab", accent[] = "\xc3\xa9!", other[] = "top!";
    char *const stop[] = {one}, *const aab[] = {overlap}, *const e_acute[] = {accent};
    char *const two[] = {other, one};
    const struct tok *tok = *state;
    check_text(tok, "h\xc3\xa9llo \xf0\x9f\x98\x80.", 12, none, 0,
               "h\xc3\xa9llo \xf0\x9f\x98\x80.");
    check_text(tok, "a\xc3", 2, none, 0, "a\xef\xbf\xbd");
    check_text(tok, "a\xf0\x9f\x98z\xff", 6, none, 0, "a\xef\xbf\xbdz\xef\xbf\xbd");
    check_text(tok, "don't stop me", 13, stop, 1, "don't ");
    check_text(tok, "sto sto stick", 13, stop, 1, "sto sto stick");
    check_text(tok, "aaaab", 5, aab, 1, "aa");
    check_text(tok, "caf\xc3\xa9.\xc3\xa9!x", 9, e_acute, 1, "caf\xc3\xa9.");
    check_text(tok, "stop", 4, stop, 1, "");
    check_text(tok, "a stop!", 7, two, 2, "a ");
    check_text(tok, "ends in sto", 11, stop, 1, "ends in sto");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render),      cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_names),       cmocka_unit_test(test_recognise),
        cmocka_unit_test(test_wrong_chats), cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_bodies),      cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
