/* What is asked of an answer: how its tokens are chosen, what ends it, what its row holds. Of a job
 * (manifest, the model's generation_config.json) and, over it, of a line of an OpenAI batch. Private
 * to jobs/. */
#ifndef BASIN_JOBS_GEN_ASK_H
#define BASIN_JOBS_GEN_ASK_H

#include "core/chat.h"
#include "core/stream.h"
#include "io/json.h"
#include "io/manifest.h"

struct gen_ask {
    struct stream_how how; /* key and first_step are the document's; its lists lie below */
    uint64_t seed;
    int64_t logprobs; /* -1: none in the row; else so many of the most probable ones too */
    bool token_ids;
    char *const *stop; /* borrowed [n_stop]: from the manifest, or `own_stop` */
    size_t n_stop;

    /* of a job */
    int32_t *eos;          /* owned */
    int32_t *word_ids;     /* owned: those of all bad words */
    struct samp_word *bad; /* owned */
    /* of a job, or of a document that says so itself */
    struct samp_bias *bias; /* owned */
    char **own_stop;        /* owned, and its strings */
};

struct gen_model {
    const char *path;
    const struct tok *tok;
    const struct chat_template *chat; /* NULL: none */
    int64_t n_vocab;
};
/* From a manifest, which must outlive it. Errors: E_NOINPUT, E_FORMAT (generation_config.json, by key),
 * E_FORMAT (a stop id or a bad word outside the vocabulary), E_NOMEM. */
enum status gen_ask_of_job(struct gen_ask *a, const struct manifest *man, const struct gen_model *m,
                           struct err *e) WARN_UNUSED;
/* From the body of a batch's line, for what it says; `job` for the rest, which must outlive it. chat:
 * written to. Errors: E_FORMAT naming the member, E_NOMEM. */
enum status gen_ask_of_body(struct gen_ask *a, const struct gen_ask *job, const struct jnode *body,
                            int64_t n_vocab, struct err *e) WARN_UNUSED;
void gen_ask_fini(struct gen_ask *a); /* zeroed will do */

#endif
