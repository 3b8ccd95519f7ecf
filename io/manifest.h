/* The job manifest, version 1: one JSON object that says what to compute over what.
 *
 *   {"version": 1, "job": "score",
 *    "model":   "PATH" | {"path": "PATH"},
 *    "input":   ENTRY | [ENTRY, ...]        ENTRY = "PATH" | {"path", "text_key" | "ids_key",
 *                                                             "id_key", "invalid_utf8"}
 *    "cache":   SETTING | [SETTING, ...]    SETTING = {"name", "mode", "sink_tokens",
 *                                             "window_tokens", "prefill", "prefill_tokens",
 *                                             "chunk_tokens", "strict_window"}
 *    "score":   {"tokens", "limit_tokens", "add_bos"},
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

enum man_job { MAN_SCORE };
enum man_mode { MAN_SINK, MAN_WINDOW, MAN_DENSE };
enum man_prefill { MAN_PREFILL_STREAM, MAN_PREFILL_DENSE };
enum man_utf8 { MAN_UTF8_FAIL, MAN_UTF8_REPLACE };
enum man_bos { MAN_BOS_AUTO, MAN_BOS_TRUE, MAN_BOS_FALSE };
enum man_dtype { MAN_DTYPE_AUTO, MAN_DTYPE_F32, MAN_DTYPE_BF16 };

/* The words the manifest uses: "sink", "stream", "bf16". */
const char *man_mode_name(enum man_mode v);
const char *man_prefill_name(enum man_prefill v);
const char *man_dtype_name(enum man_dtype v);

struct man_input {
    char *path;      /* owned; file or pattern as written (man_path() resolves it), "-" is stdin */
    char *text_key;  /* owned; default "text"; NULL when ids_key is given and for .txt[.gz...] */
    char *id_key;    /* owned; default "id"; NULL for .txt[.gz, .zst, .lz4] */
    char *ids_key;   /* owned; NULL for text */
    bool keys_given; /* text_key or ids_key is written in the manifest, not a default */
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
        bool tokens;          /* per-token rows too; default false */
        int64_t limit_tokens; /* 0 (default): whole documents; at most 2^40 */
        enum man_bos add_bos; /* default auto: as the tokenizer is configured */
    } score;
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

/* Appends `path` as it is when absolute or "-", else behind m->dir. */
void man_path(const struct manifest *m, const char *path, struct sbuf *out);

/* Appends the effective manifest as one line of JSON: keys sorted, every default explicit, paths as
 * written, cache and input as lists. It is itself a manifest, and reading and printing it gives the
 * same bytes. Keys that have no meaning in a mode are absent. */
void man_canonical(const struct manifest *m, struct sbuf *out);

/* Appends the JSON Schema (draft 2020-12) of the manifest, indented. It comes from the tables that
 * man_parse() reads by, and accepts what man_parse() accepts, but for what a schema cannot say: two
 * settings of one name, a source that is listed twice in two ways, bytes of names. */
void man_schema(struct sbuf *out);

#endif
