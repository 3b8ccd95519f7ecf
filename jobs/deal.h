/* Which device does which document: what the workers of a scoring job share. Private to jobs/.
 *
 * Parts are open in order, and documents of a part are claimed in order, one at a time, by whichever worker
 * has room for one: a device takes as much as it gets done, and no document waits for another. A worker reads
 * the part for itself and passes over what it has not claimed. What is finished before its turn waits here;
 * rows leave in input order. A claimed document may be returned, as it was at its beginning or in its middle,
 * and is claimed by another.
 *
 *     worker                                  the thread that called (crew.c)
 *     deal_claim, deal_locate                 opens parts, ends those that are complete
 *     deal_tokens, deal_finish                tells what is to be told
 *     deal_settle after each span             asks whether to stop
 *
 * Every function takes the lock for itself unless its name ends in _held. */
#ifndef BASIN_JOBS_DEAL_H
#define BASIN_JOBS_DEAL_H

#include "jobs/part.h"

struct deal;      /* opaque */
struct deal_part; /* opaque: a part in progress */

enum { DEAL_WORKERS_MOST = 64 };
enum deal_state { DEAL_FREE, DEAL_TAKEN, DEAL_DONE };

/* A document that has been claimed at some time. Its claimer reads part, serial, index, saved, kind. */
struct deal_doc {
    struct deal_part *part; /* borrowed */
    int64_t serial;         /* of the part: no two are alike */
    int64_t index;          /* in the part, from 0 */
    enum deal_state state;
    int worker;
    bool located, begun; /* slice and offset are known; some of it has been computed */
    int slice;
    int64_t offset;
    struct sbuf tokens; /* token lines that wait, the last ... */
    struct part_chunk *chunks;
    size_t n_chunk, cap_chunk; /* owned: ... and the first, put aside */
    struct sbuf lines;         /* when done: its row for each setting */
    bool failed;
    int64_t rows, n_tok;
    struct sbuf saved; /* its middle (score_state.c); empty: none */
    char kind[8];      /* of the device that saved it */
    size_t n_saved_chunk;
    int64_t saved_ns;
};

/* What one worker has done. */
struct deal_worker {
    char name[96], kind[8];
    bool alive;
    char why[256]; /* set aside because of that; "" */
    int64_t documents, tokens;
    double seconds[DEV_STAGE_COUNT];
};

struct deal_config {
    double commit_s, checkpoint_s;
};
enum status deal_open(struct deal **out, const struct deal_config *c, struct err *e) WARN_UNUSED;
void deal_close(struct deal *d);

/* ---- for a worker */

/* One more worker, before its thread begins. */
void deal_join(struct deal *d, int worker, const char *name, const char *kind);
/* The next document to do; *out NULL when there is none now. `wait`: until there is one, or never will be.
 * Errors: E_NOMEM. */
enum status deal_claim(struct deal *d, int worker, bool wait, struct deal_doc **out,
                       struct err *e) WARN_UNUSED;
const struct plan_part *deal_plan(const struct deal_doc *t);
/* Where the part stood when it was opened: documents are counted from there. */
const struct ledger_mark *deal_begin(const struct deal_doc *t);
/* Where it lies, and how far reading of its part has come. */
void deal_locate(struct deal *d, struct deal_doc *t, int slice, int64_t offset, int64_t bytes);
/* There is no such document: the part ends before it. `t` is gone. */
void deal_end(struct deal *d, struct deal_doc *t);
/* The part cannot be read; what others have in hand of it will be of no use. `t` is gone. */
void deal_break(struct deal *d, struct deal_doc *t, const struct err *why);

/* Token lines of the document. Errors: as part_out's. */
enum status deal_tokens(struct deal *d, struct deal_doc *t, const char *lines, size_t n,
                        struct err *e) WARN_UNUSED;
/* Positions of it have been computed, or taken over from a checkpoint; what they add to the running sums. */
struct deal_count {
    int64_t tokens;
    bool resumed;
    double sum_logprob;
    int64_t num_scored;
};
void deal_count(struct deal *d, struct deal_doc *t, const struct deal_count *c);
/* It is finished: lines are its rows, or its errors when it failed. `t` is gone. */
struct deal_result {
    const char *lines;
    size_t n;
    bool failed;
    int64_t rows, n_tok;
};
enum status deal_finish(struct deal *d, struct deal_doc *t, const struct deal_result *r,
                        struct err *e) WARN_UNUSED;
/* Gives it back; state: its middle, with all token lines so far, or NULL: as it was saved last, else from
 * its beginning. `t` is gone. */
enum status deal_return(struct deal *d, struct deal_doc *t, const struct sbuf *state,
                        struct err *e) WARN_UNUSED;
/* Its middle is of no use: it is begun anew by its owner. */
enum status deal_anew(struct deal *d, struct deal_doc *t, struct err *e) WARN_UNUSED;

/* Saves and commits what is due; to be called when nothing is being computed. */
struct deal_hand {
    int worker;
    struct deal_doc
        *middle; /* the document in hand that has been begun, or NULL; save() appends its state */
    enum status (*save)(void *ctx, struct sbuf *out, struct err *e);
    void *ctx;
    const struct deal_doc *reading; /* or NULL; `bytes`: how far in its part */
    int64_t bytes;
    const char *source; /* for people: what is in hand, or NULL; from the plan */
    const struct dev *dev;
};
enum status deal_settle(struct deal *d, const struct deal_hand *h, struct err *e) WARN_UNUSED;

bool deal_must_stop(void *deal); /* asked between layers */
void deal_note(void *deal, enum run_note kind, const char *text);
/* A worker ends. st not OK: its device is set aside (E_DEVICE, E_NOMEM), or the job has failed. */
void deal_leave(struct deal *d, int worker, enum status st, const struct err *why);

/* ---- for the thread that called (deal_lead.c) */

/* Runs until every part is through, the workers have stopped or none is left. Errors: of the source and of
 * workers; E_CANCEL; when no device is left its error, E_DEVICE for a GPU's. What was finished by then is
 * committed. */
enum status deal_lead(struct deal *d, const struct part_source *src,
                      const struct part_config *hooks, struct err *e) WARN_UNUSED;
/* For the hooks of deal_lead, which it calls, and where no worker runs. */
const struct part_totals *deal_totals_held(const struct deal *d);
int deal_workers_held(const struct deal *d, const struct deal_worker **w);

#endif
