/* Prompts that come as JSON: chats, turns, and the bodies of an OpenAI batch. Private to jobs/. */
#ifndef BASIN_JOBS_GEN_PROMPT_H
#define BASIN_JOBS_GEN_PROMPT_H

#include "core/chat.h"
#include "io/json.h"

enum gen_kind {
    GEN_TEXT,  /* a text, continued as it stands */
    GEN_CHAT,  /* messages, rendered by a template */
    GEN_TURNS, /* the user's turns, one answer each on one cache */
};

/* Zeroed is empty. */
struct gen_prompt {
    enum gen_kind kind;
    bool is_ids;      /* the first prompt is ids, not text */
    struct sbuf text; /* of the first prompt */
    int32_t *ids;     /* owned [n_ids] */
    size_t n_ids;
    struct json *doc;          /* owned: what `body` and the turns point into */
    const struct jnode *body;  /* NULL unless it was a batch's line */
    const struct jnode *turns; /* GEN_TURNS: a list of n_turn strings */
    size_t n_turn;             /* 1 unless GEN_TURNS */
};

struct gen_chat {
    const struct chat_template *t; /* NULL: `missing` says why */
    const struct err *missing;
    const struct tok *tok;
};

/* Reads json[0..n): an array (a chat or turns), or an object (a body). Errors: E_FORMAT, E_UNSUPPORTED
 * (a chat, and no template for it), E_NOMEM. */
enum status gen_prompt_read(struct gen_prompt *p, const struct gen_chat *c, const char *json,
                            size_t n, struct err *e) WARN_UNUSED;
/* Appends the text of turn i, 1 <= i < n_turn, with the end of the answer before it. */
enum status gen_prompt_turn(const struct gen_prompt *p, const struct gen_chat *c, size_t i,
                            struct sbuf *out, struct err *e) WARN_UNUSED;
void gen_prompt_fini(struct gen_prompt *p);

#endif
