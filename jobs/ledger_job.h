/* Whose directory it is: job.json. Private to jobs/. */
#ifndef BASIN_JOBS_LEDGER_JOB_H
#define BASIN_JOBS_LEDGER_JOB_H

#include "jobs/ledger_impl.h"

/* Errors: E_ARG (not an object with "identity" and a list "parts" of n_part), E_NOMEM. */
enum status ledger_parse_job(struct json **out, const char *text, int n_part,
                             struct err *e) WARN_UNUSED;

/* Makes `dir` hold the job `mine`, or finds that it does. stamp: of its job.json then. Errors: as
 * ledger_open. */
enum status ledger_settle_job(const char *dir, const struct json *mine, bool overwrite,
                              struct ledger_stamp *stamp, struct err *e) WARN_UNUSED;

#endif
