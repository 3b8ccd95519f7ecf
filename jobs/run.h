/* Running a job: from a manifest to published parts, or straight to a sink (basin score). */
#ifndef BASIN_JOBS_RUN_H
#define BASIN_JOBS_RUN_H

#include "base/cpu.h"
#include "base/sbuf.h"
#include "io/manifest.h"
#include "jobs/rank.h"

struct run_progress {
    int64_t documents, failed; /* done by this run */
    int64_t tokens;            /* ids scored by this run, all settings */
    int64_t bytes_done,
        bytes_total;    /* of the parts this run will take; bytes_total -1 when unknown */
    double seconds;     /* since compute began */
    double sum_logprob; /* running, of this run */
    int64_t num_scored;
    int parts_done, parts; /* of this rank */
    const char *source;    /* document in progress; NULL between documents */
};

enum run_note { RUN_INFO, RUN_WARNING };

/* How a run talks. Any callback may be NULL. All are called on the thread that called run_job. */
struct run_hooks {
    void *ctx;
    bool (*stop)(void *ctx); /* true: save and give up (signal) */
    void (*note)(void *ctx, enum run_note kind, const char *text);
    void (*progress)(void *ctx, const struct run_progress *p); /* after every span */
    void (*event)(void *ctx,
                  const char *json); /* newline-free JSON object: part_begin, part_end, ... */
};

struct run_options {
    const char *devices; /* "auto", or a list of "cpu", "ref" (tests), "cuda" (all), "cuda:0,1" */
    enum cpu_isa isa;
    int n_thread;
    struct rank rank;
    bool steal, overwrite, retry_failed;
    double time_limit_s; /* 0: none */
    int64_t end_unix_s;  /* SLURM_JOB_END_TIME; 0: none */
    bool ignore_locks;   /* tests: as on a file system without locks */
    double checkpoint_s; /* 0: the default, 120 */
    double stop_save_s;  /* 0: the default, 4; see part.h */
    const char *tmp_dir; /* run_direct: where standard input is spooled; NULL: /tmp */
    struct run_hooks hooks;
};

enum run_end {
    RUN_DONE,    /* every part of this rank is published */
    RUN_STOPPED, /* stopped by signal or time limit; everything saved */
    RUN_HELD     /* what is left is held by another run */
};

struct run_result {
    enum run_end end;
    int64_t documents,
        failed; /* of all published parts of this rank, this run's or earlier ones', and stolen */
    int parts_missing_elsewhere; /* parts of other ranks that are not published yet */
    bool success;                /* _SUCCESS is there */
};

/* Runs a score job into man->output. Errors come back as statuses that cmd/ maps to exit codes. */
enum status run_job(const struct manifest *man, const struct run_options *o, struct run_result *out,
                    struct err *e) WARN_UNUSED;

/* Receives rows as lines (with '\n') of one kind: 'r' results, 't' tokens, 'e' errors. */
struct run_sink {
    void *ctx;
    enum status (*line)(void *ctx, char kind, const char *line, size_t n, struct err *e);
};
/* The same without an output directory: rows go to `sink` in order. Used by `basin score`. */
enum status run_direct(const struct manifest *man, const struct run_options *o,
                       const struct run_sink *sink, struct run_result *out,
                       struct err *e) WARN_UNUSED;

/* What a run takes on one of its devices. */
enum { RUN_DEVICES = 32 };
struct run_device {
    char name[32], device[96];
    int64_t span_rows;
    int64_t memory_bytes; /* the three below together */
    int64_t weights_bytes, cache_bytes, span_bytes;
    int64_t free_bytes, total_bytes; /* now; total 0: not known */
};

/* What `basin plan` says. */
struct run_estimate {
    int n_part, n_mine, n_published;
    int64_t bytes, bytes_mine, bytes_left;
    int64_t tokens; /* estimated over bytes_left and all settings, from a sample of the text */
    double bytes_per_token;
    int64_t memory_bytes; /* peak resident memory of `basin run`; that of GPUs not included */
    int64_t weights_bytes, cache_bytes, span_bytes;
    double seconds; /* estimated from a measured probe of this machine */
    /* of a generate job, else 0 */
    int streams;          /* answers written at once: as the manifest says, or as memory lets */
    int64_t documents;    /* estimated, left to do */
    int64_t tokens_most;  /* written, when every answer is as long as it may be; all settings */
    int64_t stream_bytes; /* of streams; their caches are in it */
    int64_t span_rows;
    struct run_device devices[RUN_DEVICES];
    int n_device;
    char device[96], dtype[8]; /* device: the first */
};
enum status run_plan(const struct manifest *man, const struct run_options *o,
                     struct run_estimate *est, struct sbuf *parts_table, struct err *e) WARN_UNUSED;

#endif
