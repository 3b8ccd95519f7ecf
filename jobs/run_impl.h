/* What a run is made of, with an output directory (run.c) or without (run_direct.c). Private to jobs/. */
#ifndef BASIN_JOBS_RUN_IMPL_H
#define BASIN_JOBS_RUN_IMPL_H

#include "jobs/run.h"
#include "jobs/work.h"

struct run_part;
struct run {
    struct session session;
    struct ledger *ledger; /* owned; NULL when rows go to a sink */
    struct work work;
    const struct run_options *o;
    int *rank_of_part; /* owned [n_part] */
    char attempt[64];
    int64_t started_ns, started_unix_ns;
    int64_t deadline_ns;             /* monotonic; 0: none */
    int64_t bytes_done, bytes_total; /* of finished parts; of all parts of this rank, -1: unknown */
    int64_t bytes_begun;             /* of finished parts: what earlier attempts had done */
    int parts_done, parts;
    struct sbuf records;    /* finished parts of this run, as JSON objects with commas */
    struct part_job *jobs;  /* the only part of a run without a directory, or NULL; else ... */
    struct run_part *begun; /* owned: ... parts in progress, the oldest first */
    bool stale;             /* a commit was made that the record does not show */
    struct err record;      /* what was wrong when it was written */
    int at, n_held;         /* the next part to look at; how many another run has */
    bool others;            /* ... of other ranks: --steal */
    bool no_locks;
    struct err first; /* the first part whose input is missing */
};

/* A part that this run holds. Its job comes first: they are one. */
struct run_part {
    struct part_job job;
    struct run *run;            /* borrowed */
    struct ledger_part *ledger; /* owned */
    int number;
    struct ledger_mark begun; /* where it stood when this run took it */
    struct run_part *next;
};

/* True when a signal came, or when another span might not end before the time limit. */
bool run_must_stop(void *run);
void run_set_deadline(struct run *r);
void run_say(void *run, enum run_note kind, const char *text);
/* Writes what has happened into OUT/run/, where there is one; an error is kept in r->record. */
void run_record(struct run *r, bool ended);
/* Opens the work over a session that has been started. */
enum status run_open_work(struct run *r, struct err *e) WARN_UNUSED;
void run_close(struct run *r);

#endif
