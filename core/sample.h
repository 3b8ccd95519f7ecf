/* Sampling, the part that is arithmetic on the host: what a stream wants, random numbers, what
 * penalties remember, and the table of changes to logits that dev_sample reads.
 *
 * The order in which logits become a token, with the meanings of vLLM and Hugging Face (where the
 * two differ, what is said here):
 *
 *     1  l[id] += bias                                   logit_bias
 *     2  l[id] = l > 0 ? l / r : l * r                   repetition_penalty r; ids of prompt and output
 *     3  l[id] -= presence + frequency * count[id]       ids of the output
 *     4  l[id] = -inf                                    bad words, stop ids before min_new tokens
 *     5  greedy (temperature 0): the largest l, the lowest id on ties. Else l / temperature,
 *     6  top_k: keeps l >= the k-th largest (ties stay),
 *     7  top_p: keeps the shortest run from the most probable (lower id first on ties) whose mass,
 *        of what 6 kept, is at least top_p,
 *     8  min_p: keeps those of 7 with p >= min_p * (the largest p),
 *     9  the first id, in order of ids, whose cumulated mass is above u times what 8 kept; u in [0, 1).
 *
 * (1 comes before 2 and 3 in both; 6, 7, 8 in this order in Hugging Face.) The log-probability of a
 * token is that of the unmodified logits: log softmax before step 1 (vLLM's default, raw_logprobs).
 *
 * Penalties see all of the prompt and of the output, whether or not the cache still holds it. What
 * they remember is a count per id: memory is bounded by the vocabulary, not by the text. */
#ifndef BASIN_CORE_SAMPLE_H
#define BASIN_CORE_SAMPLE_H

#include "base/sbuf.h"
#include "kernels/dev.h"

enum { SAMP_MOST_TOP = 64, SAMP_MOST_WORD = 64 };

struct samp_bias {
    int32_t id;
    double add; /* within 1e6 of 0 */
};

/* Ids that must not appear one after the other; n_id at least 1, at most SAMP_MOST_WORD. */
struct samp_word {
    const int32_t *ids;
    int n_id;
};

/* Zeroed except for the neutral values of samp_neutral(): greedy, nothing changed. Lists are
 * borrowed for as long as a stream has them. */
struct samp_params {
    double temperature;        /* 0 to 1000; below 1e-5: greedy, as in vLLM */
    int32_t top_k;             /* 0: all */
    double top_p;              /* in (0, 1]; 1: all */
    double min_p;              /* in [0, 1]; 0: all */
    double repetition_penalty; /* 0.001 to 1000; 1: none */
    double presence_penalty;   /* -2 to 2; 0: none */
    double frequency_penalty;  /* -2 to 2; 0: none */
    const struct samp_bias *bias;
    int n_bias; /* of an id named twice the last one counts */
    const struct samp_word *bad;
    int n_bad;
};
void samp_neutral(struct samp_params *p);

/* E_ARG naming the member ("top_p must be ...") when a value is out of range, NaN or an id outside
 * the vocabulary. */
enum status samp_check(const struct samp_params *p, int64_t n_vocab, struct err *e) WARN_UNUSED;

/* ---- random numbers: a function of (seed, source, offset, step), without state ---- */

struct samp_key {
    uint64_t lo, hi;
};
/* source: n bytes, the document's `source`; offset: of its line. */
struct samp_key samp_key(uint64_t seed, const char *source, size_t n, int64_t offset);
/* Number `step` (0, 1, ..) of a document: uniform in [0, 1), a multiple of 2^-53. */
double samp_uniform(const struct samp_key *key, int64_t step);

/* ---- what penalties and bad words remember ---- */

struct samp_seen; /* opaque */

/* Nothing seen. Keeps counts only when `p` has penalties. */
enum status samp_seen_open(struct samp_seen **out, const struct samp_params *p, int64_t n_vocab,
                           struct err *e) WARN_UNUSED;
void samp_seen_close(struct samp_seen *s);
/* n more ids of the prompt, or one of the output; inside the vocabulary. */
void samp_seen_prompt(struct samp_seen *s, const int32_t *ids, int64_t n);
void samp_seen_output(struct samp_seen *s, int32_t id);
/* The output so far counts as prompt from now on (the next turn of a chat). */
void samp_seen_turn(struct samp_seen *s);
void samp_seen_save(const struct samp_seen *s, struct sbuf *out);
/* Into one just opened with the same parameters. Errors: E_FORMAT. */
enum status samp_seen_restore(struct samp_seen *s, const char *bytes, size_t n, size_t *used,
                              struct err *e) WARN_UNUSED;

/* ---- changes to logits, for dev_sample ---- */

struct samp_table; /* opaque: entries of several rows, one per (row, id) */

enum status samp_table_open(struct samp_table **out, int64_t n_vocab, struct err *e) WARN_UNUSED;
void samp_table_close(struct samp_table *t);
void samp_table_clear(struct samp_table *t);
struct samp_ban {
    const int32_t *ids; /* may name an id twice */
    int n;
};
/* Appends the entries of one row, steps 1 to 4 with the ids of both lists of `ban` banned as well, and sets the
 * members of `row` that follow from the parameters: all but logits_row, u and n_top. Errors: E_NOMEM. */
enum status samp_table_add(struct samp_table *t, const struct samp_params *p,
                           const struct samp_seen *s, const struct samp_ban ban[2],
                           struct dev_sample_row *row, struct err *e) WARN_UNUSED;
const struct dev_adjust *samp_table_entries(const struct samp_table *t, int64_t *n);

#endif
