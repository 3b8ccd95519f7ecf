/* Scoring the documents of one part: reading, packing into spans, accounting, rows. Private to
 * jobs/.
 *
 * The scorer decides when to commit and can go on from a mark and a saved state. */
#ifndef BASIN_JOBS_SCORE_H
#define BASIN_JOBS_SCORE_H

#include "jobs/part.h"

struct scorer; /* opaque */

enum status score_open(struct scorer **out, const struct part_config *c, struct err *e) WARN_UNUSED;
void score_close(struct scorer *s);
const struct part_totals *score_totals(const struct scorer *s);

/* Scores the documents of `part` from *mark on, and its middle if `state` holds one (NULL: none; emptied
 * once it has been read). *mark moves
 * along with every commit and is final on success. E_CANCEL: stopped on request, everything
 * finished is committed, and so is the middle of a document. Other failures leave what was
 * committed. */
enum status score_part(struct scorer *s, const struct plan *plan, const struct plan_part *part,
                       const struct part_out *out, struct ledger_mark *mark, struct sbuf *state,
                       struct err *e) WARN_UNUSED;

#endif
