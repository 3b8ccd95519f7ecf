/* What a run needs open before it can score: plan, model, tokenizer, device. Private to jobs/. */
#ifndef BASIN_JOBS_SESSION_H
#define BASIN_JOBS_SESSION_H

#include "jobs/run.h"
#include "jobs/gen_ask.h"
#include "jobs/part.h"

enum {
    SESSION_ROWS = 2048, /* rows of a span where the manifest does not say */
    SESSION_DEVICES = 32 /* at most in one run */
};

/* A device, with the model on it. */
struct session_dev {
    char name[32]; /* "cpu", "cuda:1" */
    struct dev *dev;
    struct model_on *mo;
    int64_t n_row;                   /* of its spans: no more than it has free memory for */
    int64_t free_bytes, total_bytes; /* as it was opened; total 0: not known */
};

struct session {
    const struct manifest *man;  /* borrowed */
    const struct run_options *o; /* borrowed */
    struct plan *plan;           /* owned, as everything below */
    struct model *model;
    struct tok *tok; /* NULL when no input is text */
    struct session_dev devs[SESSION_DEVICES];
    int n_dev;
    /* Of a generate job on a CPU: a handle for steps, and the model on it. Else NULL. */
    struct dev *step_dev;
    struct model_on *step_mo;
    enum dtype compute; /* DT_F32 or DT_BF16 */
    bool int8;          /* products of int8 in a bf16 run (struct dev_config) */
    bool add_bos;
    int64_t n_row; /* rows of a span */

    /* of a generate job */
    struct gen_ask ask;
    const struct chat_template *chat; /* NULL: no_chat says why there is none */
    struct err no_chat;
    int n_stream; /* settled by session_start() */
};

/* Opens plan, model and tokenizer, and settles the dtype: `dtype` ("f32", "bf16", "int8") if not NULL,
 * else the manifest's, "auto" being f32 for models stored in F32 and bf16 for others; int8 in generate jobs of quantized ones. */
enum status session_open(struct session *s, const struct manifest *man, const struct run_options *o,
                         const char *dtype, struct err *e) WARN_UNUSED;
/* The dtype that the job in `dir` was fixed to when it began, which `auto` follows on every later run;
 * "" when there is none, or none to follow. */
enum status session_fixed_dtype(const struct manifest *man, const char *dir, bool overwrite,
                                char dtype[16], struct err *e) WARN_UNUSED;
/* Bytes that n streams of a generate job take, each with n_tok tokens at most. */
int64_t session_stream_bytes(const struct session *s, int n, int64_t n_tok);
/* Opens the devices and binds the model to them. Errors: E_DEVICE, with what to do; E_ARG; E_UNSUPPORTED
 * (several devices, and a job that uses one). */
enum status session_start(struct session *s, struct err *e) WARN_UNUSED;
void session_close(struct session *s);
/* What "auto" becomes for a model. */
enum dtype session_auto_dtype(const struct model *m);
/* Whether "auto" is int8 where a model writes, on a CPU. */
bool session_auto_int8(const struct model *m);

const char *session_dtype(const struct session *s);
/* The job as identity: what must be the same for results to belong together (ledger.h). */
enum status session_print_job(const struct session *s, struct sbuf *out, struct err *e) WARN_UNUSED;
/* Of a run, and of `plan`: the devices alone (session_devs.c). */
enum status session_open_devices(struct session *s, struct err *e) WARN_UNUSED;
/* Bytes that scoring takes on a device with spans of n_row rows, and of them the caches and the span. The
 * weights are at least the layer at work and the head, as operands. */
struct session_bytes {
    int64_t weights, cache, span;
};
void session_device_bytes(const struct session *s, int64_t n_row, int64_t longest,
                          struct session_bytes *out);
/* Fills what a worker on device i needs; the hooks are the caller's. */
void session_part_config(const struct session *s, int i, struct part_config *c);
/* Copies standard input to a file in `dir` when the plan has it as an input. */
enum status session_spool_stdin(struct session *s, const char *dir, struct err *e) WARN_UNUSED;

#endif
