/* Micro-benchmark of the cpu backend: the machine's multiply-add peak, and what share of it linear,
 * attention and the head reach. For people; prints a Markdown table. The best of several
 * repetitions counts, because the machine may be shared.
 *
 * build: make build/release/tools/bench/kernels
 * run:   build/release/tools/bench/kernels [threads [operation [device]]], e.g. 1 attend amx; the names
 *        are beginnings, and parts of the device's description */
#include "kernels/cpu/cpu_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { REPEAT = 15 };

static int64_t cpu_ns(int n_thread) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return ((int64_t)t.tv_sec * 1000000000 + t.tv_nsec) / n_thread;
}

static double peak(const struct cpu_kernels *k, enum cpu_word word, int n_thread) {
    double best = 0;
    for (int i = 0; i < REPEAT; i++) {
        double ops = 0;
        const int64_t t0 = cpu_ns(n_thread);
#pragma omp parallel num_threads(n_thread) reduction(+ : ops)
        ops += k->peak(word, 500000);
        const double rate = ops / (double)(cpu_ns(n_thread) - t0);
        if (rate > best) best = rate;
    }
    return best;
}

static void ok(enum status st, const struct err *e) {
    if (st == OK) return;
    fprintf(stderr, "%s\n", e->msg);
    exit(1);
}

static struct buf *buffer(struct dev *d, enum buf_kind kind, int64_t rows, int64_t cols) {
    struct buf *b = NULL;
    struct err e = {0};
    ok(buf_new(&b, d, kind, rows, cols, &e), &e);
    const size_t bytes = (size_t)rows * buf_row_bytes(b);
    unsigned char *p = calloc(1, bytes);
    if (p == NULL) exit(1);
    if (kind == BUF_ACT)
        for (size_t i = 0; i < bytes / 4; i++)
            ((float *)(void *)p)[i] = (float)(rand() % 2001 - 1000) * 1e-3f;
    if (kind == BUF_KV && buf_dtype(b) == DT_BF16)
        for (size_t i = 0; i < bytes / 2; i++)
            ((bf16_t *)(void *)p)[i] = dtype_f32_to_bf16((float)(rand() % 2001 - 1000) * 1e-3f);
    if (kind == BUF_KV && buf_dtype(b) == DT_F32)
        for (size_t i = 0; i < bytes / 4; i++)
            ((float *)(void *)p)[i] = (float)(rand() % 2001 - 1000) * 1e-3f;
    dev_write(d, b, 0, rows, p);
    free(p);
    return b;
}

static struct wt *weight(struct dev *d, int64_t n_out, int64_t n_in, void **data) {
    bf16_t *p = malloc((size_t)(n_out * n_in) * sizeof *p);
    struct err e = {0};
    if (p == NULL) exit(1);
    for (int64_t i = 0; i < n_out * n_in; i++)
        p[i] = dtype_f32_to_bf16((float)(rand() % 2001 - 1000) * 1e-3f);
    struct wt *w = NULL;
    ok(dev_weight_new(&w, d, WT_MATRIX,
                      &(struct dev_weight_src){.name = "w",
                                               .data = p,
                                               .dtype = DT_BF16,
                                               .n_out = n_out,
                                               .n_in = n_in,
                                               .n_stored_rows = n_out,
                                               .block = n_out},
                      &e),
       &e);
    *data = p;
    return w;
}

static void report(const char *what, double ops, double ns, double limit) {
    printf("| %-28s | %8.3f ms | %7.1f | %3.0f %% |\n", what, ns * 1e-6, ops / ns,
           100 * ops / ns / limit);
    fflush(stdout);
}

static void bench_linear(struct dev *d, int n_thread, int64_t n, int64_t k, int64_t o,
                         double limit) {
    void *data = NULL;
    struct err e = {0};
    struct wt *w = weight(d, o, k, &data);
    struct buf *x = buffer(d, BUF_ACT, n, k), *y = buffer(d, BUF_ACT, n, o);
    double best = 1e30, pack = 1e30;
    for (int i = 0; i < REPEAT; i++) {
        int64_t t0 = cpu_ns(n_thread);
        dev_weights_prepare(d, &w, 1);
        double t = (double)(cpu_ns(n_thread) - t0);
        if (t < pack) pack = t;
        for (int r = 0; r < 3; r++) {
            t0 = cpu_ns(n_thread);
            dev_linear(d, y, x, w, NULL, n);
            t = (double)(cpu_ns(n_thread) - t0);
            if (t < best) best = t;
        }
        dev_weights_release(d, &w, 1);
    }
    ok(dev_sync(d, &e), &e);
    char what[64];
    snprintf(what, sizeof what, "linear %lldx%lldx%lld", (long long)n, (long long)k, (long long)o);
    report(what, 2.0 * (double)(n * k * o), best, limit);
    printf("|   its packing                | %8.3f ms |         | %3.1f %% of it |\n", pack * 1e-6,
           100 * pack / best);
    buf_free(x), buf_free(y);
    dev_weight_free(w);
    free(data);
}

// A packed block of rows times packed panels on one thread: without packing, and without writing rows to
// memory.
static void bench_alone(struct dev *dev, int64_t k, int64_t o, double limit) {
    const struct cpu_dev *d = cpu_of(dev);
    void *data = NULL;
    struct err e = {0};
    struct wt *w = weight(dev, o, k, &data);
    struct buf *x = buffer(dev, BUF_ACT, 2048, k);
    const int64_t n_panel = cpu_ceil(o, d->lin->nr), ldc = n_panel * d->lin->nr;
    const struct cpu_rows cut = cpu_cut(d, 2048, k, n_panel);
    void *pack = aligned_alloc(64, cut.pack_bytes);
    float *c = aligned_alloc(64, cpu_round64((size_t)(cut.block * ldc) * sizeof *c));
    if (pack == NULL || c == NULL) exit(1);
    dev_weights_prepare(dev, &w, 1);
    ok(dev_sync(dev, &e), &e);
    cpu_pack_rows(d, &cut, pack, x, 0, cut.block);
    const struct cpu_product p = {.w = w,
                                  .pack = pack,
                                  .n = cut.block,
                                  .steps = cut.steps,
                                  .p1 = n_panel,
                                  .c = c,
                                  .ldc = ldc};
    double best = 1e30;
    d->lin->thread_begin();
    for (int i = 0; i < 5 * REPEAT; i++) {
        const int64_t t0 = cpu_ns(1);
        cpu_product(d, &p);
        const double t = (double)(cpu_ns(1) - t0);
        if (t < best) best = t;
    }
    d->lin->thread_end();
    char what[64];
    snprintf(what, sizeof what, "alone %lldx%lldx%lld", (long long)cut.block, (long long)k,
             (long long)o);
    report(what, 2.0 * (double)(cut.block * k * o), best, limit);
    buf_free(x);
    dev_weight_free(w);
    free(data), free(pack), free(c);
}

// One document in its steady state: n rows that each see 4 sinks, `window` keys and themselves.
static void bench_attend(struct dev *d, int n_thread, int64_t n, int64_t window, int n_head,
                         int n_kv, int d_head, double limit) {
    struct err e = {0};
    const int64_t q = (int64_t)n_head * d_head, kv = (int64_t)n_kv * d_head;
    struct buf *qw = buffer(d, BUF_ACT, n, q), *out = buffer(d, BUF_ACT, n, q);
    struct buf *k = buffer(d, BUF_KV, 4 + window + n, kv),
               *v = buffer(d, BUF_KV, 4 + window + n, kv);
    struct buf *s = buffer(d, BUF_SEG, 1, 1);
    const struct dev_seg seg = {.n_row = (int32_t)n,
                                .pos = 100000,
                                .low = 100000 - window,
                                .n_sink = 4,
                                .moves = 1,
                                .old_row = 4,
                                .old_pos = 100000 - window,
                                .own_row = 4 + window};
    dev_write(d, s, 0, 1, &seg);
    const struct dev_attend a = {.out = out,
                                 .q_win = qw,
                                 .q_sink = qw,
                                 .k = k,
                                 .v = v,
                                 .seg = s,
                                 .n_seg = 1,
                                 .n_head = n_head,
                                 .n_kv = n_kv,
                                 .d_head = d_head,
                                 .scale = 0.125};
    double best = 1e30;
    for (int i = 0; i < REPEAT; i++) {
        const int64_t t0 = cpu_ns(n_thread);
        dev_attend(d, &a, n);
        const double t = (double)(cpu_ns(n_thread) - t0);
        if (t < best) best = t;
    }
    ok(dev_sync(d, &e), &e);
    char what[64];
    snprintf(what, sizeof what, "attend %lld rows, W %lld", (long long)n, (long long)window);
    report(what, 4.0 * (double)(n * (window + 5) * q), best, limit);
    buf_free(qw), buf_free(out), buf_free(k), buf_free(v), buf_free(s);
}

static void bench_head(struct dev *d, int n_thread, int64_t n, int64_t k, int64_t vocab,
                       double limit) {
    void *data = NULL;
    struct err e = {0};
    struct wt *w = weight(d, vocab, k, &data);
    struct buf *x = buffer(d, BUF_ACT, n, k), *t = buffer(d, BUF_ID, n, 1),
               *logp = buffer(d, BUF_LOGP, n, 1);
    const struct dev_head a = {.logp = logp, .x = x, .w = w, .target = t, .scale = 1};
    dev_weights_prepare(d, &w, 1);
    double best = 1e30;
    for (int i = 0; i < 3; i++) {
        const int64_t t0 = cpu_ns(n_thread);
        dev_head(d, &a, n);
        const double ns = (double)(cpu_ns(n_thread) - t0);
        if (ns < best) best = ns;
    }
    ok(dev_sync(d, &e), &e);
    char what[64];
    snprintf(what, sizeof what, "head %lldx%lldx%lld", (long long)n, (long long)k,
             (long long)vocab);
    report(what, 2.0 * (double)(n * k * vocab), best, limit);
    buf_free(x), buf_free(t), buf_free(logp);
    dev_weight_free(w);
    free(data);
}

struct wish {
    int n_thread;
    const char *op, *device;
};

static bool wanted(const struct wish *w, const char *op) {
    return strncmp(op, w->op, strlen(w->op)) == 0;
}

static void bench_kernels(const struct cpu_kernels *k, enum dtype compute, bool int8,
                          const struct wish *w) {
    const int n_thread = w->n_thread;
    struct dev *d = NULL;
    struct err e = {0};
    const struct dev_config c = {
        .n_thread = n_thread, .isa = k->isa, .compute = compute, .int8 = int8};
    ok(cpu_open_with(&d, k, &c, &e), &e);
    if (strstr(dev_describe(d), w->device) == NULL) {
        dev_close(d);
        return;
    }
    const double limit = peak(cpu_of(d)->lin, cpu_of(d)->lin_word, n_thread);
    printf("\n%s: peak %.1f GFLOP/s\n\n", dev_describe(d), limit);
    printf(
        "| operation                    | best        | GFLOP/s | of peak |\n|---|---|---|---|\n");
    if (wanted(w, "alone") && n_thread == 1) {
        bench_alone(d, 576, 1536, limit);
        bench_alone(d, 1536, 576, limit);
        bench_alone(d, 2048, 2048, limit);
    }
    if (wanted(w, "linear")) {
        bench_linear(d, n_thread, 2048, 576, 1536, limit);
        bench_linear(d, n_thread, 2048, 1536, 576, limit);
        bench_linear(d, n_thread, 2048, 192, 576, limit);
        bench_linear(d, n_thread, 1, 576, 1536, limit);
    }
    if (wanted(w, "attend") && !int8) {
        bench_attend(d, n_thread, 2048, 1020, 9, 3, 64, limit);
        bench_attend(d, n_thread, 2048, 124, 9, 3, 64, limit);
    }
    if (wanted(w, "head")) bench_head(d, n_thread, 2048, 576, 49152, limit);
    dev_close(d);
}

int main(int argc, char **argv) {
    const struct wish w = {.n_thread = argc > 1 ? atoi(argv[1]) : cpu_threads(),
                           .op = argc > 2 ? argv[2] : "",
                           .device = argc > 3 ? argv[3] : ""};
#if defined(__x86_64__)
    if (cpu_isa_best() >= CPU_AVX2) bench_kernels(&cpu_kernels_avx2, DT_F32, false, &w);
    if (cpu_isa_best() >= CPU_AVX2) bench_kernels(&cpu_kernels_avx2, DT_BF16, true, &w);
    if (cpu_has_avxvnni()) bench_kernels(&cpu_kernels_avxvnni, DT_BF16, true, &w);
    if (cpu_isa_best() >= CPU_AVX512) {
        bench_kernels(&cpu_kernels_avx512, DT_F32, false, &w);
        bench_kernels(&cpu_kernels_avx512, DT_BF16, false, &w);
        bench_kernels(&cpu_kernels_avx512, DT_BF16, true, &w);
        if (cpu_isa_best() >= CPU_AMX) bench_kernels(&cpu_kernels_amx, DT_BF16, false, &w);
    }
#endif
    if (cpu_isa_best() == CPU_PORTABLE) bench_kernels(&cpu_kernels_portable, DT_F32, false, &w);
    return 0;
}
