/* Continuing the documents of one part: prompts read and tokenized, at most so many of them written on
 * at once, rows in input order. Private to jobs/.
 *
 * Documents go through the span engine one behind the other (their prompts) and are then continued
 * together by the stream engine, whose slots are filled again as they become free. What a document's
 * answer is does not depend on what else is being written. Results leave in input order; what is done
 * before its turn waits. */
#ifndef BASIN_JOBS_GEN_H
#define BASIN_JOBS_GEN_H

#include "core/chat.h"
#include "jobs/gen_ask.h"
#include "jobs/part.h"

struct generator; /* opaque */

struct gen_config {
    struct part_config part;          /* tok is there */
    const struct gen_ask *ask;        /* borrowed: what the job asks of every document */
    const struct chat_template *chat; /* NULL: `no_chat` says why there is none */
    const struct err *no_chat;        /* borrowed */
    int n_stream;
};

enum status gen_open(struct generator **out, const struct gen_config *c, struct err *e) WARN_UNUSED;
void gen_close(struct generator *g);
const struct part_totals *gen_totals(const struct generator *g);

/* As score_part(). */
enum status gen_part(struct generator *g, const struct plan *plan, const struct plan_part *part,
                     const struct part_out *out, struct ledger_mark *mark, struct sbuf *state,
                     struct err *e) WARN_UNUSED;

/* Streams that a job runs at once where its manifest does not say: as many as fit into half of the
 * memory that is free, at most 64, at least 1. */
int gen_default_streams(int64_t bytes_of_one, int64_t free_bytes);

#endif
