/* A job without a model: documents whose rows are made up, driven through the ledger the way a run
 * does it, with stops where a test wants them. */
#ifndef BASIN_TESTS_SUPPORT_JOB_H
#define BASIN_TESTS_SUPPORT_JOB_H

#include "jobs/ledger.h"

enum { JOB_PARTS = 2, JOB_DOCUMENTS = 8 }; /* per part; 2 and 5 fail, 3 and 5 are long */

struct job {
    const char *dir, *attempt;
    int commit_every;    /* documents; 0: never before the end */
    int state_every;     /* token lines of one document; 0: never */
    int stop_at;         /* token line, counted over the run, before which it ends; 0: never */
    const char *copy_to; /* where OUT is copied when it stops: what a kill would leave */
    bool ignore_lock, retry_failed, heal; /* heal: no document fails */
    int line_bytes;                       /* of filler; 0: 150 */
    int documents;                        /* written: how many this run has done */
};

extern const char job_json[];

/* E_CANCEL: it has stopped. E_BUSY: a part was held. */
enum status job_run(struct job *j, struct err *e) WARN_UNUSED;

/* Fails the test unless the published files of both are the same bytes. */
void job_assert_same(const char *dir, const char *want);

#endif
