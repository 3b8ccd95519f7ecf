/* What every kind of job does with a part: the documents of its slices in order, where its rows go,
 * when it commits. Private to jobs/.
 *
 * Rows leave in input order through `struct part_out`, which is the ledger (basin run) or standard
 * output (basin score, basin generate). */
#ifndef BASIN_JOBS_PART_H
#define BASIN_JOBS_PART_H

#include "core/span.h"
#include "jobs/doc.h"
#include "jobs/ledger.h"
#include "jobs/plan.h"
#include "jobs/run.h"

struct part_out {
    void *ctx;
    /* Whole lines of finished documents. */
    enum status (*add)(void *ctx, enum ledger_stream s, const char *lines, size_t n, struct err *e);
    /* Token lines of the document in progress; they count once it is closed, vanish when it is
     * dropped. */
    enum status (*add_open)(void *ctx, const char *lines, size_t n, struct err *e);
    void (*close_document)(void *ctx);
    enum status (*drop_document)(void *ctx, struct err *e);
    /* Bytes put aside, and read again: see ledger_spool(). */
    enum status (*spool)(void *ctx, const char *bytes, size_t n, int64_t *at, struct err *e);
    enum status (*unspool)(void *ctx, int64_t at, size_t n, struct sbuf *out, struct err *e);
    int64_t (*uncommitted)(void *ctx);
    /* See ledger_put_state() (bytes NULL: drops the pieces) and ledger_commit(). */
    enum status (*put_state)(void *ctx, const char *bytes, size_t n, struct err *e);
    enum status (*commit)(void *ctx, const struct ledger_mark *m, const char *state, size_t n_state,
                          struct err *e);
};

/* Bytes put aside through part_out.spool. */
struct part_chunk {
    int64_t at, n;
    uint64_t hash; /* XXH64 */
};
enum status part_chunk_put(const struct part_out *out, struct part_chunk *c, const char *bytes,
                           size_t n, struct err *e) WARN_UNUSED;
/* Appends them. Errors: E_IO (also: not what was put), E_NOMEM. */
enum status part_chunk_get(const struct part_out *out, const struct part_chunk *c, struct sbuf *to,
                           struct err *e) WARN_UNUSED;

/* A part that is being done. */
struct part_job {
    const struct plan_part *part; /* borrowed */
    struct part_out out;
    struct ledger_mark mark;        /* where it stands; moves as rows leave */
    struct sbuf state;              /* a checkpoint it begins with, or empty */
    int64_t tokens, tokens_resumed; /* positions computed, taken over from a checkpoint */
    int64_t bytes, bytes_begun;     /* of its input read so far, about; the same where it began */
};

/* Where parts come from, and go. */
struct part_source {
    void *ctx;
    /* *out NULL: there are no more. */
    enum status (*next)(void *ctx, struct part_job **out, struct err *e);
    /* The part is through when st is OK, with its last commit behind it; else given up because of *why.
     * The job is gone afterwards. Errors: what ends the run; a part's missing input (E_NOINPUT) need not. */
    enum status (*end)(void *ctx, struct part_job *j, enum status st, const struct err *why,
                       struct err *e);
};

/* What a run has computed; updated as it goes. */
struct part_totals {
    int64_t documents, failed;
    int64_t tokens;         /* positions computed, or tokens written, all settings */
    int64_t tokens_resumed; /* taken over from a checkpoint instead of being computed */
    struct num_sum sum;
    int64_t num_scored;
    int64_t part_bytes; /* of the part's input read so far, about */
    int64_t part_begun; /* the same where this run began with it */
};

struct part_config {
    const struct manifest *man; /* borrowed, as everything here */
    const struct plan *plan;
    const struct model_on *mo;
    const struct model_on *step_mo; /* where answers are written a token at a time; may be mo */
    const struct tok *tok;          /* NULL when no input is text */
    bool add_bos;
    struct doc_labels labels;
    const char *model_identity;
    int64_t n_row;
    double commit_s, checkpoint_s;
    double stop_save_s; /* once asked to stop, so long may the saving of a state take */
    struct span_stop stop;
    void (*note)(void *ctx, enum run_note kind, const char *text);
    void (*progress)(void *ctx, const struct part_totals *t,
                     const char *source); /* after each span or step */
    void *ctx;
};

/* The visibility rule of a cache setting. */
struct vis_rule part_rule(const struct man_setting *s);

/* ---- the documents of a part, in order ---- */

struct part_feed {
    const struct plan *plan; /* borrowed, as `part` */
    const struct plan_part *part;
    struct corpus *corpus; /* owned: of the slice in hand */
    int slice;             /* next or open slice of the part */
    int64_t seek;          /* where to begin in it; at most its begin: at its beginning */
};
/* Begins at a mark's place. Whatever was open is closed. */
void part_feed_begin(struct part_feed *f, const struct plan *plan, const struct plan_part *part,
                     const struct ledger_mark *m);
void part_feed_fini(struct part_feed *f);
/* Moves to the next document. *end when there is none. What is wrong with the document itself goes to
 * *bad, whose code is OK otherwise; the status is for everything else. */
enum status part_feed_next(struct part_feed *f, struct corpus_doc *doc, bool *end, struct err *bad,
                           struct err *e) WARN_UNUSED;
/* How far into the part's input reading is, compressed where that is; text of JSON lines is taken for
 * as long as it is written. `doc`: the document being read, `pos` bytes of its text; NULL: none. */
int64_t part_feed_bytes(const struct part_feed *f, const struct doc *doc, int64_t pos);

/* ---- when to commit ---- */

struct part_clock {
    int64_t committed_ns,
        saved_ns; /* the last commit, and the last with nothing unsaved behind it */
    int64_t committed_documents;
};
void part_clock_start(struct part_clock *c, const struct ledger_mark *m);
/* Whether a commit is due, and whether with a state. `middle`: there is one to be saved. */
bool part_commit_due(const struct part_clock *c, const struct part_config *cfg,
                     const struct part_out *out, const struct ledger_mark *m, bool middle,
                     bool *with_state);
/* After a commit; `saved`: it had a state, or there was none to have. */
void part_committed(struct part_clock *c, const struct ledger_mark *m, bool saved);

/* What a checkpoint belongs to, as lines "name value". The first in which two heads differ names what
 * the state does not fit: E_FORMAT. */
enum status part_compare_heads(const char *have, size_t n_have, const struct sbuf *want,
                               struct err *e) WARN_UNUSED;

#endif
