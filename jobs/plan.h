/* The plan: which documents make which part, and which rank takes which part.
 *
 * A part is a run of consecutive documents, fixed by the manifest and the inputs' sizes alone; no
 * content is read. Files come in bytewise order of their source, whatever input they belong to:
 *
 *   .txt     whole; gathered into a part until the part has output.part_bytes or more
 *   .jsonl   cut every part_bytes, each piece a part of its own; ends a part of .txt files
 *   .gz .zst .lz4 of either: a part of its own, because its content has no size or middle that
 *            could be found without decompressing it; counted with its compressed size
 *   stdin    a part of its own, compressed or not (its first bytes say); as text, unless the
 *            manifest gives it a text_key or an ids_key
 *
 * An empty file is a slice of 0 bytes. Every rank computes the same plan and the same deal. */
#ifndef BASIN_JOBS_PLAN_H
#define BASIN_JOBS_PLAN_H

#include "base/sbuf.h"
#include "io/corpus.h"
#include "io/manifest.h"

/* A file, or the lines of a JSONL file whose first bytes lie in [begin, end). Of stdin and of
 * compressed files the end is -1: all of it. */
struct plan_slice {
    struct corpus_file file; /* strings borrowed from the plan and the manifest */
    int64_t bytes;           /* size of the whole file when the plan was made; -1 for stdin */
};

struct plan_part {
    int first_slice, n_slice;
    int64_t bytes; /* of its slices, compressed where they are; -1 for stdin */
};

enum { PLAN_MAX_PARTS = 1000000 };

struct plan_file; /* private */
struct plan {
    struct plan_slice *slices; /* owned */
    int n_slice;
    struct plan_part *parts; /* owned */
    int n_part;
    int64_t bytes;           /* of all parts whose size is known */
    struct plan_file *files; /* owned */
    int n_file;
    char *dir; /* owned: what relative inputs are relative to */
};

/* Slices of stdin have file.fd -1, file.size -1, bytes -1: the caller spools it (corpus_spool) and
 * fills in fd and size. Errors: E_NOINPUT (missing, unreadable, nothing matches), E_ARG (one file
 * matched by two inputs, an unknown suffix, more than PLAN_MAX_PARTS parts), E_UNSUPPORTED (a
 * suffix that is not read), E_NOMEM. `man` must outlive the plan. */
enum status plan_make(struct plan **out, const struct manifest *man, struct err *e) WARN_UNUSED;
void plan_free(struct plan *p);

/* Bytes of a slice as they lie in the file, compressed or not; 0 where they are not known. */
int64_t plan_slice_bytes(const struct plan_slice *s);

/* rank_of_part int [n_part] written: parts by size, largest first (equal ones in order), each to
 * the rank with the least so far (the lowest of equal ones). Errors: E_ARG (n_rank < 1), E_NOMEM.
 */
enum status plan_deal(const struct plan *p, int n_rank, int *rank_of_part,
                      struct err *e) WARN_UNUSED;

/* [{"part":0,"bytes":..,"slices":[{"source":..,"begin":..,"end":..},..]},..]: the table in
 * job.json. end is -1 for all of a compressed file or stdin. */
void plan_print(const struct plan *p, struct sbuf *out);

#endif
