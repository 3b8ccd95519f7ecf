/* The job manifest, version 1: one JSON object that says what to compute over what.
 *
 *   {"version": 1, "job": "score" | "generate",
 *    "model":   "PATH" | {"path": "PATH"},
 *    "input":   ENTRY | [ENTRY, ...]        ENTRY = "PATH" | {"path", "text_key", "messages_key" |
 *                                                             "ids_key", "id_key", "invalid_utf8"}
 *    "cache":   SETTING | [SETTING, ...]    SETTING = {"name", "mode", "sink_tokens",
 *                                             "window_tokens", "prefill", "prefill_tokens",
 *                                             "chunk_tokens", "strict_window"}
 *    "score":   {"tokens", "limit_tokens", "add_bos"}    of a score job, or
 *    "generate": {"max_new_tokens", ...}                 of a generate job (struct man_generate),
 *    "output":  {"path", "part_bytes"},
 *    "compute": {"dtype", "span_tokens"}}
 *
 * Reading applies every default, so that the structs below hold what will happen. Whatever has no
 * meaning (unknown keys, values out of range, keys without effect in their mode) is an error; all
 * of them are collected in one pass. */
#ifndef BASIN_IO_MANIFEST_H
#define BASIN_IO_MANIFEST_H

#include "base/err.h"
#include "base/sbuf.h"

struct json;
struct jnode;

enum man_job { MAN_SCORE, MAN_GENERATE };
enum man_mode { MAN_SINK, MAN_WINDOW, MAN_DENSE };
enum man_prefill { MAN_PREFILL_STREAM, MAN_PREFILL_DENSE };
enum man_utf8 { MAN_UTF8_FAIL, MAN_UTF8_REPLACE };
enum man_bos { MAN_BOS_AUTO, MAN_BOS_TRUE, MAN_BOS_FALSE };
enum man_turn { MAN_TURN_STREAM, MAN_TURN_CHUNK, MAN_TURN_ROOM };
enum man_dtype { MAN_DTYPE_AUTO, MAN_DTYPE_F32, MAN_DTYPE_BF16, MAN_DTYPE_INT8 };

/* The words the manifest uses: "sink", "stream", "bf16". */
const char *man_mode_name(enum man_mode v);
const char *man_prefill_name(enum man_prefill v);
const char *man_dtype_name(enum man_dtype v);
const char *man_turn_name(enum man_turn v);

struct man_input {
    char *path;     /* owned; file or pattern as written (man_path() resolves it), "-" is stdin */
    char *text_key; /* owned; default "text"; NULL when ids_key is given and for .txt[.gz...] */
    char *id_key;   /* owned; default "id"; NULL for .txt[.gz, .zst, .lz4] */
    char *messages_key; /* owned; of a generate job: a chat; default "messages"; NULL as text_key */
    char *ids_key;      /* owned; NULL for text */
    bool keys_given;    /* one of the three is written in the manifest, not a default */
    enum man_utf8 invalid_utf8; /* default fail */
};

struct man_setting {
    char *name;            /* owned; 1..64 bytes, unique; a single setting defaults to its mode */
    enum man_mode mode;    /* default sink */
    int64_t sink_tokens;   /* S: 0..65536, default 4; 0 in modes window and dense */
    int64_t window_tokens; /* W: 1..16777216, default 1020; 0 in mode dense */
    enum man_prefill prefill; /* default stream */
    int64_t prefill_tokens;   /* with dense prefill 1..16777216, else 0 */
    int64_t chunk_tokens;     /* 1..1048576, default 1 */
    bool strict_window;       /* default false */
};

/* What samples are drawn from may come from the model's generation_config.json where it is not
 * given. */
enum man_given {
    MAN_GIVEN_TEMPERATURE, /* or do_sample */
    MAN_GIVEN_TOP_K,
    MAN_GIVEN_TOP_P,
    MAN_GIVEN_MIN_P,
    MAN_GIVEN_REPETITION,
    MAN_GIVEN_COUNT
};

enum {
    MAN_ROW_TOKENS = 16384, /* a longer answer has its text in token rows, not in its result row */
    MAN_CONTRASTIVE_WINDOW = 16384 /* default */
};

struct man_bias {
    int32_t id;
    double bias; /* -100..100 */
};

/* What a generate job writes, with the meanings of Hugging Face's generate() and vLLM. */
struct man_generate {
    int64_t max_new_tokens;                     /* 1..2^40; also max_tokens */
    int64_t min_new_tokens;                     /* 0..max_new_tokens */
    double temperature;                         /* 0..100; 0 (default): the most probable token */
    bool do_sample;                             /* as given; temperature says what holds */
    int64_t top_k;                              /* 0 (default): all */
    double top_p;                               /* 0 < top_p <= 1 (default) */
    double min_p;                               /* 0 (default) .. 1 */
    double repetition_penalty;                  /* 0 < x <= 100, default 1 */
    double presence_penalty, frequency_penalty; /* -2..2, default 0 */
    double penalty_alpha;       /* 0..1; above 0: contrastive search with top_k candidates */
    int64_t contrastive_window; /* 1..1048576 */
    char **stop; /* owned [n_stop], and its strings: at most 64 of at most 1024 bytes */
    size_t n_stop;
    int32_t *stop_ids; /* owned [n_stop_ids]; at most 1024 */
    size_t n_stop_ids;
    bool ignore_eos;
    char **bad_words; /* owned [n_bad_words], and its strings: at most 1024 */
    size_t n_bad_words;
    struct man_bias *bias; /* owned [n_bias], by id; at most 1024 */
    size_t n_bias;
    int64_t seed;     /* 0..2^53 */
    int64_t logprobs; /* -1 (default): none; of the token; 1..20: and of so many others */
    bool token_ids;
    bool tokens;     /* token rows too; always with max_new_tokens above MAN_ROW_TOKENS */
    int64_t streams; /* 0 (default): chosen by the program; at most 4096 */
    enum man_turn turn;
    char *template; /* owned; default "auto" */
    enum man_bos add_bos;
    bool use_generation_config;
    bool given[MAN_GIVEN_COUNT];
};

struct manifest {
    int64_t version; /* 1 */
    enum man_job job;
    char *dir;                /* owned; directory of the manifest: relative paths start there */
    char *model_path;         /* owned; as written */
    struct man_input *inputs; /* owned [n_inputs], n_inputs >= 1 */
    size_t n_inputs;
    struct man_setting *settings; /* owned [n_settings], n_settings >= 1 */
    size_t n_settings;
    struct {
        bool tokens;              /* per-token rows too; default false */
        int64_t limit_tokens;     /* 0 (default): whole documents; at most 2^40 */
        enum man_bos add_bos;     /* default auto: as the tokenizer is configured */
    } score;                      /* of a score job */
    struct man_generate generate; /* of a generate job */
    struct {
        char *path;         /* owned; as written; NULL when not given (MAN_NO_OUTPUT) */
        int64_t part_bytes; /* 1 KiB .. 1 TiB, default 64 MiB */
    } output;
    struct {
        enum man_dtype dtype; /* default auto */
        int64_t span_tokens;  /* 0 (default): chosen by the program; at most 1048576 */
    } compute;
};

/* One finding, at a place such as "$.cache.sink_tokens" and a line of the manifest. */
struct man_problem {
    char *path;       /* owned */
    int line;         /* 1-based */
    enum status code; /* E_FORMAT, E_UNSUPPORTED; of warnings OK */
    char *message;    /* owned */
};

/* Findings in the order of their lines, at most 1,000 of each kind. Zeroed is empty. */
struct man_problems {
    struct man_problem *errors; /* owned [n_errors] */
    size_t n_errors, cap_errors;
    struct man_problem *warnings; /* owned [n_warnings] */
    size_t n_warnings, cap_warnings;
};
void man_problems_init(struct man_problems *p);
void man_problems_fini(struct man_problems *p);

enum { MAN_NO_OUTPUT = 1 }; /* flag: "output" need not be there (results go to stdout) */

/* Reads the manifest in `doc`, whose relative paths start at `dir`. `problems` (initialised by the
 * caller, may be NULL) receives every error and warning.
 * Errors: the class of the first finding, with "LABEL:LINE: $.place: message" in e (E_FORMAT,
 * E_UNSUPPORTED); E_NOMEM, with which `problems` may be incomplete. *out is NULL then. */
enum status man_parse(struct manifest **out, const struct json *doc, const char *dir,
                      unsigned flags, struct man_problems *problems, struct err *e) WARN_UNUSED;

/* Reads the manifest file `path` (at most 16 MiB) after applying sets[0..n_set) in order, each as
 * man_set() does. Errors: as man_parse, and E_NOINPUT, E_IO, E_FORMAT for text that is not JSON and
 * E_ARG for a bad assignment, which are in e only and leave `problems` empty. */
enum status man_load(struct manifest **out, const char *path, const char *const *sets, int n_set,
                     struct man_problems *problems, struct err *e) WARN_UNUSED;
void man_close(struct manifest *m);

/* Applies "key=value" to the JSON object in `text`. The key is a dotted path ("cache.sink_tokens",
 * "input.0.path"); objects on the way are created, list elements must exist. The value is taken as
 * JSON if it is JSON, else as a string (so "\"8\"" with its quotes is the string 8). Lines of
 * everything else stay what they were. `label` stands for the file in messages.
 * Errors: E_ARG (no '=', empty name, no such element, not UTF-8), E_FORMAT (text is not JSON),
 * E_NOMEM; text is unchanged then. */
enum status man_set(struct sbuf *text, const char *label, const char *assignment,
                    struct err *e) WARN_UNUSED;

/* What both jobs have under their own section: whether token rows are written, and the BOS. */
bool man_wants_tokens(const struct manifest *m);
enum man_bos man_add_bos(const struct manifest *m);

/* Appends `path` as it is when absolute or "-", else behind m->dir. */
void man_path(const struct manifest *m, const char *path, struct sbuf *out);

/* Appends the effective manifest as one line of JSON: keys sorted, every default explicit, paths as
 * written, cache and input as lists. It is itself a manifest, and reading and printing it gives the
 * same bytes. Keys that have no meaning in a mode are absent. */
void man_canonical(const struct manifest *m, struct sbuf *out);

/* Appends the JSON Schema (draft 2020-12) of the manifest, indented. It comes from the tables that
 * man_parse() reads by, and accepts what man_parse() accepts, but for what a schema cannot say: two
 * settings of one name, a source that is listed twice in two ways, bytes of names, one number that
 * must not be above another, which templates there are. */
void man_schema(struct sbuf *out);

#endif
