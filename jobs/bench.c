#include "jobs/bench.h"

#include "base/clock.h"
#include "base/mem.h"
#include "jobs/session.h"

#include <stdio.h>
#include <string.h>

struct bench {
    struct model *model; /* owned, as everything below */
    struct dev *dev;
    struct model_on *mo;
    struct span *span;
    int32_t *ids; /* [SESSION_ROWS + 1] */
    enum dtype dtype;
};

enum status bench_peak(struct bench_peak *out, enum dtype dtype, enum cpu_isa isa, int n_thread,
                       double seconds, struct err *e) {
    enum status st = OK;
    struct dev *d = NULL;
    struct dev_peaks peaks;
    const struct dev_config c = {.n_thread = n_thread, .isa = isa, .compute = dtype};
    TRY(dev_open_cpu(&d, &c, e));
    TRY(dev_measure(d, seconds, &peaks, e));
    *out = (struct bench_peak){
        .dtype = dtype, .n_thread = n_thread, .flops = peaks.flops, .read_bytes = peaks.read_bytes};
    snprintf(out->device, sizeof out->device, "%s", dev_describe(d));
done:
    dev_close(d);
    return st;
}

enum status bench_open(struct bench **out, const char *model, const char *dtype, enum cpu_isa isa,
                       int n_thread, struct err *e) {
    enum status st = OK;
    struct bench *b = NULL;
    *out = NULL;
    TRY(mem_zalloc(&b, 1, sizeof *b, e));
    TRY(model_open(&b->model, model, e));
    b->dtype = strcmp(dtype, "f32") == 0    ? DT_F32
               : strcmp(dtype, "bf16") == 0 ? DT_BF16
                                            : session_auto_dtype(b->model);
    const struct dev_config c = {.n_thread = n_thread, .isa = isa, .compute = b->dtype};
    TRY(dev_open_cpu(&b->dev, &c, e));
    TRY(model_on_open(&b->mo, b->model, b->dev, e));
    TRY(span_open(&b->span, b->mo, SESSION_ROWS, e));
    TRY(mem_zalloc(&b->ids, SESSION_ROWS + 1, sizeof *b->ids, e));
    // Which tokens they are does not matter to the speed, but rows of one token would share a
    // row of the embedding.
    const int64_t n_vocab = model_arch(b->model)->n_vocab;
    for (int i = 0; i <= SESSION_ROWS; i++) b->ids[i] = (int32_t)((i * 7919LL) % n_vocab);
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
    model_on_close(b->mo);
    dev_close(b->dev);
    model_close(b->model);
    mem_free(b);
}

enum dtype bench_dtype(const struct bench *b) {
    return b->dtype;
}

const struct model *bench_model(const struct bench *b) {
    return b->model;
}

int64_t bench_span_rows(const struct bench *b) {
    (void)b;
    return SESSION_ROWS;
}

// Two operations for each weight of a layer's matrices, and for each key: its score and its value.
static void count_flops(const struct bench *b, const struct vis_rule *rule, int64_t pos,
                        double flops[DEV_STAGE_COUNT]) {
    const struct arch *a = model_arch(b->model);
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        if (arch_use(t->role) != WT_MATRIX || t->role == ARCH_HEAD || !arch_has(a, t)) continue;
        const struct arch_place p = arch_place(a, t->role, t->part);
        flops[DEV_LINEAR] += 2.0 * (double)a->n_layer * (double)p.n_out * (double)p.n_in;
    }
    for (int64_t l = 0; l < a->n_layer; l++) {
        const struct vis_class *c = &b->mo->classes[b->mo->class_of_layer[l]];
        const int64_t keys = vis_query_pos(rule, c, pos) + 1;
        flops[DEV_ATTEND] += 4.0 * (double)(a->n_head * a->d_head) * (double)keys;
    }
    flops[DEV_HEAD] = 2.0 * (double)a->n_vocab * (double)a->d_model;
}

static enum status run_span(struct bench *b, struct cache *c, struct err *e) {
    enum status st = OK;
    int64_t row = 0;
    TRY(span_add(b->span, c, b->ids, b->ids + 1, SESSION_ROWS, true, &row, e));
    TRY(span_run(b->span, NULL, e));
done:
    span_clear(b->span);
    return st;
}

enum status bench_score(struct bench *b, int64_t n_sink, int64_t n_win, double seconds,
                        struct bench_speed *out, struct err *e) {
    enum status st = OK;
    struct cache *c = NULL;
    const struct vis_rule rule = {.n_sink = n_sink, .n_win = n_win, .n_chunk = 1};
    double before[DEV_STAGE_COUNT], after[DEV_STAGE_COUNT], known = 0;
    *out = (struct bench_speed){.n_sink = n_sink, .n_win = n_win};
    TRY(cache_open(&c, b->mo, &rule, e));
    while (cache_pos(c) <= n_sink + n_win) TRY(run_span(b, c, e));
    count_flops(b, &rule, cache_pos(c), out->flops);
    dev_times(b->dev, before);
    const int64_t t0 = clock_ns();
    do {
        TRY(run_span(b, c, e));
        out->tokens += SESSION_ROWS;
        out->seconds = 1e-9 * (double)(clock_ns() - t0);
    } while (out->seconds < seconds);
    dev_times(b->dev, after);
    for (int i = 0; i < DEV_OTHER; i++) {
        out->stage[i] = after[i] - before[i];
        known += out->stage[i];
    }
    out->stage[DEV_OTHER] = out->seconds - known;
done:
    cache_close(c);
    return st;
}
