/* What a job would take, before it is run: tokens from a sample of the text, time from a short probe of the
 * model on this machine, memory by adding up what will be allocated. */
#include "base/clock.h"
#include "base/mem.h"
#include "core/stream.h"
#include "io/file.h"
#include "jobs/session.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    SAMPLE_BYTES = 1 << 16,
    PROBE_ROWS = 512,
    PROBE_STREAMS = 8,
    PROBE_STEPS = 4,
    PROMPT_TOKENS = 4096,    /* of a dense prompt, where that decides about memory */
    PROCESS_BYTES = 6 << 20, /* program, libraries, stacks */
    READER_BYTES = 3 << 20,  /* buffers of input and of rows */
    BLOCK_BYTES = 4 << 20,   /* of a published frame: one block to read, one to write */
    ROW_BYTES = 17,          /* an id and a log-probability in a token row */
    TOKEN_BYTES = 256        /* of the tokenizer's tables per token, as measured */
};

/* Bytes of content that a byte of a compressed file is taken for: text with gzip or zstd's usual
 * levels comes to 3 or 4. */
static const double PACKED_RATIO = 3.5;

/* Documents per byte of JSON lines, from the beginning of the first such input. */
static double lines_per_byte(const struct session *s) {
    double result = 1.0 / 256;
    for (int i = 0; i < s->plan->n_slice; i++) {
        const struct corpus_file *f = &s->plan->slices[i].file;
        if (f->kind != CORPUS_JSONL || f->packing != UNPACK_NONE || f->size < 1) continue;
        struct sbuf piece;
        sbuf_init(&piece);
        const size_t n = f->size < SAMPLE_BYTES ? (size_t)f->size : SAMPLE_BYTES;
        if (file_read_piece(f->path, 0, n, &piece, NULL) == OK) {
            int64_t lines = piece.s[piece.n - 1] != '\n';
            for (size_t k = 0; k < piece.n; k++) lines += piece.s[k] == '\n';
            result = (double)(lines > 0 ? lines : 1) / (double)piece.n;
        }
        sbuf_fini(&piece);
        break;
    }
    return result;
}

/* Bytes of text a token stands for, from the beginning of the first text of the plan; 4 without one. */
static enum status sample_text(const struct session *s, double *bytes_per_token, struct err *e) {
    enum status st = OK;
    struct corpus *c = NULL;
    struct tok_stream *t = NULL;
    struct corpus_doc doc;
    char *text = NULL;
    bool end = false;
    int64_t bytes = 0, tokens = 0;
    *bytes_per_token = 4;
    if (s->tok == NULL) goto done;
    TRY(mem_zalloc(&text, SAMPLE_BYTES, 1, e));
    TRY(tok_stream_open(&t, s->tok, e));
    for (int i = 0; i < s->plan->n_slice && bytes == 0; i++) {
        const struct corpus_file *f = &s->plan->slices[i].file;
        if (f->ids_key != NULL || strcmp(f->source, "-") == 0 || f->size == 0) continue;
        TRY(corpus_open(&c, f, e));
        size_t n = 0;
        // A first document that cannot be read says nothing about the others: the default stays.
        if (corpus_next(c, &doc, &end, NULL) == OK && !end &&
            corpus_read_text(c, text, SAMPLE_BYTES, &n, NULL) == OK && n > 0 &&
            tok_feed(t, text, n, NULL) == OK && tok_finish(t, NULL) == OK) {
            int32_t ids[256];
            for (size_t got; (got = tok_take(t, ids, NULL, COUNTOF(ids))) > 0;)
                tokens += (int64_t)got;
            bytes = (int64_t)n;
        }
        corpus_close(c);
        c = NULL;
    }
    if (tokens > 0) *bytes_per_token = (double)bytes / (double)tokens;
done:
    corpus_close(c);
    tok_stream_close(t);
    mem_free(text);
    return st;
}

static double tokens_in(const struct session *s, const struct plan_slice *sl,
                        double bytes_per_token) {
    const bool packed = sl->file.packing != UNPACK_NONE;
    const double bytes = (double)plan_slice_bytes(sl) * (packed ? PACKED_RATIO : 1);
    const double tokens = bytes / (sl->file.ids_key != NULL ? 5 : bytes_per_token);
    const int64_t limit = s->man->score.limit_tokens;
    // A limit holds per document: it is only known to bite where a file is one document.
    return limit > 0 && sl->file.kind == CORPUS_TXT && tokens > (double)limit ? (double)limit
                                                                              : tokens;
}

/* Seconds a row takes, all settings together and once the caches are full, from two blocks of the model. */
static enum status probe(const struct session *s, int device, double *seconds_per_row,
                         struct err *e) {
    enum status st = OK;
    struct span *sp = NULL;
    struct cache *c = NULL;
    int32_t ids[PROBE_ROWS + 1] = {0};
    const int64_t n_vocab = model_arch(s->model)->n_vocab;
    for (int i = 0; i <= PROBE_ROWS; i++) ids[i] = (int32_t)((i * 7919LL) % n_vocab);
    const struct vis_rule rule = part_rule(&s->man->settings[0]);
    TRY(span_open(&sp, s->devs[device].mo, PROBE_ROWS, e));
    TRY(cache_open(&c, s->devs[device].mo, &rule, e));
    double best = 0;
    for (int i = 0; i < 3; i++) {
        int64_t row = 0;
        const int64_t t0 = clock_ns();
        TRY(span_add(sp, c, ids, ids + 1, PROBE_ROWS, true, &row, e));
        TRY(span_run(sp, NULL, e));
        span_clear(sp);
        const double took = (double)(clock_ns() - t0) / 1e9;
        if (i == 0 || took < best) best = took;
    }
    *seconds_per_row = best / PROBE_ROWS;
done:
    cache_close(c);
    span_close(sp);
    return st;
}

/* Seconds a step of the stream engine takes for one of its streams, with so many of them. */
static enum status probe_streams(const struct session *s, double *seconds_per_token,
                                 struct err *e) {
    enum status st = OK;
    struct stream *engine = NULL;
    struct cache *c = NULL;
    struct stream_past *past = NULL;
    struct stream_how how;
    const struct vis_rule rule = part_rule(&s->man->settings[0]);
    const int n = s->n_stream < PROBE_STREAMS ? s->n_stream : PROBE_STREAMS;
    const struct stream_config sc = {.n_stream = n};
    const int32_t id = 0;
    stream_how_init(&how);
    how.max_new = PROBE_STEPS + 1;
    const struct model_on *mo = s->step_mo != NULL ? s->step_mo : s->devs[0].mo;
    TRY(stream_open(&engine, mo, &sc, e));
    TRY(cache_open(&c, s->devs[0].mo, &rule, e));
    for (int i = 0; i < n; i++) {
        int slot = 0;
        TRY(stream_past_open(&past, mo, &how, e));
        const struct stream_entry in = {.cache = c, .past = &past, .how = &how, .ids = &id, .n = 1};
        TRY(stream_enter(engine, &in, &slot, e));
    }
    double best = 0;
    for (int i = 0; i < PROBE_STEPS; i++) {
        const int64_t t0 = clock_ns();
        TRY(stream_step(engine, NULL, e));
        const double took = (double)(clock_ns() - t0) / 1e9;
        if (i == 0 || took < best) best = took;
    }
    *seconds_per_token = best / n;
done:
    stream_past_close(past);
    cache_close(c);
    stream_close(engine);
    return st;
}

/* What a generate job adds: answers as long as they may be. */
static enum status estimate_answers(const struct session *s, double documents,
                                    struct run_estimate *est, struct err *e) {
    enum status st = OK;
    const int64_t max_new = s->man->generate.max_new_tokens;
    const double most = documents * (double)s->man->n_settings * (double)max_new;
    double seconds_per_token = 0;
    TRY(probe_streams(s, &seconds_per_token, e));
    est->streams = s->n_stream;
    est->documents = (int64_t)(documents + 0.5);
    est->tokens_most = most < 9e18 ? (int64_t)most : INT64_MAX;
    est->seconds += most * seconds_per_token;
    est->stream_bytes = session_stream_bytes(s, s->n_stream, PROMPT_TOKENS + max_new);
    const int64_t weights = stream_weights_bytes(s->model, s->compute == DT_BF16 ? 2 : 4);
    // Its prompts' caches come and go; a checkpoint is in memory once more while a run takes it up.
    est->memory_bytes += est->stream_bytes + weights + est->stream_bytes;
    est->weights_bytes += weights;
done:
    return st;
}

static void estimate_memory(const struct session *s, double longest, struct run_estimate *est) {
    const size_t word = s->compute == DT_BF16 ? 2 : 4;
    struct session_bytes b;
    bool cpu = false;
    est->n_device = s->n_dev < RUN_DEVICES ? s->n_dev : RUN_DEVICES;
    for (int i = 0; i < est->n_device; i++) {
        const struct session_dev *v = &s->devs[i];
        struct run_device *x = &est->devices[i];
        const bool gpu = strcmp(dev_kind(v->dev), "cuda") == 0;
        cpu |= !gpu;
        session_device_bytes(s, v->n_row, (int64_t)longest, &b);
        snprintf(x->name, sizeof x->name, "%s", v->name);
        snprintf(x->device, sizeof x->device, "%s", dev_describe(v->dev));
        x->span_rows = v->n_row;
        x->free_bytes = v->free_bytes;
        x->total_bytes = v->total_bytes;
        x->weights_bytes = gpu ? b.weights : span_weights_bytes(s->model, word);
        if (gpu && x->weights_bytes < model_file_bytes(s->model)) // kept while there is room
            x->weights_bytes = model_file_bytes(s->model);
        x->cache_bytes = b.cache;
        x->span_bytes = b.span;
        x->memory_bytes = x->weights_bytes + b.cache + b.span;
    }
    const struct run_device *first = &est->devices[0];
    est->weights_bytes = first->weights_bytes;
    est->cache_bytes = first->cache_bytes;
    est->span_bytes = first->span_bytes;
    const double lines = man_wants_tokens(s->man) ? longest * ROW_BYTES : 0;
    const int64_t publish = 2 * (lines < BLOCK_BYTES ? (int64_t)lines : BLOCK_BYTES);
    est->memory_bytes = PROCESS_BYTES + READER_BYTES + publish +
                        (int64_t)(s->tok != NULL ? (int64_t)tok_n_vocab(s->tok) * TOKEN_BYTES : 0);
    for (int i = 0; i < est->n_device; i++) { // a GPU's share is not the process's
        if (strncmp(est->devices[i].name, "cuda", 4) != 0)
            est->memory_bytes += est->devices[i].memory_bytes;
    }
    if (!cpu) est->memory_bytes += model_file_bytes(s->model);
}

static bool has_results(const char *dir, int part, int n_part) {
    char name[LEDGER_NAME], path[4096];
    ledger_name(name, LEDGER_RESULTS, part, n_part);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

struct sums {
    double tokens, documents; /* left to do */
    double longest;           /* tokens of a slice */
};

static void count_parts(const struct session *s, const int *rank_of_part, const char *dir,
                        double bytes_per_token, struct run_estimate *est, struct sums *sums,
                        struct sbuf *table) {
    const struct plan *p = s->plan;
    const double per_byte = lines_per_byte(s);
    for (int i = 0; i < p->n_part; i++) {
        const bool mine = rank_of_part[i] == s->o->rank.i, done = has_results(dir, i, p->n_part);
        const int64_t bytes = p->parts[i].bytes > 0 ? p->parts[i].bytes : 0;
        double n = 0, documents = 0;
        for (int k = 0; k < p->parts[i].n_slice; k++) {
            const double t = tokens_in(s, &p->slices[p->parts[i].first_slice + k], bytes_per_token);
            const struct plan_slice *sl = &p->slices[p->parts[i].first_slice + k];
            sums->longest = t > sums->longest ? t : sums->longest;
            n += t;
            documents += sl->file.kind == CORPUS_TXT ? 1 : (double)plan_slice_bytes(sl) * per_byte;
        }
        est->bytes += bytes;
        est->n_published += done;
        if (mine) {
            est->n_mine++;
            est->bytes_mine += bytes;
            if (!done) {
                est->bytes_left += bytes;
                sums->tokens += n * (double)s->man->n_settings;
                sums->documents += documents;
            }
        }
        if (table != NULL) {
            struct ledger_mark mark;
            const char *state = done ? "done" : ledger_peek(dir, i, &mark) ? "begun" : "to do";
            sbuf_printf(table, "%d\t%d\t%lld\t%.0f\t%s\t%s\n", i, rank_of_part[i], (long long)bytes,
                        n, state, p->slices[p->parts[i].first_slice].file.source);
        }
    }
}

enum status run_plan(const struct manifest *man, const struct run_options *o,
                     struct run_estimate *est, struct sbuf *parts_table, struct err *e) {
    enum status st = OK;
    struct session s;
    struct sbuf dir, job;
    char dtype[16] = "";
    int *rank_of_part = NULL;
    struct sums sums = {0};
    double rows_per_second = 0;
    memset(est, 0, sizeof *est);
    memset(&s, 0, sizeof s);
    sbuf_init(&dir);
    sbuf_init(&job);
    if (man->output.path != NULL) {
        man_path(man, man->output.path, &dir);
        TRY(session_fixed_dtype(man, sbuf_str(&dir), o->overwrite, dtype, e));
    }
    TRY(session_open(&s, man, o, dtype[0] != '\0' ? dtype : NULL, e));
    if (man->output.path != NULL) {
        TRY(session_print_job(&s, &job, e));
        TRY(ledger_match_job(sbuf_str(&dir), sbuf_str(&job), s.plan->n_part, e));
    }
    TRY(session_start(&s, e));
    est->n_part = s.plan->n_part;
    TRY(mem_zalloc(&rank_of_part, (size_t)s.plan->n_part, sizeof(int), e));
    TRY(plan_deal(s.plan, o->rank.n, rank_of_part, e));
    TRY(sample_text(&s, &est->bytes_per_token, e));
    for (int i = 0; i < s.n_dev; i++) {
        double seconds = 0;
        TRY(probe(&s, i, &seconds, e));
        if (seconds > 0) rows_per_second += 1 / seconds;
    }
    count_parts(&s, rank_of_part, sbuf_str(&dir), est->bytes_per_token, est, &sums, parts_table);
    est->tokens = (int64_t)sums.tokens;
    est->seconds = rows_per_second > 0 ? sums.tokens / rows_per_second : 0;
    est->span_rows = s.n_row;
    estimate_memory(&s, sums.longest, est);
    if (man->job == MAN_GENERATE) TRY(estimate_answers(&s, sums.documents, est, e));
    snprintf(est->device, sizeof est->device, "%s", dev_describe(s.devs[0].dev));
    snprintf(est->dtype, sizeof est->dtype, "%s", session_dtype(&s));
    if (parts_table != NULL) TRY(sbuf_status(parts_table, e));
done:
    mem_free(rank_of_part);
    session_close(&s);
    sbuf_fini(&dir);
    sbuf_fini(&job);
    return st;
}
