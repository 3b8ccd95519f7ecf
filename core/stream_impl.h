/* Private to core/stream*.c: what a slot holds, and how its keys lie. */
#ifndef BASIN_CORE_STREAM_IMPL_H
#define BASIN_CORE_STREAM_IMPL_H

#include "core/forward.h"
#include "core/stream.h"

struct stream_past {
    const struct model_on *mo; /* borrowed */
    struct samp_seen *seen;    /* owned */
    int64_t window;            /* hidden states kept at most; 0: none are */
    int64_t n_hidden;          /* there have been so many; number i is row i % window */
    struct buf *hidden;        /* owned ACT [up to window, d_model], grown as needed */
};
/* One more hidden state: row `row` of x, on device `from`. */
enum status stream_past_hidden(struct stream_past *p, struct dev *from, const struct buf *x,
                               int64_t row, int64_t n, struct err *e) WARN_UNUSED;

/* A slot's stretch of rows in the layers of one class: sinks at base, window keys from base + (sinks of
 * the class) on, where the key of position `front` lies. */
struct stream_lie {
    int64_t base, cap, front;
    int64_t next_base, next_cap; /* while stretches are laid out anew */
};

enum stream_state { SLOT_FREE, SLOT_LIVE, SLOT_ENDED };

struct stream_slot {
    enum stream_state state;
    struct vis_rule rule;
    int64_t pos; /* tokens in the cache */
    struct stream_lie lie[MODEL_MAX_CLASS];
    const struct stream_how *how; /* borrowed */
    struct stream_past *past;     /* owned */
    int32_t *feed;                /* owned: ids to be fed before the first is generated */
    size_t feed_cap;
    int64_t n_feed, feed_at;
    int64_t generated;
    int32_t last; /* the last generated id, when `unfed`: not in the cache yet */
    bool unfed;
    int n_cand;    /* contrastive search: candidates for the next token */
    int32_t *cand; /* owned [n_candidate] */
    double *cand_logp,
        *cand_log_p;   /* owned [n_candidate]: of the logits as they were, and changed */
    int n_next;        /* top list of the logits that the candidates are from */
    int32_t *next_id;  /* owned [n_logprob] */
    double *next_logp; /* owned [n_logprob] */
    /* the step at work */
    int64_t row;        /* first row of the block */
    int n_row;          /* 0: none in this step */
    int64_t logits_row; /* from which the next token is sampled; -1: it is not */
    struct err err;     /* why it fails with the next step; also what the event points to */
    bool has_event;
    struct stream_event event;
    int32_t *top_id;  /* owned [n_logprob] */
    double *top_logp; /* owned [n_logprob] */
};

struct stream {
    const struct model_on *mo; /* borrowed */
    struct stream_config cfg;
    struct fwd *fwd;           /* owned */
    struct stream_slot *slots; /* owned [n_stream] */
    struct buf **k, **v;       /* owned [n_layer] BUF_KV: candidates' rows, then the stretches */
    bool prepared;             /* all weights are */
    bool broken;               /* only to be closed */
    int32_t *ids, *targets;    /* owned [rows of a step]; targets are -1 */
    int64_t n_row;
    struct stream_event *events; /* owned [n_stream] */
    int n_event;
    /* sampling: two rows a stream at most (a contrastive one that reports log-probabilities) */
    struct samp_table *table;    /* owned */
    struct dev_sample_row *rows; /* owned [2 n_stream] */
    int *row_slot;               /* owned [2 n_stream] */
    int n_sample, n_top;         /* n_top: of the operation's lists */
    struct buf *b_rows, *b_adjust, *b_id, *b_logp, *b_top_id, *b_top_logp, *b_top_adjusted,
        *b_similar;
    int32_t *id, *top_id; /* owned [2 n_stream], [2 n_stream, n_top] */
    double *logp, *top_logp, *top_adjusted, *similar;
};

static inline bool stream_contrastive(const struct stream_how *how) {
    return how->penalty_alpha > 0;
}

/* ---- keys (stream_kv.c) ---- */

/* Rows that slot s uses in layers of class c. */
int64_t stream_kv_used(const struct stream *st, const struct stream_slot *s, int c);
/* Makes room for keys up to position pos (s->rule and s->pos are set; rows in use keep their keys).
 * E_ARG: more keys than a stream may hold, nothing has changed. Other errors: the engine is broken. */
enum status stream_kv_room(struct stream *st, struct stream_slot *s, struct err *e) WARN_UNUSED;
/* The row of position pos. */
int64_t stream_kv_own(const struct stream *st, const struct stream_slot *s, int c);
struct cache_spot stream_kv_spot(const struct stream *st, const struct stream_slot *s, int64_t l);
/* Rows for candidates of slot number i: n_candidate of them, from here on. */
int64_t stream_kv_aside(const struct stream *st, int64_t i);
/* Candidate number `which` of the slot becomes the token at pos, in every layer. */
void stream_kv_adopt(struct stream *st, const struct stream_slot *s, int which);
/* Rows of a stretch of class c under the rule that need never grow; 0 where there is no such number. */
int64_t stream_kv_steady(const struct vis_rule *r, const struct vis_class *c);

/* ---- slots (stream.c) ---- */

/* A free slot with a rule and nothing in it. */
struct stream_slot *stream_slot_free(struct stream *st, int *index);
/* Copies the cache's keys into the slot. */
enum status stream_slot_load(struct stream *st, struct stream_slot *s, const struct cache *c,
                             struct err *e) WARN_UNUSED;
enum status stream_slot_store(const struct stream *st, const struct stream_slot *s,
                              struct cache *into, struct err *e) WARN_UNUSED;
enum status stream_slot_feed(struct stream *st, struct stream_slot *s, const int32_t *ids,
                             int64_t n, struct err *e) WARN_UNUSED;
enum status stream_slot_check(const struct stream *st, const struct stream_how *how,
                              struct err *e) WARN_UNUSED;

/* ---- sampling (stream_sample.c) ---- */

/* Samples for every slot whose logits_row is set: tokens and events, or the next candidates. Waits for all
 * that the step has queued. */
enum status stream_sample(struct stream *st, struct err *e) WARN_UNUSED;
/* Slot s has generated a token: counts it, ends the stream where it ends, makes the event. */
void stream_accept(struct stream *st, struct stream_slot *s, int32_t id, double logp, int n_top);
void stream_fail(struct stream *st, struct stream_slot *s);

#endif
