/* What the deal is made of. Private to jobs/deal*.c; functions want the lock to be held. */
#ifndef BASIN_JOBS_DEAL_IMPL_H
#define BASIN_JOBS_DEAL_IMPL_H

#include "jobs/deal.h"

#include <pthread.h>
#include <stdatomic.h>

struct deal_part {
    struct part_job *job; /* borrowed from the source */
    int64_t serial;
    struct ledger_mark begin;
    struct deal_doc **docs; /* owned [n_doc]: docs[i] is document job->mark.documents + i */
    size_t n_doc, cap_doc, n_free;
    int64_t end; /* documents in the part; -1: not known yet */
    struct part_clock clock;
    bool kept; /* the last commit holds more than the first document's middle */
    bool broken;
    struct err why;
};

struct deal {
    pthread_mutex_t mu;
    pthread_cond_t moved; /* for workers: there may be something to do */
    pthread_cond_t told;  /* for the one who leads */
    atomic_bool stop;
    struct deal_config cfg;
    struct part_config due;   /* its commit_s and checkpoint_s */
    struct deal_part **parts; /* owned [n_part] */
    size_t n_part, cap_part;
    int64_t serial;
    bool want_part, sealed; /* a worker asks for one; there are no more */
    size_t held_bytes;      /* of rows that wait */
    struct err failed;      /* what ends the job */
    bool none_left;         /* ... is that every device has been set aside */
    struct part_totals totals;
    struct deal_worker workers[DEAL_WORKERS_MOST];
    int n_worker, n_alive;
    struct sbuf notes; /* a kind, text and a zero each */
    bool news;         /* for progress */
    const char *source;
};

bool deal_is_first(const struct deal_doc *t);
bool deal_is_through(const struct deal_part *p);
struct deal_doc *deal_new_doc(struct deal *d, struct deal_part *p, struct err *e);
void deal_free_doc(struct deal_doc *t);
/* What can leave leaves. */
enum status deal_advance(struct deal *d, struct deal_part *p, struct err *e) WARN_UNUSED;
/* Lines in memory are put aside. */
enum status deal_put_aside(struct deal *d, struct deal_doc *t, struct err *e) WARN_UNUSED;
enum status deal_begin_anew(struct deal *d, struct deal_doc *t, struct err *e) WARN_UNUSED;

/* ---- commits and states (deal_state.c) */

/* h NULL: no worker runs. Nothing is done where the place of the next document is not known yet. */
enum status deal_commit(struct deal_part *p, const struct deal_hand *h, bool with_state,
                        struct err *e) WARN_UNUSED;
enum status deal_commit_if_due(struct deal *d, struct deal_part *p, const struct deal_hand *h,
                               struct err *e) WARN_UNUSED;
/* Takes up job->state. Errors: E_FORMAT: it is of no use, and nothing of it was taken. */
enum status deal_load(struct deal *d, struct deal_part *p, struct err *e) WARN_UNUSED;

#endif
