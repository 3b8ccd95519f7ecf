/* The ledger: an output directory, what is done in it, and how a part gets from work in progress to
 * published files without ever losing or doubling a row.
 *
 *   OUT/results-00017-of-00120.jsonl.lz4   published: part 17 is done when this file is there
 *   OUT/tokens-00017-of-00120.jsonl.lz4
 *   OUT/errors-00017-of-00120.jsonl
 *   OUT/job.json  OUT/_SUCCESS  OUT/run/ATTEMPT.json
 *   OUT/.basin/lock/00017                  flock'ed while a run holds part 17
 *   OUT/.basin/done/00017.json             counts and hashes of part 17's files
 *   OUT/.basin/work/00017/ATTEMPT/         one attempt's own directory, written by nobody else:
 *       results tokens errors              segments: LZ4 frames back to back
 *       commits                            one line per commit: JSON, a space, XXH64 of the JSON in hex
 *       state-0 state-1                    mid-document checkpoints, written in turn
 *       alive                              flock'ed by the attempt
 *
 * A commit says how many bytes of each segment count, which document comes next, and which state file, if
 * any, holds a document's middle. What lies behind a commit's lengths is dropped on resume. A resuming
 * attempt copies the counted prefix of the furthest earlier attempt into its own directory.
 *
 * Publishing writes each file as ONE LZ4 frame under a temporary name, fsync, rename, fsync of the
 * directory; results last. */
#ifndef BASIN_JOBS_LEDGER_H
#define BASIN_JOBS_LEDGER_H

#include "base/sbuf.h"
#include "jobs/plan.h"

enum ledger_stream { LEDGER_RESULTS, LEDGER_TOKENS, LEDGER_ERRORS, LEDGER_STREAMS };

struct ledger; /* opaque: an output directory opened for a run */

struct ledger_config {
    const char *dir;
    const char *job_json;  /* the job as this run understands it; compared with the directory's own */
    int n_part;
    bool overwrite;        /* throw away what another job left here */
    const char *attempt;   /* unique name of this run: [A-Za-z0-9-]+ */
};

/* Creates or opens OUT. Errors: E_OUTPUT (cannot be created; not empty and not ours; holds another job: the
 * message names the field that differs), E_IO. */
enum status ledger_open(struct ledger **out, const struct ledger_config *c, struct err *e) WARN_UNUSED;
void ledger_close(struct ledger *l);
const char *ledger_dir(const struct ledger *l);
/* Value of a top-level string of the job.json in `dir` ("dtype"); E_NOINPUT when there is no job yet. */
enum status ledger_read_job(struct json **out, const char *dir, struct err *e) WARN_UNUSED;

/* File names inside OUT, written to `name`. */
enum { LEDGER_NAME = 64 };
void ledger_name(char name[LEDGER_NAME], enum ledger_stream s, int part, int n_part);

bool ledger_is_published(const struct ledger *l, int part);
/* Counts of a published part (from done/, or from the files when that record is missing). */
struct ledger_counts {
    int64_t documents, failed, rows, tokens;
};
enum status ledger_part_counts(struct ledger *l, int part, struct ledger_counts *out,
                               struct err *e) WARN_UNUSED;

/* Writes _SUCCESS once every part is published; *all says whether. Recreates nothing that is there. */
enum status ledger_finish(struct ledger *l, bool *all, struct ledger_counts *total,
                          struct err *e) WARN_UNUSED;

/* ---- one part, held by this run ---- */

struct ledger_part; /* opaque */

/* Where a part stands: what a commit records. */
struct ledger_mark {
    int64_t documents;     /* finished, failed ones included */
    int64_t failed;
    int64_t rows;
    int64_t tokens;        /* scored rows' ids, all settings */
    int slice;             /* the next document begins in this slice ... */
    int64_t offset;        /* ... at this byte: the first to do, or the one that `state` is the middle of */
};

/* Takes the part's lock (unless `ignore_lock`), opens this run's own directory for it and loads the furthest
 * state of all earlier attempts. *held: another live run has it (then *out is NULL and OK is returned).
 * *no_locks: the file system has none. mark: where to go on. state: bytes of the mid-document checkpoint, or
 * empty. With retry_failed a published part that has errors is begun anew. */
enum status ledger_part_open(struct ledger_part **out, struct ledger *l, int part, bool ignore_lock,
                             bool *held, bool *no_locks, struct ledger_mark *mark, struct sbuf *state,
                             struct err *e) WARN_UNUSED;
void ledger_part_close(struct ledger_part *p); /* releases the lock; keeps what was committed */

/* Appends whole lines of finished documents, or of the document in progress (open = true; only tokens).
 * Buffered; large buffers go to the segment at once. */
enum status ledger_add(struct ledger_part *p, enum ledger_stream s, const char *lines, size_t n,
                       struct err *e) WARN_UNUSED;
enum status ledger_add_open(struct ledger_part *p, const char *lines, size_t n, struct err *e) WARN_UNUSED;
/* The document in progress is finished: its token lines count as finished. */
void ledger_close_document(struct ledger_part *p);
/* The document in progress failed: its token lines vanish. */
enum status ledger_drop_document(struct ledger_part *p, const struct ledger_mark *m,
                                 struct err *e) WARN_UNUSED;

/* Bytes of finished lines that a kill would lose now. */
int64_t ledger_uncommitted(const struct ledger_part *p);

/* Makes everything added so far survive a kill. state: bytes of a mid-document checkpoint, n_state 0: none,
 * then lines of the document in progress do not count. */
enum status ledger_commit(struct ledger_part *p, const struct ledger_mark *m, const char *state,
                          size_t n_state, struct err *e) WARN_UNUSED;

/* Writes the published files and removes work in progress that no live attempt holds. */
enum status ledger_publish(struct ledger_part *p, const struct ledger_mark *m, struct err *e) WARN_UNUSED;

/* How far work in progress of `part` has come (the furthest attempt), for status and plan. False: none. */
bool ledger_peek(const char *dir, int part, struct ledger_mark *mark);

#endif
