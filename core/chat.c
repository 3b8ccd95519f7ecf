#include "core/chat.h"

#include <string.h>

/* In the strings below: the texts of the tokenizer's BOS and EOS tokens. */
#define BOS "\1"
#define EOS "\2"

enum role { SYSTEM, USER, ASSISTANT, ROLES };
static const char *const role_names[ROLES] = {"system", "user", "assistant"};

struct wrap {
    const char *open, *close;
};

struct chat_template {
    const char *name;
    const char *has[4];   /* how a model's own is recognised: all of these, ended by NULL ... */
    const char *lacks[4]; /* ... and none of these */
    const char *start;    /* in front of everything */
    const char *default_system; /* NULL: none */
    struct wrap roles[ROLES];   /* of the system: where it is a message of its own */
    struct wrap inside;         /* of the system: else inside the first user's message */
    const char *answer;         /* what an answer begins with */
    bool alternates;            /* user and assistant must take turns */
    bool trims;                 /* white space around contents is taken away */
    const char *stops[CHAT_MOST_STOPS + 1];
};

#define CHATML(role)                                                                               \
    { "<|im_start|>" role "\n", "<|im_end|>\n" }
#define CHATML_ROLES                                                                               \
    { CHATML("system"), CHATML("user"), CHATML("assistant") }
#define LLAMA_3(role)                                                                              \
    { "<|start_header_id|>" role "<|end_header_id|>\n\n", "<|eot_id|>" }
#define GEMMA(role)                                                                                \
    { "<start_of_turn>" role "\n", "<end_of_turn>\n" }

/* Special ones before those whose marks they share. Sources: the chat_template of each family's
 * tokenizer_config.json; of vicuna, FastChat's conversation template of version 1.1. */
static const struct chat_template templates[] = {
    {.name = "qwen2.5",
     .has = {"<|im_start|>",
             "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     .roles = CHATML_ROLES,
     .answer = "<|im_start|>assistant\n",
     .stops = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "smollm2",
     .has = {"<|im_start|>",
             "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
     .lacks = {"<think>"},
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
     .roles = CHATML_ROLES,
     .answer = "<|im_start|>assistant\n",
     .stops = {"<|im_end|>"}},
    {.name = "qwen2",
     .has = {"<|im_start|>system", "You are a helpful assistant.<|im_end|>"},
     .lacks = {"<think>"},
     .default_system = "You are a helpful assistant.",
     .roles = CHATML_ROLES,
     .answer = "<|im_start|>assistant\n",
     .stops = {"<|im_end|>", "<|endoftext|>"}},
    {.name = "chatml",
     .has = {"<|im_start|>", "<|im_end|>"},
     .lacks = {"<think>", "You are "},
     .roles = CHATML_ROLES,
     .answer = "<|im_start|>assistant\n",
     .stops = {"<|im_end|>"}},
    {.name = "llama-3",
     .has = {"<|start_header_id|>", "<|eot_id|>"},
     .lacks = {"Cutting Knowledge Date", "<|python_tag|>"},
     .start = BOS,
     .roles = {LLAMA_3("system"), LLAMA_3("user"), LLAMA_3("assistant")},
     .answer = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .trims = true,
     .stops = {"<|eot_id|>", "<|end_of_text|>"}},
    {.name = "llama-2",
     .has = {"[INST]", "<<SYS>>"},
     .roles = {[USER] = {BOS "[INST] ", " [/INST]"}, [ASSISTANT] = {" ", " " EOS}},
     .inside = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .answer = "",
     .alternates = true,
     .trims = true},
    {.name = "mistral",
     .has = {"[INST]", "[/INST]"},
     .lacks = {"<<SYS>>", "[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]"},
     .start = BOS,
     .roles = {[USER] = {"[INST] ", " [/INST]"}, [ASSISTANT] = {"", EOS}},
     .answer = "",
     .alternates = true},
    {.name = "phi-3",
     .has = {"<|user|>", "<|end|>", "<|assistant|>"},
     .lacks = {"<|im_start|>"},
     .roles = {{"<|system|>\n", "<|end|>\n"},
               {"<|user|>\n", "<|end|>\n"},
               {"<|assistant|>\n", "<|end|>\n"}},
     .answer = "<|assistant|>\n",
     .stops = {"<|end|>", "<|endoftext|>"}},
    {.name = "zephyr",
     .has = {"<|user|>", "<|assistant|>", "eos_token"},
     .lacks = {"<|end|>", "<|im_start|>"},
     .roles = {{"<|system|>\n", EOS "\n"}, {"<|user|>\n", EOS "\n"}, {"<|assistant|>\n", EOS "\n"}},
     .answer = "<|assistant|>\n"},
    {.name = "gemma",
     .has = {"<start_of_turn>", "<end_of_turn>"},
     .start = BOS,
     .roles = {[USER] = GEMMA("user"), [ASSISTANT] = GEMMA("model")},
     .inside = {"", "\n\n"},
     .answer = "<start_of_turn>model\n",
     .alternates = true,
     .trims = true,
     .stops = {"<end_of_turn>"}},
    {.name = "vicuna",
     .has = {"USER: ", "ASSISTANT:"},
     .start = BOS,
     .default_system =
         "A chat between a curious user and an artificial intelligence assistant. The "
         "assistant gives helpful, detailed, and polite answers to the user's "
         "questions.",
     .roles = {{"", " "}, {"USER: ", " "}, {"ASSISTANT: ", EOS}},
     .answer = "ASSISTANT:",
     .alternates = true},
    {.name = "plain",
     .has = {NULL},
     .roles = {{"", "\n\n"}, {"", "\n\n"}, {"", "\n\n"}},
     .answer = ""},
};

static const char *const names[] = {"qwen2.5", "smollm2", "qwen2", "chatml", "llama-3",
                                    "llama-2", "mistral", "phi-3", "zephyr", "gemma",
                                    "vicuna",  "plain",   NULL};

const struct chat_template *chat_find(const char *name) {
    for (size_t i = 0; i < COUNTOF(templates); i++) {
        if (strcmp(templates[i].name, name) == 0) return &templates[i];
    }
    return NULL;
}

const char *const *chat_names(void) {
    return names;
}

const char *chat_name(const struct chat_template *t) {
    return t->name;
}

static bool contains(const char *text, size_t n, const char *mark) {
    return memmem(text, n, mark, strlen(mark)) != NULL;
}

const struct chat_template *chat_recognise(const char *text, size_t n) {
    for (size_t i = 0; i < COUNTOF(templates); i++) {
        const struct chat_template *t = &templates[i];
        bool fits = t->has[0] != NULL;
        for (size_t k = 0; k < COUNTOF(t->has) && t->has[k] != NULL; k++) {
            fits = fits && contains(text, n, t->has[k]);
        }
        for (size_t k = 0; k < COUNTOF(t->lacks) && t->lacks[k] != NULL; k++) {
            fits = fits && !contains(text, n, t->lacks[k]);
        }
        if (fits) return t;
    }
    return NULL;
}

const char *const *chat_stops(const struct chat_template *t) {
    return t->stops;
}

bool chat_begins_with_bos(const struct chat_template *t) {
    const char *first = t->start != NULL ? t->start : t->roles[USER].open;
    return strncmp(first, BOS, 1) == 0;
}

/* ---- rendering ---- */

struct render {
    const struct chat_template *t;
    const struct tok *tok;
    struct sbuf *out;
};

static void put_special(struct render *r, int32_t id) {
    size_t n = 0;
    const char *text = id >= 0 ? tok_borrow_piece(r->tok, id, &n) : NULL;
    if (text != NULL) sbuf_add(r->out, text, n);
}

static void put(struct render *r, const char *s) {
    for (; s != NULL && *s != '\0'; s++) {
        if (*s == BOS[0]) {
            put_special(r, tok_bos(r->tok));
        } else if (*s == EOS[0]) {
            put_special(r, tok_eos(r->tok));
        } else {
            sbuf_putc(r->out, *s);
        }
    }
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void put_content(struct render *r, const struct chat_message *m) {
    size_t begin = 0, end = m->n;
    while (r->t->trims && begin < end && is_space(m->content[begin])) begin++;
    while (r->t->trims && end > begin && is_space(m->content[end - 1])) end--;
    sbuf_add(r->out, m->content + begin, end - begin);
}

static int role_of(const struct chat_message *m) {
    for (int i = 0; i < ROLES; i++) {
        if (strcmp(role_names[i], m->role) == 0) return i;
    }
    return -1;
}

static enum status check(const struct chat_template *t, const struct chat_message *m, size_t n,
                         struct err *e) {
    if (n == 0) return err_fail(e, E_FORMAT, "no messages");
    for (size_t i = 0; i < n; i++) {
        const int role = role_of(&m[i]);
        const size_t turn = i - (role_of(&m[0]) == SYSTEM);
        if (role < 0) {
            return err_fail(e, E_FORMAT,
                            "message %zu: the role \"%.64s\" is not one of system, user, "
                            "assistant",
                            i, m[i].role);
        }
        if (role == SYSTEM && i > 0 && t->roles[SYSTEM].close == NULL) {
            return err_fail(e, E_FORMAT,
                            "message %zu: template %s has a system message in front only", i,
                            t->name);
        }
        if (role == SYSTEM && t->roles[SYSTEM].close == NULL && t->inside.close == NULL) {
            return err_fail(e, E_FORMAT, "message %zu: template %s has no system messages", i,
                            t->name);
        }
        if (t->alternates && role != SYSTEM && role != (turn % 2 == 0 ? USER : ASSISTANT)) {
            return err_fail(e, E_FORMAT,
                            "message %zu: in template %s user and assistant must take "
                            "turns",
                            i, t->name);
        }
    }
    if (role_of(&m[n - 1]) != USER) {
        return err_fail(e, E_FORMAT,
                        "the last message is the %s's, not the user's: there is nothing to "
                        "answer",
                        m[n - 1].role);
    }
    return OK;
}

enum status chat_render(const struct chat_template *t, const struct tok *tok,
                        const struct chat_message *m, size_t n, struct sbuf *out, struct err *e) {
    struct render r = {t, tok, out};
    const enum status st = check(t, m, n, e);
    if (st != OK) return st;
    const bool own = t->roles[SYSTEM].close != NULL;
    const bool given = role_of(&m[0]) == SYSTEM;
    const struct chat_message *inside = given && !own ? &m[0] : NULL;
    put(&r, t->start);
    if (!given && own && t->default_system != NULL) {
        put(&r, t->roles[SYSTEM].open);
        put(&r, t->default_system);
        put(&r, t->roles[SYSTEM].close);
    }
    for (size_t i = inside != NULL; i < n; i++) {
        const struct wrap *w = &t->roles[role_of(&m[i])];
        put(&r, w->open);
        if (inside != NULL) {
            put(&r, t->inside.open);
            put_content(&r, inside);
            put(&r, t->inside.close);
            inside = NULL;
        }
        put_content(&r, &m[i]);
        put(&r, w->close);
    }
    put(&r, t->answer);
    return sbuf_status(out, e);
}

enum status chat_render_turn(const struct chat_template *t, const struct tok *tok,
                             const struct chat_message *user, struct sbuf *out, struct err *e) {
    struct render r = {t, tok, out};
    put(&r, t->roles[ASSISTANT].close);
    put(&r, t->roles[USER].open);
    put_content(&r, user);
    put(&r, t->roles[USER].close);
    put(&r, t->answer);
    return sbuf_status(out, e);
}
