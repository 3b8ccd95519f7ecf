/* Micro-benchmark of the tokenizers: MB of a text per second of CPU time, fed in chunks of 64 KiB. For people;
 * prints a Markdown table. The best of several repetitions counts, because the machine may be shared.
 *
 * build: make build/release/tools/bench/tokenize
 * run:   build/release/tools/bench/tokenize TEXT MODEL... */
#include "base/mem.h"
#include "core/tok.h"
#include "io/fmap.h"

#include <stdio.h>
#include <time.h>

enum { REPEAT = 7, CHUNK = 65536 };

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Tokenizes the text once; *n_ids of it.
static enum status run(struct tok_stream *s, const char *text, size_t n, size_t *n_ids,
                       struct err *e) {
    enum status st = OK;
    int32_t ids[4096];
    *n_ids = 0;
    tok_stream_reset(s);
    for (size_t i = 0, k; i < n; i += k) {
        k = n - i < CHUNK ? n - i : CHUNK;
        TRY(tok_feed(s, text + i, k, e));
        for (size_t got; (got = tok_take(s, ids, NULL, COUNTOF(ids))) > 0;) *n_ids += got;
    }
    TRY(tok_finish(s, e));
    for (size_t got; (got = tok_take(s, ids, NULL, COUNTOF(ids))) > 0;) *n_ids += got;
done:
    return st;
}

static enum status measure(const char *model, const char *text, size_t n, struct err *e) {
    enum status st = OK;
    struct tok *t = NULL;
    struct tok_stream *s = NULL;
    double best = 1e9;
    size_t n_ids = 0;
    const double t0 = cpu_seconds();
    TRY(tok_open(&t, model, e));
    const double opened = cpu_seconds() - t0;
    TRY(tok_stream_open(&s, t, e));
    for (int i = 0; i < REPEAT; i++) {
        const double from = cpu_seconds();
        TRY(run(s, text, n, &n_ids, e));
        const double took = cpu_seconds() - from;
        if (took < best) best = took;
    }
    printf("| %s | %s | %d | %.1f | %.2f | %.0f |\n", model, tok_kind(t), tok_n_vocab(t),
           (double)n / best / 1e6, (double)n / (double)n_ids, opened * 1e3);
    fflush(stdout);
done:
    tok_stream_close(s);
    tok_close(t);
    return st;
}

int main(int argc, char **argv) {
    struct err e = {0};
    struct fmap *m = NULL;
    if (argc < 3 || fmap_open(&m, argv[1], &e) != OK) {
        fprintf(stderr, "usage: %s TEXT MODEL...\n%s\n", argv[0], e.msg);
        return 64;
    }
    printf("| model | kind | tokens | MB/s | bytes/id | opened ms |\n|---|---|---|---|---|---|\n");
    for (int i = 2; i < argc; i++) {
        e = (struct err){0};
        if (measure(argv[i], (const char *)fmap_borrow_data(m), fmap_bytes(m), &e) != OK) {
            printf("| %s | %s | | | | |\n", argv[i], e.msg);
        }
    }
    fmap_close(m);
    return 0;
}
