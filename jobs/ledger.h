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
 *       spool                              raw bytes: token lines whose turn has not come
 *       commits                            a line per commit: JSON, a space, XXH64 of the JSON
 *       state-0 state-1                    mid-document checkpoints, written in turn
 *       alive                              flock'ed by the attempt
 *
 * A commit says how many bytes of each segment count, which document comes next, and which state
 * file, if any, holds a document's middle (byte by byte in ledger_impl.h). What lies behind a
 * commit's lengths is dropped on resume. A resuming attempt copies the counted prefix of the
 * furthest earlier attempt into its own directory.
 *
 * Publishing writes each file as ONE LZ4 frame under a temporary name, fsync, rename, fsync of the
 * directory; results last.
 *
 * Nothing an earlier attempt left is believed without its checksum; what does not hold costs time,
 * never rows. A failed write leaves what was committed; after a failed sync the part has to be
 * opened anew (everything else says E_IO until then). Handles belong to one thread at a time. */
#ifndef BASIN_JOBS_LEDGER_H
#define BASIN_JOBS_LEDGER_H

#include "base/sbuf.h"
#include "io/json.h"

enum ledger_stream { LEDGER_RESULTS, LEDGER_TOKENS, LEDGER_ERRORS, LEDGER_STREAMS };

struct ledger; /* opaque: an output directory opened for a run */

struct ledger_config {
    const char *dir;
    const char *job_json; /* an object; members "identity" and "parts" are compared with those of
                             the directory's own job, the rest is for people; output.path,
                             compute.span_tokens and generate.streams of "identity"'s "manifest" may
                             differ */
    int n_part;
    bool tokens;         /* parts have a tokens file */
    bool overwrite;      /* throw away what another job left here */
    bool retry_failed;   /* published parts with errors are done anew */
    const char *attempt; /* unique name of this run: [A-Za-z0-9-]+ */
};

/* Creates or opens OUT. Many ranks may do so at once. With overwrite another job's files (and
 * nothing else) are removed first; the same job's files stay, so that all ranks of a job may be
 * started with it. Errors: E_OUTPUT (cannot be created; not empty and not ours; holds another job:
 * the message names the first field that differs and both values), E_BUSY (overwrite, and a run of
 * the other job is going on), E_ARG (attempt, job_json), E_IO, E_NOMEM. */
enum status ledger_open(struct ledger **out, const struct ledger_config *c,
                        struct err *e) WARN_UNUSED;
void ledger_close(struct ledger *l);
const char *ledger_dir(const struct ledger *l);
/* The job.json in `dir`. Errors: E_NOINPUT when there is no job yet, E_FORMAT, E_IO, E_NOMEM. */
enum status ledger_read_job(struct json **out, const char *dir, struct err *e) WARN_UNUSED;
/* Whether a run of the job `job_json` would be taken in by `dir`: OK when no job is there yet, or this
 * one. Errors: as ledger_open. */
enum status ledger_match_job(const char *dir, const char *job_json, int n_part,
                             struct err *e) WARN_UNUSED;
/* Writes OUT/run/ATTEMPT.json, replacing what was there. Errors: E_OUTPUT, E_IO, E_NOMEM. */
enum status ledger_write_run(struct ledger *l, const char *json, struct err *e) WARN_UNUSED;

/* File names inside OUT, written to `name`. */
enum { LEDGER_NAME = 64 };
void ledger_name(char name[LEDGER_NAME], enum ledger_stream s, int part, int n_part);

/* Whether its results are there, and its tokens if this job has them. */
bool ledger_is_published(const struct ledger *l, int part);
/* Whether this run has nothing to do on `part`: it is published, and without errors if those are to
 * be done anew. */
bool ledger_is_settled(const struct ledger *l, int part);
/* Counts of a published part (from done/, or from the files when that record is missing).
 * Errors: E_NOINPUT (not published), E_FORMAT, E_IO, E_NOMEM. */
struct ledger_counts {
    int64_t documents, failed, rows, tokens;
};
enum status ledger_part_counts(struct ledger *l, int part, struct ledger_counts *out,
                               struct err *e) WARN_UNUSED;

/* Writes _SUCCESS once every part is published; *all says whether. One that says the same already
 * is left alone. total: of the published parts. Errors: as ledger_part_counts, E_OUTPUT. */
enum status ledger_finish(struct ledger *l, bool *all, struct ledger_counts *total,
                          struct err *e) WARN_UNUSED;

/* ---- one part, held by this run ---- */

struct ledger_part; /* opaque */

/* Where a part stands: what a commit records. All zero: at its beginning. */
struct ledger_mark {
    int64_t documents; /* finished, failed ones included */
    int64_t failed;
    int64_t rows;
    int64_t tokens; /* scored rows' ids, all settings */
    int slice;      /* the next document begins in this slice of the part, counted from 0, ... */
    int64_t offset; /* ... at this byte: the first to do, or the one `state` is the middle of */
};

/* Takes the part's lock (unless `ignore_lock`), opens this run's own directory for it and loads the
 * furthest state of all earlier attempts. On OK one of three holds: *out is the part; *out is NULL
 * and *held: another live run has it; *out is NULL and not *held: it is settled by now.
 *   no_locks written: the file system has none
 *   mark     written: where to go on
 *   state    written: bytes of the mid-document checkpoint, or empty
 * A published part that is done anew because of its errors begins at zero; its files stay until
 * they are replaced. Errors: E_OUTPUT (also: job.json is no longer the one this run opened), E_IO,
 * E_NOMEM. */
enum status ledger_part_open(struct ledger_part **out, struct ledger *l, int part, bool ignore_lock,
                             bool *held, bool *no_locks, struct ledger_mark *mark,
                             struct sbuf *state, struct err *e) WARN_UNUSED;
/* Releases the lock; keeps what was committed. */
void ledger_part_close(struct ledger_part *p);

/* Appends whole lines of finished documents. Buffered; large buffers go to the segment at once.
 * Errors: E_IO, E_NOMEM, E_BUG (token lines while a document is in progress). */
enum status ledger_add(struct ledger_part *p, enum ledger_stream s, const char *lines, size_t n,
                       struct err *e) WARN_UNUSED;
/* Token lines of the document in progress. They are in the file about a second later, for readers that
 * do not wait for commits. */
enum status ledger_add_open(struct ledger_part *p, const char *lines, size_t n,
                            struct err *e) WARN_UNUSED;
/* The document in progress is finished: its token lines count as finished. */
void ledger_close_document(struct ledger_part *p);
/* The document in progress failed or is begun anew: its token lines vanish. A commit that counted
 * them stands for the beginning of that document from now on. Errors: E_IO. */
enum status ledger_drop_document(struct ledger_part *p, struct err *e) WARN_UNUSED;

/* Puts bytes aside until they are wanted; *at is where they are. They survive a kill with the next
 * commit that has a state. Errors: E_IO, E_NOMEM. */
enum status ledger_spool(struct ledger_part *p, const char *bytes, size_t n, int64_t *at,
                         struct err *e) WARN_UNUSED;
/* Appends to `out` the n bytes that were put at `at`. Errors: E_IO (also: not there), E_NOMEM. */
enum status ledger_unspool(struct ledger_part *p, int64_t at, size_t n, struct sbuf *out,
                           struct err *e) WARN_UNUSED;

/* Bytes of finished lines that a kill would lose now. */
int64_t ledger_uncommitted(const struct ledger_part *p);

/* Bytes of a mid-document checkpoint in pieces, where it is too large to lie in memory: the next commit
 * takes them, with n_state LEDGER_STATE_PUT. They are synced as they come, so that the commit has not
 * got all of them to wait for. bytes NULL: the pieces so far are not wanted. Errors: E_IO, E_NOMEM; the
 * pieces so far are gone then. */
#define LEDGER_STATE_PUT SIZE_MAX
enum status ledger_put_state(struct ledger_part *p, const char *bytes, size_t n,
                             struct err *e) WARN_UNUSED;

/* Makes everything added so far survive a kill. state: bytes of a mid-document checkpoint, n_state
 * 0: none, then lines of the document in progress do not count. Errors: E_IO, E_NOMEM; the commit
 * before stands then. */
enum status ledger_commit(struct ledger_part *p, const struct ledger_mark *m, const char *state,
                          size_t n_state, struct err *e) WARN_UNUSED;

/* Commits, writes the published files and removes work in progress that no live attempt holds.
 * Only ledger_part_close() may follow success. A part that another attempt has published meanwhile
 * is left as it is. Errors: E_OUTPUT, E_IO, E_NOMEM, E_FORMAT (a segment is not what was written);
 * what was committed is kept. */
enum status ledger_publish(struct ledger_part *p, const struct ledger_mark *m,
                           struct err *e) WARN_UNUSED;

/* How far work in progress of `part` has come (the furthest attempt), for status and plan. False:
 * none. */
bool ledger_peek(const char *dir, int part, struct ledger_mark *mark);

#endif
