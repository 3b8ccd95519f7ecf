/* The work of a job, whichever kind it is: a scorer or a generator behind one face. Private to jobs/. */
#ifndef BASIN_JOBS_WORK_H
#define BASIN_JOBS_WORK_H

#include "jobs/gen.h"
#include "jobs/score.h"
#include "jobs/session.h"

struct work { /* zeroed is none; one of the two once it is open */
    struct scorer *scorer;
    struct generator *generator;
};

/* s: started, and outlives it. hooks: its stop, note, progress and ctx are taken. */
enum status work_open(struct work *w, const struct session *s, const struct part_config *hooks,
                      struct err *e) WARN_UNUSED;
void work_close(struct work *w);
const struct part_totals *work_totals(const struct work *w);
/* As score_part(). */
enum status work_part(struct work *w, const struct plan *plan, int part, const struct part_out *out,
                      struct ledger_mark *mark, struct sbuf *state, struct err *e) WARN_UNUSED;

#endif
