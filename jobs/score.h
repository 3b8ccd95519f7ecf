/* Scoring the documents of one part: reading, packing into spans, accounting, rows. Private to
 * jobs/.
 *
 * Rows leave in input order through `struct score_out`, which is the ledger (basin run) or standard
 * output (basin score). The scorer decides when to commit and can go on from a mark and a saved
 * state. */
#ifndef BASIN_JOBS_SCORE_H
#define BASIN_JOBS_SCORE_H

#include "core/span.h"
#include "jobs/doc.h"
#include "jobs/ledger.h"
#include "jobs/plan.h"
#include "jobs/run.h"

struct score_out {
    void *ctx;
    /* Whole lines of finished documents. */
    enum status (*add)(void *ctx, enum ledger_stream s, const char *lines, size_t n, struct err *e);
    /* Token lines of the document in progress; they count once it is closed, vanish when it is
     * dropped. */
    enum status (*add_open)(void *ctx, const char *lines, size_t n, struct err *e);
    void (*close_document)(void *ctx);
    enum status (*drop_document)(void *ctx, struct err *e);
    int64_t (*uncommitted)(void *ctx);
    enum status (*commit)(void *ctx, const struct ledger_mark *m, const char *state, size_t n_state,
                          struct err *e);
};

/* What a run has computed; updated as it goes. */
struct score_totals {
    int64_t documents, failed;
    int64_t tokens;         /* positions computed, all settings */
    int64_t tokens_resumed; /* positions taken over from a checkpoint instead of being computed */
    struct num_sum sum;
    int64_t num_scored;
    int64_t part_bytes; /* of the part's input read so far, about */
    int64_t part_begun; /* the same where this run began with it */
};

/* The visibility rule of a cache setting. */
struct vis_rule score_rule(const struct man_setting *s);

struct scorer; /* opaque */

struct score_config {
    const struct manifest *man; /* borrowed, as everything here */
    const struct model_on *mo;
    const struct tok *tok; /* NULL when no input is text */
    bool add_bos;
    struct doc_labels labels;
    const char *model_identity;
    int64_t n_row;
    double commit_s, checkpoint_s;
    struct span_stop stop;
    void (*note)(void *ctx, enum run_note kind, const char *text);
    void (*progress)(void *ctx, const struct score_totals *t,
                     const char *source); /* after each span */
    void *ctx;
};

enum status score_open(struct scorer **out, const struct score_config *c,
                       struct err *e) WARN_UNUSED;
void score_close(struct scorer *s);
const struct score_totals *score_totals(const struct scorer *s);

/* Scores the documents of `part` from *mark on, and its middle if `state` holds one. *mark moves
 * along with every commit and is final on success. E_CANCEL: stopped on request, everything
 * finished is committed, and so is the middle of a document. Other failures leave what was
 * committed. */
enum status score_part(struct scorer *s, const struct plan *plan, const struct plan_part *part,
                       const struct score_out *out, struct ledger_mark *mark,
                       const struct sbuf *state, struct err *e) WARN_UNUSED;

#endif
