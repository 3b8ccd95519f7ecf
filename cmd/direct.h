/* Jobs without a manifest: what `score` and `generate` share. The options stand for a manifest, rows go
 * to stdout, nothing is left on disk. */
#ifndef BASIN_CMD_DIRECT_H
#define BASIN_CMD_DIRECT_H

#include "cmd/job.h"
#include "cmd/progress.h"

#include <stddef.h>

struct cmd_direct_options {
    struct cmd_job_options job;
    int64_t sink, window; /* -1: not given */
    const char *mode, *dtype, *text_key, *id_key, *ids_key, *messages_key;
    bool bos, no_bos, quiet;
};

/* The members that both kinds of job have: version, job, model, input, cache, compute. operands: MODEL
 * FILE... */
void cmd_direct_manifest(struct sbuf *b, const struct cmd_direct_options *o, const char *job,
                         char **operands, int n);

struct cmd_direct_place {
    const char *place, *option; /* "$.cache.sink_tokens", "--sink" */
};

struct cmd_direct {
    const char *name; /* of the command */
    const struct cmd_direct_options *o;
    const struct cmd_direct_place *places; /* [n_place]: beside those both have */
    size_t n_place;
    bool at_once; /* rows are not gathered before they are written */
    char kind;    /* of the lines that are results: 'r' or 't' */
};
/* Runs the manifest in `text`; returns the exit code. */
int cmd_direct_run(const struct cmd_direct *d, const struct sbuf *text);

/* Rows of an option table over a struct whose first member is a struct cmd_direct_options. */
#define CMD_DIRECT_AT(member) offsetof(struct cmd_direct_options, member)
#define CMD_DIRECT_CACHE                                                                           \
    {.name = "sink",                                                                               \
     .value = "N",                                                                                 \
     .kind = CMD_INT,                                                                              \
     .hi = 65536,                                                                                  \
     .offset = CMD_DIRECT_AT(sink),                                                                \
     .help = "sink tokens S (default 4)"},                                                         \
        {.name = "window",                                                                         \
         .value = "N",                                                                             \
         .kind = CMD_INT,                                                                          \
         .lo = 1,                                                                                  \
         .hi = 16777216,                                                                           \
         .offset = CMD_DIRECT_AT(window),                                                          \
         .help = "window tokens W (default 1020)"},                                                \
    {                                                                                              \
        .name = "mode", .value = "NAME", .kind = CMD_WORD, .words = cmd_direct_modes,              \
        .offset = CMD_DIRECT_AT(mode), .help = "sink (default), window or dense"                   \
    }
#define CMD_DIRECT_INPUT                                                                           \
    {.name = "bos",                                                                                \
     .kind = CMD_FLAG,                                                                             \
     .offset = CMD_DIRECT_AT(bos),                                                                 \
     .help = "begin with the BOS token (else as the tokenizer is configured)"},                    \
        {.name = "no-bos",                                                                         \
         .kind = CMD_FLAG,                                                                         \
         .offset = CMD_DIRECT_AT(no_bos),                                                          \
         .help = "begin without it"},                                                              \
        {.name = "text-key",                                                                       \
         .value = "KEY",                                                                           \
         .kind = CMD_TEXT,                                                                         \
         .offset = CMD_DIRECT_AT(text_key),                                                        \
         .help = "JSON lines: where the text is (default \"text\")"},                              \
        {.name = "id-key",                                                                         \
         .value = "KEY",                                                                           \
         .kind = CMD_TEXT,                                                                         \
         .offset = CMD_DIRECT_AT(id_key),                                                          \
         .help = "JSON lines: where the id is (default \"id\")"},                                  \
    {                                                                                              \
        .name = "ids-key", .value = "KEY", .kind = CMD_TEXT, .offset = CMD_DIRECT_AT(ids_key),     \
        .help = "JSON lines of token ids instead of text: where they are"                          \
    }
#define CMD_DIRECT_COMPUTE                                                                         \
    {.name = "dtype",                                                                              \
     .value = "NAME",                                                                              \
     .kind = CMD_WORD,                                                                             \
     .words = cmd_direct_dtypes,                                                                   \
     .offset = CMD_DIRECT_AT(dtype),                                                               \
     .help = "auto (default), f32, bf16 or int8"},                                                 \
        CMD_JOB_DEVICES(struct cmd_direct_options), CMD_JOB_THREADS(struct cmd_direct_options), {  \
        .name = "quiet", .kind = CMD_FLAG, .offset = CMD_DIRECT_AT(quiet),                         \
        .help = "no progress on stderr"                                                            \
    }
extern const char *const cmd_direct_modes[], *const cmd_direct_dtypes[];

#endif
