/* Scoring documents on one device: reading, packing into spans, accounting, rows. Which documents, and where
 * their rows go, is the deal's. Private to jobs/. */
#ifndef BASIN_JOBS_SCORE_H
#define BASIN_JOBS_SCORE_H

#include "jobs/deal.h"

struct scorer; /* opaque */

/* Spans have c->n_row rows, or fewer where the device has no room for them. */
enum status score_open(struct scorer **out, const struct part_config *c, struct deal *d, int worker,
                       struct err *e) WARN_UNUSED;
void score_close(struct scorer *s);

/* Scores what the deal has until nothing is left or it says to stop; what is in hand is returned then, and
 * on failure. Errors: E_DEVICE, E_NOMEM: the device is of no use any more; others are the job's. */
enum status score_work(struct scorer *s, struct err *e) WARN_UNUSED;
int64_t score_rows(const struct scorer *s); /* of a span, by now */

#endif
