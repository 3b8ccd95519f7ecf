/* The work of a job, whichever kind it is: scorers, one on each device, or a generator, behind one face.
 * Private to jobs/. */
#ifndef BASIN_JOBS_WORK_H
#define BASIN_JOBS_WORK_H

#include "jobs/gen.h"
#include "jobs/score.h"
#include "jobs/session.h"

struct work {                      /* zeroed is none */
    const struct session *session; /* borrowed */
    struct part_config hooks;
    struct deal *deal;           /* owned: of a score job */
    struct generator *generator; /* owned: of a generate job */
    struct part_job *job;        /* borrowed: the part that the generator is at */
    struct deal_worker only;     /* what it has done */
    struct part_totals before;   /* of the generator, when that part began */
};

/* s: started, and outlives it. hooks: its stop, note, progress and ctx are taken; all are called on the
 * thread that calls work_run. */
enum status work_open(struct work *w, const struct session *s, const struct part_config *hooks,
                      struct err *e) WARN_UNUSED;
void work_close(struct work *w);

/* Does all parts of the source. Errors: of the source; E_CANCEL when asked to stop, everything finished is
 * committed then; E_DEVICE when no device is left, likewise; others leave what was committed. */
enum status work_run(struct work *w, const struct part_source *src, struct err *e) WARN_UNUSED;

/* From hooks and from the source, and where nothing runs: what has been done, and by which device. */
const struct part_totals *work_totals(const struct work *w);
int work_devices(const struct work *w, const struct deal_worker **list);

#endif
