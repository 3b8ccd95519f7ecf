/* What the files of the ledger share, and the formats of work in progress. Private to jobs/.
 *
 * A line of `commits`: the JSON object below without spaces, one space, XXH64 of the object's bytes
 * in 16 hex digits, a newline. A line that does not end in its checksum is passed over.
 *
 *   {"documents":3,"failed":0,"rows":6,"tokens":900,"slice":0,"offset":123,   struct ledger_mark
 *    "time":17..,             wall clock, ns: the later of two equal attempts
 *    "retry_of":"",           XXH128 of the errors file that this attempt is to do away with
 *    "results":[400,900,"XXH128"],   bytes of the segment, bytes and XXH128 of the lines in them
 *    "token_rows":[..],"errors":[..],
 *    "open":[..],"state":{"slot":1,"xxh128":".."},"spool":123}    only in the middle of a document:
 *                             the length of `tokens` with that document's lines, the state file, and
 *                             the bytes of `spool` (0 where not said), whose content the state's
 *                             owner can check
 *
 * A state file, integers little-endian:
 *    0  magic "BASINCKP"
 *    8  version, 4 bytes: 1
 *   12  zero, 4 bytes
 *   16  length of the payload, 8 bytes
 *   24  XXH128 of the payload, 32 hex digits
 *   56  payload, to the end of the file
 *
 * OUT/.basin/done/00017.json:
 *   {"part":17,"documents":..,"failed":..,"rows":..,"tokens":..,
 *    "files":{"results":{"bytes":..,"xxh128":"..","content_bytes":..,"lines":..},..}}
 *   bytes and xxh128 are those of the published file; content_bytes and lines those of its rows. */
#ifndef BASIN_JOBS_LEDGER_IMPL_H
#define BASIN_JOBS_LEDGER_IMPL_H

#include "base/hash.h"
#include "io/file.h"
#include "jobs/ledger.h"

/* Tells one version of a file from another: every version of ours is a new file. */
struct ledger_stamp {
    bool there;
    uint64_t dev, ino;
    int64_t bytes, mtime_ns;
};
struct ledger_stamp ledger_stamp_of(const char *path);
bool ledger_same_stamp(const struct ledger_stamp *a, const struct ledger_stamp *b);

struct ledger {
    char *dir;     /* owned */
    char *attempt; /* owned */
    int n_part;
    bool tokens, retry_failed;
    struct ledger_stamp job;     /* job.json as this run has read it */
    struct ledger_stamp *errors; /* owned [n_part] or NULL: errors files when a retry was opened */
};

/* How much of a segment counts. */
struct ledger_length {
    int64_t file_bytes, content_bytes;
    char hash[HASH_TEXT]; /* XXH128 of the content */
};

/* A commit. */
struct ledger_point {
    struct ledger_mark mark;
    int64_t time_ns;
    char retry_of[HASH_TEXT]; /* "" for an attempt at a part that was not published */
    struct ledger_length done[LEDGER_STREAMS];
    int slot;                  /* of the state file; -1: none, and the two below have no meaning */
    struct ledger_length open; /* of LEDGER_TOKENS, the document in progress included */
    char state_hash[HASH_TEXT];
    int64_t spool_bytes;
};

extern const char *const ledger_stream_names[LEDGER_STREAMS]; /* "results", "tokens", "errors" */
extern const char *const ledger_state_names[2];               /* by slot */

/* DIR/name of a published file, of a lock, of a done/ record, of a part's or an attempt's work. */
void ledger_put_published(struct sbuf *path, const char *dir, enum ledger_stream s, int part,
                          int n_part);
void ledger_put_lock(struct sbuf *path, const char *dir, int part);
void ledger_put_done(struct sbuf *path, const char *dir, int part);
void ledger_put_work(struct sbuf *path, const char *dir, int part, const char *attempt,
                     const char *file); /* attempt and file may be NULL */

bool ledger_has_results(const char *dir, int part, int n_part); /* done, as readers see it */

/* ---- commits and states (ledger_commit.c) ---- */

void ledger_print_point(const struct ledger_point *p, struct sbuf *line);

/* A state file while it is written; zeroed is none. After an error it is closed. */
struct ledger_state {
    bool open;
    int fd;
    size_t n;          /* bytes of the payload so far */
    size_t n_unsynced; /* of them */
    struct hash *hash; /* owned: of them */
};
enum status ledger_state_open(struct ledger_state *s, const char *path, struct err *e) WARN_UNUSED;
enum status ledger_state_add(struct ledger_state *s, const char *path, const char *bytes, size_t n,
                             struct err *e) WARN_UNUSED;
/* Synced and closed. */
enum status ledger_state_end(struct ledger_state *s, const char *path, char hash[HASH_TEXT],
                             struct err *e) WARN_UNUSED;
void ledger_state_close(struct ledger_state *s);
/* Errors: E_NOINPUT, E_FORMAT, E_IO, E_NOMEM. */
enum status ledger_read_state(const char *path, const char *hash, struct sbuf *out,
                              struct err *e) WARN_UNUSED;

/* Points that may be resumed from, furthest first: most documents, then those with a state, then
 * the latest. A point in the middle of a document comes twice, with slot -1 as its second chance.
 */
struct ledger_candidate {
    char *attempt; /* owned */
    struct ledger_point point;
    bool damaged; /* a segment is not valid as far as this point counts it */
};
struct ledger_candidates {
    struct ledger_candidate *v; /* owned */
    size_t n, cap;
};
void ledger_candidates_fini(struct ledger_candidates *c);
/* Points whose lengths their segments really have; contents are not read. retry_of: NULL, or only
 * attempts at that. Nothing there is no error. Errors: E_NOMEM. */
enum status ledger_find_candidates(struct ledger_candidates *out, const char *dir, int part,
                                   const char *retry_of, struct err *e) WARN_UNUSED;

/* Reads a segment's first `length` and checks it against its hash; *h, when not NULL, is left as
 * the hash of that content. whole: the file must end there. Errors: E_FORMAT, E_NOINPUT, E_IO,
 * E_NOMEM. */
enum status ledger_check_segment(const char *path, const struct ledger_length *length, bool whole,
                                 struct hash *h, struct err *e) WARN_UNUSED;

/* ---- published parts (ledger_done.c) ---- */

/* A published file, as done/ records it. */
struct ledger_file {
    bool there;
    int64_t bytes, content_bytes, lines;
    char hash[HASH_TEXT];
};
struct ledger_done {
    struct ledger_counts counts;
    struct ledger_file files[LEDGER_STREAMS];
};
void ledger_print_done(const struct ledger_done *d, int part, struct sbuf *out);
/* E_NOINPUT: there is none. E_FORMAT: not a record of this part. */
enum status ledger_read_done(struct ledger_done *d, const char *dir, int part,
                             struct err *e) WARN_UNUSED;
/* ledger_part_counts() by directory. */
enum status ledger_counts_of(const char *dir, int part, int n_part, struct ledger_counts *out,
                             struct err *e) WARN_UNUSED;
/* Counts rows themselves, whatever done/ says. */
enum status ledger_count_rows(const char *dir, int part, int n_part, struct ledger_counts *out,
                              struct err *e) WARN_UNUSED;
/* XXH128 and length of a file's bytes. Errors: E_NOINPUT, E_IO, E_NOMEM. */
enum status ledger_hash_file(const char *path, char hash[HASH_TEXT], int64_t *bytes,
                             struct err *e) WARN_UNUSED;

/* ---- a part being written (ledger_part.c, ledger_publish.c) ---- */

struct ledger_segment {
    struct file_append *file;  /* owned */
    struct sbuf buf;           /* lines not in the file yet ... */
    size_t n_done;             /* ... of which so many bytes belong to finished documents */
    int64_t content_bytes;     /* of the file */
    struct hash *hash;         /* owned: of that content */
    struct ledger_length done; /* the file's part that belongs to finished documents */
    int64_t committed_bytes;   /* of content: counted by the last commit */
    bool unsynced;
    int64_t flushed_ns; /* when open lines last went to the file */
};

struct ledger_part {
    struct ledger *l; /* borrowed */
    int part;
    struct file_lock *lock, *alive; /* owned; NULL where locks are ignored or missing */
    char *attempt;                  /* owned: name of the own directory; NULL before it is made */
    char retry_of[HASH_TEXT];
    struct ledger_segment segs[LEDGER_STREAMS];
    struct file_append *commits; /* owned */
    struct file_append *spool;   /* owned; NULL until something is put there */
    bool spool_unsynced;
    struct ledger_state state; /* of the next commit, when it comes in pieces */
    bool committed;            /* `commits` may hold something */
    int next_slot;             /* for the next state: never the one that the last commit names */
    bool broken;               /* a sync failed: what the disk holds is not known any more */
    bool published;            /* the own directory is of no more use */
    struct sbuf path;          /* scratch */
};

/* Path of a file in the own directory, borrowed until the next call. */
const char *ledger_own_path(struct ledger_part *p, const char *file);
/* Removes directories of attempts at this part that are certainly dead. */
void ledger_remove_dead(struct ledger_part *p);
/* Loads the furthest earlier attempt into the own directory, whose segments are not open yet.
 * *found false: begin at zero. state: appended. Errors: E_OUTPUT, E_IO, E_NOMEM. */
enum status ledger_load_furthest(struct ledger_part *p, const char *retry_of, bool *found,
                                 struct ledger_mark *mark, struct sbuf *state,
                                 struct err *e) WARN_UNUSED;
/* E_OUTPUT unless job.json is still the one this run opened. */
enum status ledger_check_job(const struct ledger *l, struct err *e) WARN_UNUSED;

#endif
