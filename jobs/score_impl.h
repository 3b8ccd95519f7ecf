/* The scorer's own types. Private to jobs/score*.c. */
#ifndef BASIN_JOBS_SCORE_IMPL_H
#define BASIN_JOBS_SCORE_IMPL_H

#include "jobs/score.h"

/* Documents in flight x settings: bounds memory when documents are tiny or bad. Spans of fewer rows are not
 * tried where memory is short. */
enum { SCORE_TRACKS_MOST = 4096, SCORE_ROWS_LEAST = 16 };

/* Rows of one document in the span: n rows a setting, setting by setting from `row` on. */
struct score_piece {
    struct doc *doc; /* borrowed from docs */
    int64_t row, n;
    int32_t first_id; /* the id of the piece's first row */
};

struct scorer {
    struct part_config cfg;
    struct vis_rule *rules; /* owned [n_setting] */
    int n_setting;
    bool exact;        /* the oracle computes in double: nothing is rounded to float32 */
    struct span *span; /* owned */
    struct doc_reader reader;
    struct sbuf line;        /* scratch */
    struct deal *deal;       /* borrowed */
    int worker;              /* its number there */
    int64_t n_row;           /* of a span */
    struct deal_count count; /* of the piece being accounted */

    struct part_feed feed;
    int64_t serial, next; /* whose documents it reads, and which comes next */

    struct doc **docs; /* owned [n_doc]: opened and not yet finished, as they were claimed */
    int n_doc;
    size_t cap_doc;
    struct score_piece *pieces; /* owned [n_piece] */
    int n_piece;
    size_t cap_piece;

    bool warned_length;
};

/* Checkpoints of a document's middle (jobs/score_state.c). Restoring checks that they are of this
 * model, tokenizer limits, setting list and device kind; E_FORMAT with what differs, the document
 * unchanged. */
enum status score_save(struct scorer *s, const struct doc *d, struct sbuf *out,
                       struct err *e) WARN_UNUSED;
enum status score_restore(struct scorer *s, struct doc *d, const struct sbuf *state,
                          struct err *e) WARN_UNUSED;

#endif
