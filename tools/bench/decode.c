/* What a step of 1, 8 and 32 streams costs on a handle for steps, with SmolLM2-135M's shapes and random
 * weights: linear layers, attention over a full cache, head. For people; prints Markdown tables. CPU time
 * of the process over its threads counts, the best of several repetitions, because the machine may be
 * shared; "of read" is the share of a plain loop's rate over as many bytes.
 *
 * build: make build/release/tools/bench/decode
 * run: build/release/tools/bench/decode [threads [portable|avx2|avx512|amx]] */
#include "base/mem.h"
#include "kernels/cpu/cpu_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    REPEAT = 7,
    LAYERS = 30,
    D = 576,
    KV = 192,
    FF = 1536,
    VOCAB = 49152,
    KEYS = 1024,
    HEADS = 9
};

static const struct shape {
    int n_out, n_in;
} shapes[] = {{D, D}, {KV, D}, {KV, D}, {D, D}, {FF, D}, {FF, D}, {D, FF}};

static int n_thread = 1;
static enum cpu_isa isa;

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return ((double)t.tv_sec + 1e-9 * (double)t.tv_nsec) / n_thread;
}

static void ok(enum status st, const struct err *e) {
    if (st == OK) return;
    fprintf(stderr, "%s\n", e->msg);
    exit(1);
}

static void *memory(size_t n) {
    void *p = malloc(n);
    if (p == NULL) exit(1);
    return p;
}

static struct dev *open_steps(enum dtype compute, bool int8) {
    struct dev *d = NULL;
    struct err e = {0};
    const struct dev_config c = {
        .n_thread = n_thread, .isa = isa, .compute = compute, .purpose = DEV_STEPS, .int8 = int8};
    ok(dev_open_cpu(&d, &c, &e), &e);
    return d;
}

// Random bytes; the scales of quantized blocks, and floats, are small and finite.
static unsigned char *stored(enum dtype type, int64_t n) {
    const size_t bytes = dtype_row_bytes(type, n), block = dtype_bytes(type);
    unsigned char *p = memory(bytes);
    uint32_t x = 1;
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    for (size_t i = 0; i < bytes; i += block) {
        const size_t d = type == DT_Q6_K ? 208 : type == DT_F32 ? 2 : 0;
        p[i + d + 1] = (unsigned char)(0x20 + p[i + d + 1] % 8);
        if (block > 3) p[i + (type == DT_Q6_K ? 0 : 3)] &= 0x27;
    }
    return p;
}

static struct wt *weight(struct dev *d, enum dtype type, int64_t n_out, int64_t n_in,
                         unsigned char **data) {
    struct wt *w = NULL;
    struct err e = {0};
    *data = stored(type, n_out * n_in);
    ok(dev_weight_new(&w, d, WT_MATRIX,
                      &(struct dev_weight_src){.name = "w",
                                               .data = *data,
                                               .dtype = type,
                                               .n_out = n_out,
                                               .n_in = n_in,
                                               .n_stored_rows = n_out,
                                               .block = n_out},
                      &e),
       &e);
    dev_weights_prepare(d, &w, 1);
    ok(dev_sync(d, &e), &e);
    return w;
}

static struct buf *buffer(struct dev *d, enum buf_kind kind, int64_t rows, int64_t cols) {
    struct buf *b = NULL;
    struct err e = {0};
    ok(buf_new(&b, d, kind, rows, cols, &e), &e);
    if (kind != BUF_ACT && kind != BUF_KV) return b;
    const size_t n = (size_t)(rows * cols);
    for (size_t i = 0; i < n; i++) {
        const float x = (float)(rand() % 2001 - 1000) * 1e-3f;
        if (b->dtype == DT_BF16)
            ((bf16_t *)b->data)[i] = dtype_f32_to_bf16(x);
        else
            ((float *)b->data)[i] = x;
    }
    return b;
}

// Seconds to read so many bytes once, in lines.
typedef uint64_t line __attribute__((vector_size(64)));

static double read_seconds(size_t bytes) {
    const int64_t n = (int64_t)(bytes / 256 + 1) * 4;
    struct err e = {0};
    line *p = NULL;
    double best = 1e30;
    ok(mem_alloc64(&p, (size_t)n, sizeof *p, &e), &e);
    for (int64_t i = 0; i < n; i++) p[i] = (line){(uint64_t)i};
    for (int r = 0; r < REPEAT; r++) {
        const double t0 = cpu_seconds();
#pragma omp parallel num_threads(n_thread)
        {
            line sum[2] = {{0}, {0}}; // what registers hold without AVX
#pragma omp for schedule(static)
            for (int64_t i = 0; i < n; i += 4)
                for (int k = 0; k < 4; k++) sum[k % 2] += p[i + k];
            sum[0] += sum[1];
            __asm__ volatile("" ::"r"(&sum) : "memory");
        }
        const double t = cpu_seconds() - t0;
        if (t < best) best = t;
    }
    mem_free(p);
    return best;
}

static void report(const char *what, int rows, double seconds, double bytes, double read,
                   double flops) {
    printf("| %-16s | %2d | %7.3f | %6.1f | %4.0f %% | %7.1f |\n", what, rows, 1e3 * seconds,
           1e-9 * bytes / seconds, 100 * read / seconds, 1e-9 * flops / seconds);
    fflush(stdout);
}

static void bench_linear(struct dev *d, enum dtype type) {
    struct wt *w[LAYERS][COUNTOF(shapes)];
    unsigned char *data = NULL;
    struct err e = {0};
    double bytes = 0, n = 0;
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < COUNTOF(shapes); i++) {
            w[l][i] = weight(d, type, shapes[i].n_out, shapes[i].n_in, &data);
            free(data);
            bytes += (double)dtype_row_bytes(type, (int64_t)shapes[i].n_out * shapes[i].n_in);
            n += (double)shapes[i].n_out * shapes[i].n_in;
        }
    const double read = read_seconds((size_t)bytes);
    for (int rows = 1; rows <= 32; rows = rows == 1 ? 8 : 4 * rows) {
        struct buf *x[2] = {buffer(d, BUF_ACT, rows, D), buffer(d, BUF_ACT, rows, FF)};
        double best = 1e30;
        for (int r = 0; r < REPEAT; r++) {
            struct buf *y[3] = {buffer(d, BUF_ACT, rows, D), buffer(d, BUF_ACT, rows, FF),
                                buffer(d, BUF_ACT, rows, KV)};
            const double t0 = cpu_seconds();
            for (int l = 0; l < LAYERS; l++)
                for (size_t i = 0; i < COUNTOF(shapes); i++)
                    dev_linear(d,
                               y[shapes[i].n_out == D    ? 0
                                 : shapes[i].n_out == FF ? 1
                                                         : 2],
                               x[shapes[i].n_in == FF], w[l][i], NULL, rows);
            const double t = cpu_seconds() - t0;
            if (t < best) best = t;
            for (int k = 0; k < 3; k++) buf_free(y[k]);
        }
        ok(dev_sync(d, &e), &e);
        char what[32];
        snprintf(what, sizeof what, "layers %s", dtype_name(type));
        report(what, rows, best, bytes, read, 2 * n * rows);
        buf_free(x[0]), buf_free(x[1]);
    }
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < COUNTOF(shapes); i++) dev_weight_free(w[l][i]);
}

static void bench_head(struct dev *d, enum dtype type) {
    unsigned char *data = NULL;
    struct err e = {0};
    struct wt *w = weight(d, type, VOCAB, D, &data);
    free(data);
    const double bytes = (double)dtype_row_bytes(type, (int64_t)VOCAB * D),
                 read = read_seconds((size_t)bytes);
    for (int rows = 1; rows <= 32; rows = rows == 1 ? 8 : 4 * rows) {
        struct buf *x = buffer(d, BUF_ACT, rows, D), *logits = buffer(d, BUF_ACT, rows, VOCAB),
                   *logp = buffer(d, BUF_LOGP, rows, 1), *target = buffer(d, BUF_ID, rows, 1);
        const int32_t id[32] = {0};
        dev_write(d, target, 0, rows, id);
        const struct dev_head a = {
            .logp = logp, .x = x, .w = w, .target = target, .scale = 1, .logits = logits};
        double best = 1e30;
        for (int r = 0; r < REPEAT; r++) {
            const double t0 = cpu_seconds();
            dev_head(d, &a, rows);
            const double t = cpu_seconds() - t0;
            if (t < best) best = t;
        }
        ok(dev_sync(d, &e), &e);
        char what[32];
        snprintf(what, sizeof what, "head %s", dtype_name(type));
        report(what, rows, best, bytes, read, 2.0 * VOCAB * D * rows);
        buf_free(x), buf_free(logits), buf_free(logp), buf_free(target);
    }
    dev_weight_free(w);
}

// Every stream has a full cache of its own in each layer.
static void bench_attend(struct dev *d) {
    enum { STREAMS = 32, SINKS = 4, STRIDE = KEYS + 8 };
    struct err e = {0};
    struct buf *kv[LAYERS][2], *q = buffer(d, BUF_ACT, STREAMS, HEADS * 64),
                               *out = buffer(d, BUF_ACT, STREAMS, HEADS * 64);
    struct buf *segs = buffer(d, BUF_SEG, STREAMS, 1);
    struct dev_seg seg[STREAMS];
    for (int i = 0; i < STREAMS; i++)
        seg[i] = (struct dev_seg){.first_row = i,
                                  .n_row = 1,
                                  .pos = 100000 + 77 * i,
                                  .low = 100000 + 77 * i - (KEYS - SINKS),
                                  .n_sink = SINKS,
                                  .moves = 1,
                                  .sink_row = (int64_t)i * STRIDE,
                                  .old_row = (int64_t)i * STRIDE + SINKS,
                                  .old_pos = 100000 + 77 * i - (KEYS - SINKS),
                                  .own_row = (int64_t)i * STRIDE + KEYS};
    dev_write(d, segs, 0, STREAMS, seg);
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < 2; k++) kv[l][k] = buffer(d, BUF_KV, STREAMS * STRIDE, KV);
    const double key_bytes = 2.0 * KV * (double)dtype_bytes(dev_kv_dtype(d));
    for (int rows = 1; rows <= STREAMS; rows = rows == 1 ? 8 : 4 * rows) {
        const double bytes = key_bytes * LAYERS * (KEYS + 1) * rows,
                     read = read_seconds((size_t)bytes);
        double best = 1e30;
        for (int r = 0; r < REPEAT; r++) {
            const double t0 = cpu_seconds();
            for (int l = 0; l < LAYERS; l++) {
                const struct dev_attend a = {.out = out,
                                             .q_win = q,
                                             .q_sink = q,
                                             .k = kv[l][0],
                                             .v = kv[l][1],
                                             .seg = segs,
                                             .n_seg = rows,
                                             .n_head = HEADS,
                                             .n_kv = KV / 64,
                                             .d_head = 64,
                                             .scale = 0.125};
                dev_attend(d, &a, rows);
            }
            const double t = cpu_seconds() - t0;
            if (t < best) best = t;
        }
        ok(dev_sync(d, &e), &e);
        report("attend 1024 keys", rows, best, bytes, read,
               4.0 * LAYERS * (KEYS + 1) * HEADS * 64 * rows);
    }
    for (int l = 0; l < LAYERS; l++) buf_free(kv[l][0]), buf_free(kv[l][1]);
    buf_free(q), buf_free(out), buf_free(segs);
}

static void bench(enum dtype compute, bool int8) {
    static const enum dtype types[] = {DT_Q4_1, DT_Q4_0, DT_Q5_1, DT_Q8_0, DT_BF16};
    struct dev *d = open_steps(compute, int8);
    printf("\n%s\n\n| what | rows | ms | GB/s | of read | GFLOP/s |\n|---|---|---|---|---|---|\n",
           dev_describe(d));
    for (size_t i = 0; i < COUNTOF(types); i++)
        if (!int8 || types[i] != DT_BF16) bench_linear(d, types[i]);
    bench_head(d, DT_Q8_0);
    if (!int8) bench_head(d, DT_BF16);
    if (!int8) bench_attend(d);
    dev_close(d);
}

int main(int argc, char **argv) {
    struct err e = {0};
    if (argc > 1) n_thread = atoi(argv[1]);
    ok(cpu_isa_parse(&isa, argc > 2 ? argv[2] : NULL, &e), &e);
    bench(DT_BF16, false);
    bench(DT_BF16, true);
    if (argc > 3) bench(DT_F32, false);
    return 0;
}
