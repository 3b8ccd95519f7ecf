#include "jobs/bench.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/num.h"
#include "core/stream.h"
#include "jobs/doc.h"
#include "jobs/session.h"

#include <stdio.h>
#include <string.h>

enum { MOST_STREAMS = 32, MOST_CACHE = 4096 }; // that memory is counted for

struct bench {
    const char *path;    /* borrowed; NULL: a shape */
    struct model *model; /* owned, as everything below */
    struct dev *dev;
    struct model_on *mo;
    struct dev *step_dev;
    struct model_on *step_mo;
    struct span *span;
    int64_t n_row;
    int32_t *ids;                 /* [n_row + 1] */
    const char *name, *step_name; /* static, or the caller's: dtypes of scoring and of writing */
    enum dtype dtype;
};

/* ---- devices ---- */

enum status bench_parse_device(const char *name, int *gpu, struct err *e) {
    int64_t ordinal = 0;
    *gpu = -1;
    if (strcmp(name, "cpu") == 0) return OK;
    if (strchr(name, ',') != NULL)
        return err_fail(e, E_ARG, "--devices %s: one device is measured at a time", name);
    if (strcmp(name, "cuda") != 0 &&
        (strncmp(name, "cuda:", 5) != 0 || !num_parse_int(name + 5, 4095, &ordinal)))
        return err_fail(e, E_ARG, "--devices %s: must be cpu or cuda (or cuda:N)", name);
    *gpu = (int)ordinal;
    return OK;
}

// how: dtypes and purpose.
static enum status open_device(struct dev **out, const struct bench_on *on,
                               const struct dev_config *how, struct err *e) {
    struct dev_config c = *how;
    c.n_thread = on->n_thread;
    c.isa = on->isa;
    if (on->gpu < 0) return dev_open_cpu(out, &c, e);
    const enum status st = dev_open_cuda(out, on->gpu, &c, e);
    if (st != E_UNSUPPORTED) return st;
    if (e != NULL) e->code = E_DEVICE; // built without
    return E_DEVICE;
}

static bool is_int8(const char *dtype) {
    return strcmp(dtype, "int8") == 0;
}

static struct dev_config config_of(const char *dtype) {
    return (struct dev_config){.compute = strcmp(dtype, "f32") == 0 ? DT_F32 : DT_BF16,
                               .int8 = is_int8(dtype)};
}

enum status bench_peak(struct bench_peak *out, const char *dtype, const struct bench_on *on,
                       double seconds, struct err *e) {
    enum status st = OK;
    struct dev *d = NULL;
    struct dev_peaks peaks;
    const struct dev_config c = config_of(dtype);
    TRY(open_device(&d, on, &c, e));
    TRY(dev_measure(d, seconds, &peaks, e));
    *out = (struct bench_peak){.dtype = dtype,
                               .n_thread = on->n_thread,
                               .flops = peaks.flops,
                               .read_bytes = peaks.read_bytes};
    snprintf(out->device, sizeof out->device, "%s", dev_describe(d));
done:
    dev_close(d);
    return st;
}

/* ---- opening ---- */

// Bytes that a model, its engines and their caches take, as far as measuring goes: at most, for layers that see
// less have smaller caches.
static int64_t bytes_of(const struct bench *b, bool gpu) {
    static const int class_of_layer[ARCH_MAX_LAYERS];
    static const struct vis_class all = {.window = 0};
    const struct arch *a = model_arch(b->model);
    const int64_t word = b->dtype == DT_BF16 ? 2 : 4;
    const struct vis_rule rule = {.n_sink = 4, .n_win = MOST_CACHE / 4, .n_chunk = 1};
    const struct stream_config sc = {.n_stream = MOST_STREAMS};
    const struct stream_size size = {.arch = a,
                                     .classes = &all,
                                     .class_of_layer = class_of_layer,
                                     .rule = &rule,
                                     .n_tok = MOST_CACHE,
                                     .kv_bytes = (size_t)word};
    // A GPU holds the weights once; what it expands of them, and the rooms of an MLP, come on top.
    const int64_t wide = a->d_ff > a->d_model ? a->d_ff : a->d_model;
    const int64_t weights =
        gpu ? model_file_bytes(b->model) + (word == 4 ? wide * a->d_model * word : 0)
            : stream_weights_bytes(b->model, (size_t)word);
    const int64_t rooms = gpu ? b->n_row * wide * (2 * 4 + word) : 0;
    return weights + rooms + span_bytes(a, b->n_row, MOST_CACHE, (size_t)word) +
           stream_bytes(&sc, &size);
}

// Said before anything is taken: what the shape does not leave room for.
static enum status check_memory(const struct bench *b, const struct bench_config *c,
                                struct err *e) {
    const int64_t left = c->memory_left > 0 ? c->memory_left : dev_memory(b->dev).free_bytes;
    const int64_t need = bytes_of(b, c->on.gpu >= 0);
    if (need <= left) return OK;
    return err_fail(e, E_NOMEM,
                    "%s in %s takes %.1f GB with its caches, and %.1f GB are left: take a smaller "
                    "shape",
                    c->shape, dtype_name(b->dtype), (double)need * 1e-9, (double)left * 1e-9);
}

static enum status open_model(struct bench *b, const struct bench_config *c, struct err *e) {
    enum status st = OK;
    TRY(c->shape != NULL ? model_open_shape(&b->model, c->shape, 0, e)
                         : model_open(&b->model, c->model, e));
    const bool chosen = strcmp(c->dtype, "auto") == 0;
    b->name = chosen ? dtype_name(session_auto_dtype(b->model)) : c->dtype;
    b->step_name = chosen && c->on.gpu < 0 && session_auto_int8(b->model) ? "int8" : b->name;
    const struct dev_config how = config_of(b->name);
    b->dtype = how.compute;
    TRY(open_device(&b->dev, &c->on, &how, e));
    if (c->shape == NULL) goto done;
    TRY(check_memory(b, c, e));
    if (dev_makes(b->dev)) goto done;
    model_close(b->model);
    b->model = NULL;
    TRY(model_open_shape(&b->model, c->shape, c->on.n_thread, e));
done:
    return st;
}

enum status bench_open(struct bench **out, const struct bench_config *c, struct err *e) {
    enum status st = OK;
    struct bench *b = NULL;
    *out = NULL;
    TRY(mem_zalloc(&b, 1, sizeof *b, e));
    b->path = c->shape == NULL ? c->model : NULL;
    b->n_row = c->n_row > 0 ? c->n_row : SESSION_ROWS;
    TRY(open_model(b, c, e));
    TRY(model_on_open(&b->mo, b->model, b->dev, e));
    struct dev_config steps = config_of(b->step_name);
    steps.purpose = DEV_STEPS;
    TRY(open_device(&b->step_dev, &c->on, &steps, e));
    TRY(model_on_open(&b->step_mo, b->model, b->step_dev, e));
    TRY(span_open(&b->span, b->mo, b->n_row, e));
    TRY(mem_zalloc(&b->ids, (size_t)b->n_row + 1, sizeof *b->ids, e));
    // Which tokens they are does not matter to the speed, but rows of one token would share a
    // row of the embedding.
    const int64_t n_vocab = model_arch(b->model)->n_vocab;
    for (int64_t i = 0; i <= b->n_row; i++) b->ids[i] = (int32_t)((i * 7919) % n_vocab);
    *out = b;
    b = NULL;
done:
    bench_close(b);
    return st;
}

void bench_close(struct bench *b) {
    if (b == NULL) return;
    mem_free(b->ids);
    span_close(b->span);
    model_on_close(b->step_mo);
    dev_close(b->step_dev);
    model_on_close(b->mo);
    dev_close(b->dev);
    model_close(b->model);
    mem_free(b);
}

const char *bench_dtype(const struct bench *b) {
    return b->name;
}

const char *bench_step_dtype(const struct bench *b) {
    return b->step_name;
}

const struct model *bench_model(const struct bench *b) {
    return b->model;
}

const char *bench_device(const struct bench *b) {
    return dev_describe(b->dev);
}

int64_t bench_span_rows(const struct bench *b) {
    return b->n_row;
}

// Adds what the token at `pos`, one of `n` that are averaged, needs: two operations for each weight of a
// layer's matrices, and for each key its score and its value.
static void count_flops(const struct bench *b, const struct vis_rule *rule, int64_t pos, int64_t n,
                        double flops[DEV_STAGE_COUNT]) {
    const double share = 1.0 / (double)n;
    const struct arch *a = model_arch(b->model);
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        if (arch_use(t->role) != WT_MATRIX || t->role == ARCH_HEAD || !arch_has(a, t)) continue;
        const struct arch_place p = arch_place(a, t->role, t->part);
        flops[DEV_LINEAR] += share * 2.0 * (double)a->n_layer * (double)p.n_out * (double)p.n_in;
    }
    for (int64_t l = 0; l < a->n_layer; l++) {
        const struct vis_class *c = &b->mo->classes[b->mo->class_of_layer[l]];
        const int64_t keys = vis_query_pos(rule, c, pos) + 1;
        flops[DEV_ATTEND] += share * 4.0 * (double)(a->n_head * a->d_head) * (double)keys;
    }
    flops[DEV_HEAD] += share * 2.0 * (double)a->n_vocab * (double)a->d_model;
}

// A span that is run again and again: one long document, or documents of their own.
struct timed {
    struct bench *b;
    struct cache **c; /* [n_doc] */
    const struct vis_rule *rule;
    int64_t n_tok, n_doc;
    bool keep;
};

static enum status once(const struct timed *t, struct err *e) {
    enum status st = OK;
    int64_t row = 0;
    for (int64_t i = 0; i < t->n_doc; i++) {
        if (!t->keep) TRY(cache_open(&t->c[i], t->b->mo, t->rule, e));
        TRY(span_add(t->b->span, t->c[i], t->b->ids, t->b->ids + 1, t->n_tok, t->keep, &row, e));
    }
    TRY(span_run(t->b->span, NULL, e));
done:
    span_clear(t->b->span);
    for (int64_t i = 0; i < t->n_doc && !t->keep; i++) {
        cache_close(t->c[i]);
        t->c[i] = NULL;
    }
    return st;
}

static enum status timed(const struct timed *t, double seconds, struct bench_speed *out,
                         struct err *e) {
    enum status st = OK;
    double before[DEV_STAGE_COUNT], after[DEV_STAGE_COUNT], known = 0;
    dev_times(t->b->dev, before);
    const int64_t t0 = clock_ns();
    do {
        TRY(once(t, e));
        out->tokens += t->n_tok * t->n_doc;
        out->seconds = 1e-9 * (double)(clock_ns() - t0);
    } while (out->seconds < seconds);
    dev_times(t->b->dev, after);
    for (int i = 0; i < DEV_OTHER; i++) {
        out->stage[i] = after[i] - before[i];
        known += out->stage[i];
    }
    out->stage[DEV_OTHER] = out->seconds - known;
done:
    return st;
}

enum status bench_score(struct bench *b, int64_t n_sink, int64_t n_win, double seconds,
                        struct bench_speed *out, struct err *e) {
    enum status st = OK;
    struct cache *c = NULL;
    const struct vis_rule rule = {.n_sink = n_sink, .n_win = n_win, .n_chunk = 1};
    const struct timed t = {b, &c, &rule, b->n_row, 1, true};
    *out = (struct bench_speed){.n_sink = n_sink, .n_win = n_win};
    TRY(cache_open(&c, b->mo, &rule, e));
    while (cache_pos(c) <= n_sink + n_win) TRY(once(&t, e));
    count_flops(b, &rule, cache_pos(c), 1, out->flops);
    TRY(timed(&t, seconds, out, e));
done:
    cache_close(c);
    return st;
}

enum status bench_documents(struct bench *b, int64_t n_sink, int64_t n_win, int64_t n_tok,
                            double seconds, struct bench_speed *out, struct err *e) {
    enum status st = OK;
    struct cache **c = NULL;
    const struct vis_rule rule = {.n_sink = n_sink, .n_win = n_win, .n_chunk = 1};
    const int64_t n_doc = b->n_row / n_tok;
    const struct timed t = {b, NULL, &rule, n_tok, n_doc, false};
    *out = (struct bench_speed){.n_sink = n_sink, .n_win = n_win};
    TRY(mem_zalloc(&c, (size_t)n_doc, sizeof *c, e));
    for (int64_t i = 0; i < n_tok; i++) count_flops(b, &rule, i, n_tok, out->flops);
    struct timed with = t;
    with.c = c;
    TRY(once(&with, e)); // memory grows once
    TRY(timed(&with, seconds, out, e));
done:
    mem_free(c);
    return st;
}

/* ---- writing on ---- */

// Bytes of the matrices as they are stored; a tied embedding is read as the head.
static double matrix_bytes(const struct bench *b) {
    struct model_entry m;
    double sum = 0;
    for (size_t i = 0; model_entry_at(b->model, i, &m); i++) {
        if (m.use == NULL) continue;
        const bool head = m.use->role == ARCH_EMBED && model_arch(b->model)->tied;
        if (head || arch_use(m.use->role) == WT_MATRIX) sum += (double)m.bytes;
    }
    return sum;
}

// Fills every slot; `how` lives as long as the streams.
static enum status fill_streams(struct bench *b, struct stream *engine, const struct cache *c,
                                const struct stream_how *how, struct err *e) {
    enum status st = OK;
    struct stream_past *past = NULL;
    int slot = 0;
    for (int i = 0; stream_room(engine) > 0; i++) {
        TRY(stream_past_open(&past, b->step_mo, how, e));
        const struct stream_entry in = {
            .cache = c, .past = &past, .how = how, .ids = b->ids + i % b->n_row, .n = 1};
        TRY(stream_enter(engine, &in, &slot, e));
    }
done:
    stream_past_close(past);
    return st;
}

enum status bench_steps(struct bench *b, int n_stream, int64_t n_sink, int64_t n_win,
                        double seconds, struct bench_steps *out, struct err *e) {
    enum status st = OK;
    struct stream *engine = NULL;
    struct cache *c = NULL;
    const struct vis_rule rule = {.n_sink = n_sink, .n_win = n_win, .n_chunk = 1};
    const struct timed t = {b, &c, &rule, b->n_row, 1, true};
    const struct stream_config sc = {.n_stream = n_stream};
    struct stream_how how;
    double flops[DEV_STAGE_COUNT] = {0};
    stream_how_init(&how);
    how.max_new = INT64_MAX / 2;
    *out = (struct bench_steps){.n_stream = n_stream, .n_sink = n_sink, .n_win = n_win};
    TRY(cache_open(&c, b->mo, &rule, e));
    while (cache_pos(c) <= n_sink + n_win) TRY(once(&t, e));
    TRY(stream_open(&engine, b->step_mo, &sc, e));
    TRY(fill_streams(b, engine, c, &how, e));
    count_flops(b, &rule, cache_pos(c), 1, flops);
    out->flops = n_stream * (flops[DEV_LINEAR] + flops[DEV_ATTEND] + flops[DEV_HEAD]);
    // A key has n_kv * d_head elements, as has a value; a token sees 4 operations for each, by query heads.
    const struct arch *a = model_arch(b->model);
    const double cache_bytes = flops[DEV_ATTEND] / 4 * 2 * (b->dtype == DT_BF16 ? 2 : 4) *
                               (double)a->n_kv / (double)a->n_head;
    out->read_bytes = matrix_bytes(b) + n_stream * cache_bytes;
    TRY(stream_step(engine, NULL, e));
    const int64_t t0 = clock_ns();
    do {
        TRY(stream_step(engine, NULL, e));
        out->tokens += n_stream;
        out->seconds = 1e-9 * (double)(clock_ns() - t0);
    } while (out->seconds < seconds);
done:
    stream_close(engine);
    cache_close(c);
    return st;
}

/* ---- the way in and out ---- */

static const char english[] =
    "A document goes through the layers a block of thousands of rows at a time; only the keys and "
    "values of the first few tokens, and of the last thousand, pass from one block to the next. "
    "\"How long is it?\" they asked, in 1997, and nobody knew: 12,345 pages, perhaps more.\n";

static enum status tokenize(const struct tok *tok, double seconds, struct bench_text *out,
                            struct err *e) {
    enum status st = OK;
    struct tok_stream *s = NULL;
    int32_t ids[512];
    int64_t bytes = 0, tokens = 0, took = 0;
    TRY(tok_stream_open(&s, tok, e));
    const int64_t t0 = clock_ns();
    while ((double)took < seconds * 1e9) {
        TRY(tok_feed(s, english, sizeof english - 1, e));
        bytes += (int64_t)sizeof english - 1;
        for (size_t n = 1; n > 0; tokens += (int64_t)n) n = tok_take(s, ids, NULL, COUNTOF(ids));
        took = clock_ns() - t0 + 1;
    }
    out->tokenizer_bytes = (double)bytes * 1e9 / (double)took;
    out->tokenizer_tokens = (double)tokens * 1e9 / (double)took;
done:
    tok_stream_close(s);
    return st;
}

static enum status print_rows(const struct bench *b, double seconds, struct bench_text *out,
                              struct err *e) {
    enum status st = OK;
    struct doc_track track = {0};
    struct doc d = {.id = NULL, .source = "bench", .tracks = &track, .n_setting = 1};
    char name[] = "sink";
    struct man_setting setting = {.name = name};
    struct sbuf line;
    char id[] = "bench";
    int64_t tokens = 0, took = 0;
    sbuf_init(&line);
    d.id = id;
    TRY(doc_open_block(&d, e));
    for (int i = 0; i < DOC_BLOCK; i++) {
        d.block_ids[i] = b->ids[i % b->n_row];
        track.logp[i] = num_round_f32(-0.001 * (double)((i * 7919LL) % 10007));
    }
    const int64_t t0 = clock_ns();
    for (; (double)took < seconds * 1e9; tokens += DOC_BLOCK) {
        sbuf_clear(&line);
        doc_print_tokens(&d, &setting, &track, DOC_BLOCK, DOC_BLOCK, &line);
        TRY(sbuf_status(&line, e));
        took = clock_ns() - t0 + 1;
    }
    out->row_tokens = (double)tokens * 1e9 / (double)took;
done:
    mem_free(d.block_ids);
    mem_free(track.logp);
    sbuf_fini(&line);
    return st;
}

enum status bench_text(struct bench *b, double seconds, struct bench_text *out, struct err *e) {
    enum status st = OK;
    struct tok *tok = NULL;
    *out = (struct bench_text){0};
    if (b->path != NULL && tok_open(&tok, b->path, NULL) == OK) TRY(tokenize(tok, seconds, out, e));
    TRY(print_rows(b, seconds, out, e));
done:
    tok_close(tok);
    return st;
}
