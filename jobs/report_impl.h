/* The rows of a part, wherever they are now. Private to jobs/. */
#ifndef BASIN_JOBS_REPORT_IMPL_H
#define BASIN_JOBS_REPORT_IMPL_H

#include "jobs/ledger_impl.h"
#include "jobs/report.h"

/* How far a part has been read. Rows of a part come in one order and, being the same bytes in every
 * attempt and when published, are told apart by where they begin. Zeroed: nothing yet. */
struct report_cursor {
    int64_t taken_bytes; /* content handed out */
    bool finished;       /* to the end of the published file */
    bool live;           /* whatever whole frames hold counts, committed or not: only where every
                            attempt writes the same lines */
};

/* Gets one line without its newline, borrowed for the call. */
typedef enum status (*report_row)(void *ctx, const char *line, size_t n, struct err *e);

/* What the job in `dir` is. */
struct report_job {
    bool generates;
    struct sbuf model; /* its path, as the manifest has it */
};
/* Number of its parts; job may be NULL, else sbuf_fini(&job->model) is the caller's. */
enum status report_open_dir(const char *dir, int *n_part, struct report_job *job,
                            struct err *e) WARN_UNUSED;

/* Hands out the rows of `part` from the cursor on: of the published file, else what the furthest
 * attempt has committed of finished documents. Damage to work in progress is passed over. */
enum status report_read_part(const char *dir, int part, int n_part, enum ledger_stream s,
                             struct report_cursor *cursor, report_row row, void *ctx,
                             struct err *e) WARN_UNUSED;

/* A row of results (failed: of errors) of a generate job as a line of an OpenAI batch's output. */
enum status report_put_openai(const char *line, size_t n, bool failed, const char *model,
                              struct sbuf *out, struct err *e) WARN_UNUSED;

#endif
