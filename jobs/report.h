/* Reading an output directory: status, cat, stats, verify. Reads records only and takes no locks,
 * so that it is safe while runs are going on. */
#ifndef BASIN_JOBS_REPORT_H
#define BASIN_JOBS_REPORT_H

#include "base/sbuf.h"
#include "jobs/ledger.h"

struct report_status {
    int n_part, published, in_progress, held;
    int64_t documents, failed,
        tokens; /* of published parts and of what is committed in the others */
    bool success;
};
/* failed_rows: lines of the errors files, when not NULL. Errors: E_NOINPUT (no job there),
 * E_FORMAT, E_IO. */
enum status report_status(const char *dir, struct report_status *out, struct sbuf *failed_rows,
                          struct err *e) WARN_UNUSED;

struct report_query {
    enum ledger_stream stream; /* results or tokens */
    const char *id;            /* NULL: all */
    const char *setting;       /* NULL: all */
    const char *const *fields; /* NULL: all, in file order; a field a row lacks is null */
    int n_field;
    bool openai; /* results of a generate job as lines of an OpenAI batch's output; `stream` is
                    results, then the failed documents follow; no other choice but id and setting */
    bool tsv;    /* with a header line; strings as they are with \t \n \\ escaped, null is empty */
    bool follow; /* wait for more rows until _SUCCESS appears or stop() says so; token rows of a
                    generate job come while their document is being written */
    bool (*stop)(void *ctx);
    void *ctx;
};
/* Every row of finished and unfinished parts, part by part, no row twice, to `write`.
 * Errors: E_NOINPUT (no job there; at the end, no row has this id), E_ARG (the job has no such
 * setting), those of `write`, E_FORMAT, E_IO. */
enum status report_cat(const char *dir, const struct report_query *q,
                       enum status (*write)(void *ctx, const char *bytes, size_t n, struct err *e),
                       void *ctx, struct err *e) WARN_UNUSED;

struct report_total {
    char setting[65];
    int64_t documents, num_tokens, num_scored, num_bytes, num_words;
    double sum_logprob;
    bool has_text;   /* every document of it was text: bytes and words count */
    bool written;    /* of a generate job: num_tokens are prompts', num_scored those of answers */
    int64_t stopped; /* answers that ended by themselves; the others were cut at their length */
};
/* totals: owned by the caller (mem_free), one per setting in order of first appearance. */
enum status report_stats(const char *dir, struct report_total **totals, int *n_total,
                         struct err *e) WARN_UNUSED;

/* Re-reads every published file against its checksums, done/ hashes and _SUCCESS counts, and the
 * committed prefix of work in progress. Findings: one line each. *ok false when any. Errors:
 * E_NOINPUT, E_NOMEM. */
enum status report_verify(const char *dir, struct sbuf *findings, bool *ok,
                          struct err *e) WARN_UNUSED;

#endif
