/* How fast a model is scored here, against what the machine can do. */
#ifndef BASIN_JOBS_BENCH_H
#define BASIN_JOBS_BENCH_H

#include "base/cpu.h"
#include "base/err.h"
#include "core/span.h"

/* What is measured: the CPU or one GPU. */
struct bench_on {
    int gpu; /* ordinal; < 0: the CPU */
    enum cpu_isa isa;
    int n_thread;
};
/* "cpu", "cuda" or "cuda:N". Errors: E_ARG for anything else, several devices among it. */
enum status bench_parse_device(const char *name, int *gpu, struct err *e) WARN_UNUSED;

/* Limits of a device for one dtype and number of threads. */
struct bench_peak {
    const char *dtype; /* "f32", "bf16" or "int8"; static */
    int n_thread;
    char device[96]; /* for people */
    double flops;    /* operations a second, a multiply-add counts two */
    double read_bytes;
};
/* Measures for about `seconds` each. Errors: E_UNSUPPORTED (instruction set), E_DEVICE (no such GPU), E_NOMEM. */
enum status bench_peak(struct bench_peak *out, const char *dtype, const struct bench_on *on,
                       double seconds, struct err *e) WARN_UNUSED;

/* Scoring with a full cache of S + W tokens. */
struct bench_speed {
    int64_t n_sink, n_win;
    int64_t tokens;
    double seconds; /* wall time of the tokens */
    /* Of `seconds`, by stage. DEV_OTHER holds all that is in no other stage, also off the device. */
    double stage[DEV_STAGE_COUNT];
    /* Operations that a token needs: DEV_LINEAR, DEV_ATTEND and DEV_HEAD, 0 elsewhere. */
    double flops[DEV_STAGE_COUNT];
};

struct bench; /* opaque: a model on the device, as `basin run` opens it */

struct bench_config {
    const char *model; /* a path, or NULL: */
    const char *shape; /* made-up weights of a known model's dimensions */
    const char *dtype; /* "auto" (as a job has it), "f32", "bf16" or "int8" */
    struct bench_on on;
    int64_t n_row;       /* of a span; 0: as a run has it */
    int64_t memory_left; /* 0: what the device says */
};
/* Errors: as model_open and model_open_shape; E_UNSUPPORTED; E_DEVICE; E_NOMEM when a shape is larger than the
 * memory there is, which is said before any is taken. */
enum status bench_open(struct bench **out, const struct bench_config *c, struct err *e) WARN_UNUSED;
void bench_close(struct bench *b);
/* "f32", "bf16" or "int8", of scoring and of writing. */
const char *bench_dtype(const struct bench *b);
const char *bench_step_dtype(const struct bench *b);
const struct model *bench_model(const struct bench *b);
const char *bench_device(const struct bench *b); /* for people */
int64_t bench_span_rows(const struct bench *b);

/* Scores made-up tokens, in spans as a run has them: first until the cache is full, then for
 * `seconds`, which count. Errors: E_NOMEM, E_FORMAT (weights with NaN), E_IO. */
enum status bench_score(struct bench *b, int64_t n_sink, int64_t n_win, double seconds,
                        struct bench_speed *out, struct err *e) WARN_UNUSED;

/* Scores made-up documents of n_tok tokens each (at most bench_span_rows), packed into spans. */
enum status bench_documents(struct bench *b, int64_t n_sink, int64_t n_win, int64_t n_tok,
                            double seconds, struct bench_speed *out, struct err *e) WARN_UNUSED;

/* Writing on: n_stream streams with full caches of S + W tokens, one token each a step. */
struct bench_steps {
    int n_stream;
    int64_t n_sink, n_win;
    int64_t tokens;
    double seconds;
    double
        read_bytes; /* that a step has to read: the matrices as they are stored, and the caches */
    double flops;   /* operations that a step needs */
};
/* For at least `seconds`. Errors: as bench_score; E_UNSUPPORTED where the device does not write yet. */
enum status bench_steps(struct bench *b, int n_stream, int64_t n_sink, int64_t n_win,
                        double seconds, struct bench_steps *out, struct err *e) WARN_UNUSED;

/* What is done on the way in and out, on one thread. */
struct bench_text {
    double tokenizer_bytes; /* English text, bytes a second; 0: the model has no tokenizer */
    double tokenizer_tokens, row_tokens; /* tokens a second: out of text, into token rows */
};
enum status bench_text(struct bench *b, double seconds, struct bench_text *out,
                       struct err *e) WARN_UNUSED;

#endif
