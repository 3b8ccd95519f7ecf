/* The stream engine: many documents continued together, one row (token) of each per step.
 *
 * Weights are read once per step for all streams. A stream is a document that is being continued:
 * its keys and values, what penalties remember of it, how its tokens are chosen. Streams enter and
 * leave between steps, in any order; there is no padding. A stream's tokens and log-probabilities
 * have the same bits whoever else is in the batch, and after a save and restore (DESIGN sections 2,
 * 7).
 *
 * A prompt goes through the span engine but for its last token, which the stream engine feeds as
 * its first step, so that the first new token is sampled like all others:
 *
 *     stream_past_open(&past, mo, &how, e);
 *     span_add(sp, cache, ids, targets, n - 1, true, &row, e);   // as many spans as it takes
 *     span_run(sp, &stop, e);
 *     stream_past_add(past, sp, row, ids, n - 1, e);             // before span_clear
 *     stream_enter(st, &(struct stream_entry){cache, &past, &how, ids + n - 1, 1}, &slot, e);
 *     while (stream_live(st) > 0) {
 *         stream_step(st, &stop, e);
 *         for (int i = 0; i < stream_events(st); i++) ... stream_event(st, i) ...
 *         for slots that have ended: stream_leave(st, slot, NULL, NULL, e);
 *     }
 *
 * Whether the prompt was streamed or attended densely to itself is the cache's rule (vis.h).
 *
 * Chats. A slot whose generation has ended keeps its cache. The next turn's ids may be fed one a
 * step (stream_turn), or the stream leaves into a cache, the ids go through a span, and it enters
 * again. The last generated token is not in the cache yet (stream_unfed): whoever wants it there
 * puts it in front of the ids.
 *
 * Keys lie in one pair of buffers per layer for all slots: each slot has a stretch of rows, [S
 * sinks][the keys that can still be seen][slack], positions in order. A step writes its row behind
 * the last; when the slack is used up the keys still needed move to the front. Where attention is
 * dense, stretches grow. A stored key is never rewritten.
 *
 * Contrastive search (penalty_alpha; Su et al., arXiv:2202.06417, as transformers' generate does
 * it): the top_k most probable ids are each fed as a candidate row that is not part of the
 * document; the one with the largest (1 - alpha) * p - alpha * (largest cosine of its hidden state,
 * the head's input, with those of the previous tokens) becomes the next token and its keys become
 * part of the cache. p is the softmax over all ids of the changed logits (steps 1 to 4 of sample.h).
 * The hidden states compared with are the last `contrastive_window` ones.
 *
 * Belongs to one thread, the one of its device. */
#ifndef BASIN_CORE_STREAM_H
#define BASIN_CORE_STREAM_H

#include "core/cache.h"
#include "core/sample.h"
#include "core/span.h"

struct stream;      /* opaque: the engine */
struct stream_past; /* opaque: what a stream remembers of its document beside the cache */

enum {
    STREAM_MOST_STOP = 4096,       /* eos and stop ids of a stream together */
    STREAM_CONTRAST_WINDOW = 16384 /* default of contrastive_window */
};

/* How a document is continued. Borrowed, with the lists it names, from stream_past_open until the
 * stream has left or has got another by stream_turn. */
struct stream_how {
    struct samp_params samp;
    int64_t max_new; /* at least 1 */
    int64_t
        min_new; /* before so many tokens neither stop nor (unless ignored) eos ids are sampled */
    const int32_t *eos, *stop; /* ids that end the generation; stop_token_ids */
    int n_eos, n_stop;
    bool ignore_eos;      /* as in vLLM: eos ids are tokens like any other, not banned */
    int n_logprob;        /* 0 .. SAMP_MOST_TOP most probable ids reported with each token */
    double penalty_alpha; /* 0: off; in (0, 1]: contrastive search with samp.top_k >= 2 candidates;
                             temperature must be 0 */
    int64_t contrastive_window; /* at least 1 */
    struct samp_key key;
    int64_t first_step; /* number of the first new token among the document's random numbers: 0, or,
                           in a later turn, how many were generated before */
};
/* Neutral: greedy; max_new still has to be set. */
void stream_how_init(struct stream_how *how);
/* E_ARG naming the member that is out of range. */
enum status stream_how_check(const struct stream_how *how, int64_t n_vocab,
                             struct err *e) WARN_UNUSED;

/* ---- the past ---- */

/* For a document of which nothing has been fed. `mo`: the stream engine's. */
enum status stream_past_open(struct stream_past **out, const struct model_on *mo,
                             const struct stream_how *how, struct err *e) WARN_UNUSED;
void stream_past_close(struct stream_past *p);
/* n tokens have gone through a span, rows row .. row + n - 1 of the last span_run. Errors: E_NOMEM,
 * E_DEVICE. */
enum status stream_past_add(struct stream_past *p, const struct span *sp, int64_t row,
                            const int32_t *ids, int64_t n, struct err *e) WARN_UNUSED;
/* For checkpoints between spans; restore into one just opened with the same `how`. */
enum status stream_past_save(const struct stream_past *p, struct sbuf *out,
                             struct err *e) WARN_UNUSED;
enum status stream_past_restore(struct stream_past *p, const char *bytes, size_t n, size_t *used,
                                struct err *e) WARN_UNUSED;

/* ---- the engine ---- */

struct stream_config {
    int n_stream;       /* slots, at least 1 */
    int n_candidate;    /* most candidates (top_k) of a contrastive stream; 0: there are none */
    int n_logprob;      /* most n_logprob of a stream */
    int64_t n_key_most; /* keys that a stream may hold in a layer; it fails by name past that. 0: no
                            limit. Reached only where attention is dense */
};

/* Prepares all weights of the model and keeps them until it is closed. Errors: E_ARG, E_NOMEM,
 * E_DEVICE, E_FORMAT (weights that hold NaN). */
enum status stream_open(struct stream **out, const struct model_on *mo,
                        const struct stream_config *c, struct err *e) WARN_UNUSED;
void stream_close(struct stream *st);

int stream_room(const struct stream *st); /* free slots */
int stream_live(const struct stream *st); /* streams that the next step has a row for */

struct stream_entry {
    const struct cache *cache; /* borrowed for the call; of the same model, on any device that
                                     dev_copy_peer reaches from the engine's. May be empty */
    struct stream_past *
        *past; /* taken (set to NULL) on success. What it has seen counts as prompt */
    const struct stream_how *how; /* borrowed: see there */
    const int32_t *ids;           /* copied: the tokens to feed, one a step, before the first new */
    int64_t n;                    /* at least 1 */
};
/* Fills a free slot. Errors: E_ARG (ids outside the vocabulary, `how` out of range or beyond the
 * engine's configuration, more keys than n_key_most, positions that the model has not got): nothing has
 * changed. E_NOMEM, E_DEVICE: see stream_step. CHECKs that a slot is free. */
enum status stream_enter(struct stream *st, const struct stream_entry *in, int *slot,
                         struct err *e) WARN_UNUSED;

/* A further turn in an occupied slot: what was generated counts as prompt from now on, ids are fed
 * one a step, then `how` decides. Ends a generation that is still going on. Errors: as stream_enter.
 * (`how` must want the same of the past: penalties and contrastive search as before, or less.) */
enum status stream_turn(struct stream *st, int slot, const struct stream_how *how,
                        const int32_t *ids, int64_t n, struct err *e) WARN_UNUSED;

/* The stream goes on under another rule: same sinks, from its position on. Keys that the rule does not
 * need are let go for good. Errors, with nothing changed: E_ARG (it needs keys that the rule before had
 * let go). */
enum status stream_rule(struct stream *st, int slot, const struct vis_rule *rule,
                        struct err *e) WARN_UNUSED;

/* The slot gets no more rows, as if it had ended by itself; it stays occupied. */
void stream_hold(struct stream *st, int slot);

/* Frees the slot. `into`: NULL, or an empty cache of the same rule that receives what the stream has
 * fed; `past`: NULL, or where what it remembers goes (the caller's to close; it has seen every token
 * that was fed). Errors: E_NOMEM, E_DEVICE; the slot is free all the same. */
enum status stream_leave(struct stream *st, int slot, struct cache *into, struct stream_past **past,
                         struct err *e) WARN_UNUSED;

/* Tokens the slot has fed: the position of its next one. */
int64_t stream_pos(const struct stream *st, int slot);
/* Tokens generated since it entered or since the last turn. */
int64_t stream_generated(const struct stream *st, int slot);
/* True when the last generated token is not in the cache; *id is it. (Contrastive search has fed what
 * it chose.) Ids given but not fed yet do not count. */
bool stream_unfed(const struct stream *st, int slot, int32_t *id);

enum stream_end {
    STREAM_GOES_ON,
    STREAM_EOS, /* the token is an eos id; it is reported, and not fed (contrastive search has fed it) */
    STREAM_STOP,   /* the token is a stop id; likewise */
    STREAM_LENGTH, /* max_new reached */
    STREAM_FAILED  /* no token: `why` says it. The other streams are not touched */
};

/* What a step did to one stream. */
struct stream_event {
    int slot;
    enum stream_end end;
    int32_t id;             /* the new token; -1 with STREAM_FAILED */
    double logp;            /* its log-probability: see sample.h */
    int n_top;              /* the how's n_logprob, at most the vocabulary */
    const int32_t *top_id;  /* [n_top] most probable first; lower id first on ties */
    const double *top_logp; /* [n_top] */
    const struct err *why;  /* with STREAM_FAILED: E_FORMAT (logits not finite), E_ARG (no id left
                                to sample; positions or keys at their end). Else NULL */
};

/* One row for every live stream. A stream that is still being fed has no event, nor has the step in which
 * contrastive search looks for its first candidates; all others have one, in order of slots.
 * Errors: E_CANCEL (asked between layers): no stream has changed, step again. E_NOMEM, E_DEVICE,
 * E_FORMAT, E_IO (a model file cut short): only stream_close may follow. */
enum status stream_step(struct stream *st, const struct span_stop *stop, struct err *e) WARN_UNUSED;
int stream_events(const struct stream *st);
/* Event i of the last step. Borrowed, with its lists: valid until the next stream_step, or until its slot
 * is filled anew. */
const struct stream_event *stream_event(const struct stream *st, int i);

/* A stream as bytes, between steps: cache, past, ids not fed yet, counters, candidates. Restored in a
 * free slot of an engine of the same build, model and device kind, under the same rule and `how`, it
 * goes on with the same bits. The caller's checksum covers the bytes. Errors: E_NOMEM, E_DEVICE;
 * E_FORMAT when the bytes do not fit. */
enum status stream_save(struct stream *st, int slot, struct sbuf *out, struct err *e) WARN_UNUSED;
struct stream_saved {
    const struct vis_rule *rule;
    const struct stream_how *how; /* borrowed: as in stream_entry */
    const char *bytes;
    size_t n;
    size_t used; /* written */
};
enum status stream_restore(struct stream *st, struct stream_saved *in, int *slot,
                           struct err *e) WARN_UNUSED;

/* Bytes an engine takes on its device at most, without weights, when every stream has fed n_tok tokens
 * under the rule. kv_bytes: of an element of the cache dtype. `window`: contrastive_window when streams
 * are contrastive, else 0. */
struct stream_size {
    const struct arch *arch;
    const struct vis_class *classes;
    const int *class_of_layer;
    const struct vis_rule *rule;
    int64_t n_tok, window;
    size_t kv_bytes;
};
int64_t stream_bytes(const struct stream_config *c, const struct stream_size *s);
/* Bytes of the weights while it and a span engine are open on a CPU: mapped, kept for steps, and a layer
 * and the head packed. `word`: 2 in a bf16 run, 4 in an f32 run. */
int64_t stream_weights_bytes(const struct model *m, size_t word);

#endif
