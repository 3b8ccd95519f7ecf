/* Chat templates: how messages become the text of a prompt, as plain data.
 *
 * Models bring their template as a program (Jinja). None is run here: a template is a row of a table,
 * what stands before and behind a message of each role, and a model's own is recognised by what its
 * text contains. One that is not known, or known to do more than its row says, is refused by name; a
 * row may then be chosen by name.
 *
 * The text goes through the tokenizer as a whole, special tokens parsed, as transformers'
 * apply_chat_template does: what looks like a special token in a message is one.
 *
 * A further turn on a cache that already holds an answer: chat_render_turn() gives what stands
 * between that answer's last token and the next one's first, so that the cache holds what rendering
 * the whole chat at once would have put there: the end of the answer as the template writes it, the
 * BOS only where the template itself begins each turn with one (llama-2). */
#ifndef BASIN_CORE_CHAT_H
#define BASIN_CORE_CHAT_H

#include "base/sbuf.h"
#include "core/tok.h"

enum { CHAT_MOST_STOPS = 3 };

struct chat_template; /* opaque: static data */

/* By name; NULL when there is none. */
const struct chat_template *chat_find(const char *name);
/* All names, ended by NULL. */
const char *const *chat_names(void);
const char *chat_name(const struct chat_template *t);
/* By the text of a model's own template; NULL when it is not one of these. */
const struct chat_template *chat_recognise(const char *text, size_t n);
/* That of the model at `path` (tokenizer_config.json or chat_template.jinja in its directory, or the
 * metadata of its GGUF file). Errors: E_UNSUPPORTED (it has none, or one that is not recognised: the
 * message lists the names), E_NOINPUT, E_IO, E_FORMAT, E_NOMEM. */
enum status chat_of_model(const struct chat_template **out, const char *path,
                          struct err *e) WARN_UNUSED;

/* Special tokens that end an answer, besides the tokenizer's EOS; ended by NULL. */
const char *const *chat_stops(const struct chat_template *t);
/* Whether a prompt begins with the BOS token. */
bool chat_begins_with_bos(const struct chat_template *t);

struct chat_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* n bytes */
    size_t n;
};
/* Appends the messages and, behind them, what an answer begins with. tok: whose BOS and EOS are meant.
 * Errors: E_FORMAT (no messages, a role the template has not got, roles that do not alternate where
 * they must, the last not the user's), E_NOMEM. */
enum status chat_render(const struct chat_template *t, const struct tok *tok,
                        const struct chat_message *m, size_t n, struct sbuf *out,
                        struct err *e) WARN_UNUSED;
/* Appends the end of the answer before, the user's next message, and what its answer begins with. */
enum status chat_render_turn(const struct chat_template *t, const struct tok *tok,
                             const struct chat_message *user, struct sbuf *out,
                             struct err *e) WARN_UNUSED;

#endif
