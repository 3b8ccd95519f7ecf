/* A document on its way through the model: text or ids in, a queue of token ids out, and what its
 * rows will say. Private to jobs/. */
#ifndef BASIN_JOBS_DOC_H
#define BASIN_JOBS_DOC_H

#include "base/hash.h"
#include "base/num.h"
#include "base/sbuf.h"
#include "base/utf8.h"
#include "core/cache.h"
#include "core/tok.h"
#include "io/corpus.h"
#include "io/manifest.h"

enum { DOC_BLOCK = 4096 }; /* token rows are cut at multiples of this */

/* A document under one setting. */
struct doc_track {
    struct cache *cache; /* owned; NULL once the document is through */
    struct num_sum sum;  /* of log-probabilities, natural log */
    int64_t n_scored;
    double *logp; /* owned [DOC_BLOCK]: of the block in progress; the first token's is NaN */
};

struct doc {
    char *id;           /* owned */
    const char *source; /* borrowed from the plan */
    int64_t offset;
    int slice;
    bool is_ids;

    /* what has been read */
    bool ended;     /* no more ids will be queued */
    bool truncated; /* cut by limit_tokens */
    bool bos;       /* the first id is a BOS that was added */
    int64_t n_tok;  /* ids queued so far, BOS included */
    struct utf8_counts counts;
    char text_hash[HASH_TEXT]; /* when ended; "" for ids */

    /* what has been scored */
    int64_t n_fed;      /* positions given to spans */
    int64_t n_done;     /* positions whose results are in: equals the caches' position */
    int64_t n_entries;  /* tokens that have their entry in a token row, in blocks of DOC_BLOCK */
    int32_t only_id;    /* of a document of one token, which no row ever carries */
    int32_t *block_ids; /* owned [DOC_BLOCK]; it and logp NULL until doc_open_block() */
    struct doc_track *tracks; /* owned [n_setting] */
    int n_setting;
    struct err failure;    /* code OK while the document is well */
    struct deal_doc *turn; /* borrowed: its place among what several devices score; else NULL */
};

enum status doc_new(struct doc **out, const struct corpus_doc *from, int slice, int n_setting,
                    struct err *e) WARN_UNUSED;
void doc_free(struct doc *d);
/* Memory for the block in progress, if d has none yet: thousands of documents may wait for their
 * results, under up to 64 settings, while one at a time receives them. */
enum status doc_open_block(struct doc *d, struct err *e) WARN_UNUSED;

/* Reads one document at a time: text through the tokenizer, or ids. */
struct doc_reader {
    const struct tok *tok;      /* borrowed; NULL when there is no text */
    struct tok_stream *stream;  /* owned */
    struct hash *hash;          /* owned */
    const struct manifest *man; /* borrowed */
    bool add_bos;
    struct corpus *corpus; /* borrowed: where `doc`'s bytes come from ... */
    const char *given;     /* ... or, where that is NULL, n_given bytes of text; borrowed */
    size_t n_given, given_pos;
    struct doc *doc; /* borrowed: the document being read; NULL when none */
    int32_t *queue;  /* owned: ids from position queue_pos on */
    size_t n_queue, cap_queue;
    int64_t *ends; /* owned: scratch of tok_take */
    char *text;    /* owned: text read and not yet covered by accepted tokens */
    size_t n_text, cap_text;
    int64_t text_pos; /* offset in the document's text of text[0] */
    bool text_ended;  /* the tokenizer has been told */
};

enum status doc_reader_init(struct doc_reader *r, const struct tok *tok, const struct manifest *man,
                            bool add_bos, struct err *e) WARN_UNUSED;
void doc_reader_fini(struct doc_reader *r);

/* Begins with document d, which corpus_next() has just opened. */
enum status doc_reader_begin(struct doc_reader *r, struct corpus *c, struct doc *d,
                             struct err *e) WARN_UNUSED;
/* Begins with document d, whose text or ids are at hand; text is borrowed until d has ended. `bos`: a
 * BOS is put in front. */
enum status doc_reader_begin_text(struct doc_reader *r, struct doc *d, const char *text, size_t n,
                                  bool bos, struct err *e) WARN_UNUSED;
enum status doc_reader_begin_ids(struct doc_reader *r, struct doc *d, const int32_t *ids, size_t n,
                                 struct err *e) WARN_UNUSED;
/* Fills the queue up to `want` ids or to the document's end. What is wrong with the document itself
 * goes to d->failure (and ends it); the status is for everything else. */
enum status doc_reader_fill(struct doc_reader *r, size_t want, struct err *e) WARN_UNUSED;
/* Drops the first n ids of the queue. */
void doc_reader_advance(struct doc_reader *r, size_t n);

/* ---- rows (jobs/rows.c) ---- */

struct doc_labels { /* what every row of a run says alike */
    const char *dtype, *device;
};
void doc_print_result(const struct doc *d, const struct man_setting *s, const struct doc_track *t,
                      const struct doc_labels *l, struct sbuf *out);
/* The token row of the n entries from `first` on. */
void doc_print_tokens(const struct doc *d, const struct man_setting *s, const struct doc_track *t,
                      int64_t first, int64_t n, struct sbuf *out);
void doc_print_error(const struct doc *d, const struct man_setting *s, struct sbuf *out);

#endif
