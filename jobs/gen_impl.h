/* The generator's own types. Private to jobs/gen*.c. */
#ifndef BASIN_JOBS_GEN_IMPL_H
#define BASIN_JOBS_GEN_IMPL_H

#include "jobs/gen.h"
#include "jobs/gen_prompt.h"
#include "jobs/gen_text.h"

enum {
    GEN_DOCS_MOST = 4096, /* opened and not yet emitted: bounds what waits behind a long answer */
    GEN_HELD_BYTES = 64 << 20, /* of lines and texts that wait: no new documents past that */
    GEN_SPOOL_BYTES = 1 << 16 /* token lines of one track that wait in memory; more are put aside */
};

enum gen_finish { GEN_UNFINISHED, GEN_STOP, GEN_LENGTH };
const char *gen_finish_name(enum gen_finish f);

/* Tokens whose log-probabilities are kept for a row: the most probable ones beside each. */
struct gen_tops {
    int32_t *ids; /* owned [n][n_top] */
    double *logp; /* owned [n][n_top] */
    size_t cap_ids, cap_logp;
};

/* A document under one setting. */
struct gen_track {
    const struct vis_rule *base; /* borrowed: the setting's */
    struct vis_rule rule;        /* what holds now */
    struct cache *cache;         /* owned: until it has entered */
    struct stream_past *past;    /* owned: until it has entered */
    struct stream_how how;
    int slot; /* of the stream engine; -1: none */
    bool done;
    enum gen_finish finish; /* of the last turn */

    size_t turn;           /* being answered */
    int64_t n_prompt;      /* ids of all prompts so far */
    int64_t n_new, n_turn; /* tokens written, in all and in this turn */
    int64_t n_turn_prompt;
    struct num_sum sum;
    bool ended_by_id; /* the last turn: by an EOS or stop id, which is in no cache */
    struct gen_text text;
    struct sbuf answer; /* of this turn; emptied for good once the row cannot hold it */
    bool answer_over;   /* more than MAN_ROW_TOKENS tokens */
    struct sbuf turns;  /* finished turns, as JSON */

    /* for the row, when asked: all tokens up to MAN_ROW_TOKENS */
    int32_t *ids; /* owned [n_new] */
    double *logp; /* owned [n_new] */
    size_t cap_ids, cap_logp;
    struct gen_tops tops;

    /* token rows */
    int32_t *block_ids; /* owned [DOC_BLOCK], NULL before the first */
    double *block_logp; /* owned [DOC_BLOCK] */
    int64_t n_block;    /* in the block in hand */
    struct sbuf block_text;
    struct sbuf
        held; /* lines that wait for those of earlier documents and settings, the last ... */
    struct part_chunk *chunks; /* owned [n_chunk]: ... and the first, put aside */
    size_t n_chunk, cap_chunk;
};

struct gen_doc {
    struct doc *d; /* owned */
    struct gen_prompt prompt;
    struct gen_ask ask; /* the document's own, when it has one */
    bool own_ask;
    bool opened;              /* tracks have caches */
    bool ready;               /* all of the prompt but its last id has been added to spans */
    int32_t last;             /* that id */
    struct gen_track *tracks; /* owned [n_setting] */
    int n_flushed;            /* tracks whose token rows are all out */
    bool kept;                /* the last checkpoint has it */
};

/* Rows of one document in the span: n rows a setting, setting by setting from `row` on. */
struct gen_piece {
    struct gen_doc *doc; /* borrowed from docs */
    int64_t row, n;
    int32_t *ids; /* owned [n] */
};

struct gen_event {
    struct stream_event ev; /* its lists are those below */
    struct err why;
    int32_t top_id[SAMP_MOST_TOP];
    double top_logp[SAMP_MOST_TOP];
};

struct generator {
    struct gen_config cfg;
    struct vis_rule *rules; /* owned [n_setting] */
    int n_setting;
    bool exact;             /* the oracle computes in double: nothing is rounded to float32 */
    struct span *span;      /* owned */
    struct stream *stream;  /* owned */
    struct tok_stream *tok; /* owned: for later turns */
    struct doc_reader reader;
    int32_t *no_targets;              /* owned [n_row]: -1 */
    struct gen_track **track_of_slot; /* owned [n_stream] */
    struct gen_doc **doc_of_slot;     /* owned [n_stream] */
    struct gen_event *events;         /* owned [n_stream]: of the last step */
    struct sbuf line, json, scratch;
    struct part_totals totals;

    struct part_feed feed;
    const struct part_out *out; /* borrowed */
    struct gen_doc **docs;      /* owned [n_doc]: opened and not yet emitted, in input order */
    int n_doc;
    size_t cap_doc;
    struct gen_piece *pieces; /* owned [n_piece] */
    int n_piece;
    size_t cap_piece;
    bool end; /* no more documents in the part */

    struct ledger_mark mark;
    struct part_clock clock;
    bool up_to_date;    /* what is on disk knows all of g->docs */
    int64_t shown_ns;   /* when progress was last told */
    int64_t stop_by_ns; /* once asked to stop: when saving ends at the latest; 0: not asked */
};

const struct gen_ask *gen_ask_of(const struct generator *g, const struct gen_doc *d);
void gen_doc_free(struct gen_doc *d);
/* Opens the next document: it becomes the last of g->docs; g->end when there is none. `reading`: its
 * prompt is going to be read (else only what the rest of an answer needs). */
enum status gen_open_next(struct generator *g, bool reading, struct err *e) WARN_UNUSED;
/* Fails a document: its streams are given up. */
enum status gen_fail(struct generator *g, struct gen_doc *d, const struct err *why,
                     struct err *e) WARN_UNUSED;
/* What an answer's tracks are told before they enter or are restored. */
void gen_set_how(struct generator *g, struct gen_doc *d, struct gen_track *t);

/* The first documents whose prompts are through: what a checkpoint can hold. */
int gen_n_begun(const struct generator *g);

/* Whether the track's token rows may leave as they come: all before them have left. */
bool gen_is_next(const struct generator *g, const struct gen_doc *d, const struct gen_track *t);
/* ---- prompts (gen_admit.c) ---- */

/* Opens documents and runs their prompts while there are free streams. */
enum status gen_admit(struct generator *g, struct err *e) WARN_UNUSED;

/* The rule of a turn whose prompt is n tokens and begins at `pos`, as generate.turn says: from t->rule.
 * Errors: E_ARG (no room for prompt and answer). */
enum status gen_turn_rule(const struct generator *g, const struct gen_track *t, int64_t pos,
                          int64_t n, struct vis_rule *out, struct err *e) WARN_UNUSED;

/* ---- tokens (gen_step.c) ---- */

/* One token more for every live stream. */
enum status gen_step(struct generator *g, struct err *e) WARN_UNUSED;

/* ---- rows (gen_rows.c) ---- */

void gen_print_result(const struct generator *g, const struct gen_doc *d, int setting,
                      struct sbuf *out);
/* The token row of the block in hand. */
void gen_print_block(const struct generator *g, const struct gen_doc *d, int setting,
                     struct sbuf *out);
/* A finished turn, for `turns` of the result. */
void gen_print_turn(const struct gen_track *t, struct sbuf *out);

/* ---- checkpoints (gen_state.c) ---- */

/* To g->out, in pieces: no more than one stream's is in memory. *late: the run is to stop, and it would
 * have taken longer than that may; nothing is put then. */
enum status gen_save(struct generator *g, bool *late, struct err *e) WARN_UNUSED;
/* Opens the documents again and puts their streams back. E_FORMAT with what differs; the generator's
 * documents are the caller's to drop then. */
enum status gen_restore(struct generator *g, const struct sbuf *state, struct err *e) WARN_UNUSED;

#endif
