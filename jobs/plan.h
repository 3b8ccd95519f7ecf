/* The plan: which documents make which part, and which rank takes which part.
 *
 * A part is a run of consecutive documents, fixed by the manifest and the inputs' sizes alone; no content is
 * read (DESIGN section 6). Every rank computes the same plan and the same deal. */
#ifndef BASIN_JOBS_PLAN_H
#define BASIN_JOBS_PLAN_H

#include "base/sbuf.h"
#include "io/corpus.h"
#include "io/manifest.h"

/* A file, or the lines of a JSONL file whose first bytes lie in [begin, end). */
struct plan_slice {
    struct corpus_file file; /* strings borrowed from the plan and the manifest */
    int64_t bytes;           /* size of the whole file when the plan was made; -1 for stdin */
};

struct plan_part {
    int first_slice, n_slice;
    int64_t bytes;
};

struct plan_file; /* private */
struct plan {
    struct plan_slice *slices; /* owned */
    int n_slice;
    struct plan_part *parts; /* owned */
    int n_part;
    int64_t bytes;
    struct plan_file *files; /* owned */
    int n_file;
    char *dir; /* owned: what relative inputs are relative to */
};

/* Errors: E_NOINPUT (missing, unreadable, nothing matches), E_ARG (one file matched by two inputs),
 * E_UNSUPPORTED (a suffix that is not read), E_NOMEM. `man` must outlive the plan. */
enum status plan_make(struct plan **out, const struct manifest *man, struct err *e) WARN_UNUSED;
void plan_free(struct plan *p);

/* rank_of_part[n_part]: parts by size, largest first, each to the rank with the least so far. */
enum status plan_deal(const struct plan *p, int n_rank, int *rank_of_part, struct err *e) WARN_UNUSED;

/* [{"part":0,"bytes":..,"slices":[{"source":..,"begin":..,"end":..},..]},..]: the table in job.json. */
void plan_print(const struct plan *p, struct sbuf *out);

#endif
