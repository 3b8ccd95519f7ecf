/* What this machine can do at most: multiply-adds in registers and memory read once, on the
 * handle's threads. The best of many short repetitions counts, because the machine may be shared. */
#include "kernels/cpu/cpu_impl.h"

#include "base/clock.h"
#include "base/mem.h"

enum {
    CHUNK_NS = 2000000, /* shorter than a time slice, long against a look at the clock */
    REPEAT_LEAST = 3
};
#define READ_BYTES ((int64_t)512 << 20) /* beyond any last-level cache */

// Operations a second of this thread at its best.
static double own_flops(const struct cpu_dev *d, int64_t end) {
    double best = 0;
    int64_t n = 1000;
    for (int i = 0; i < REPEAT_LEAST || clock_ns() < end;) {
        const int64_t t0 = clock_ns();
        const double ops = d->lin->peak(d->lin_word, n);
        const int64_t took = clock_ns() - t0 + 1;
        const double rate = ops / (double)took * 1e9;
        if (took < CHUNK_NS) { // not long enough yet to count
            n *= 2;
            continue;
        }
        if (rate > best) best = rate;
        i++;
    }
    return best;
}

// All threads are at it together, but each counts its own best: one that has lost its core to
// another process for a moment would else slow them all.
static double best_flops(const struct cpu_dev *d, double seconds) {
    double sum = 0;
    const int64_t end = clock_ns() + (int64_t)(seconds * 1e9);
#pragma omp parallel num_threads(d->n_thread) reduction(+ : sum)
    sum += own_flops(d, end);
    return sum;
}

// Every thread reads its own stretch, a word of each cache line: adding up all of them would be a fifth
// slower. The sum keeps the reads from being left out.
static uint64_t read_all(const struct cpu_dev *d, const uint64_t *p, int64_t n) {
    enum { LINE = 8 };
    uint64_t sum = 0;
#pragma omp parallel for num_threads(d->n_thread) reduction(+ : sum) schedule(static)
    for (int64_t i = 0; i < n; i += LINE) sum += p[i];
    return sum;
}

static double best_read(const struct cpu_dev *d, const uint64_t *p, int64_t n, double seconds) {
    double best = 0;
    uint64_t sum = 0;
    const int64_t end = clock_ns() + (int64_t)(seconds * 1e9);
    for (int i = 0; i < REPEAT_LEAST || clock_ns() < end; i++) {
        const int64_t t0 = clock_ns();
        sum += read_all(d, p, n);
        const double rate = (double)n * sizeof *p * 1e9 / (double)(clock_ns() - t0 + 1);
        if (rate > best) best = rate;
    }
    __asm__ volatile("" ::"r"(sum));
    return best;
}

enum status cpu_measure(struct dev *dev, double seconds, struct dev_peaks *out, struct err *e) {
    const struct cpu_dev *d = cpu_of(dev);
    uint64_t *p = NULL;
    const int64_t spare = cpu_memory_bytes() / 4;
    const int64_t bytes = spare < READ_BYTES ? spare : READ_BYTES, n = bytes / (int64_t)sizeof *p;
    const enum status st = mem_alloc64(&p, (size_t)n, sizeof *p, e);
    if (st != OK) return st;
        // Pages that were never written are all one page of zeros, which stays in the cache.
#pragma omp parallel for num_threads(d->n_thread) schedule(static)
    for (int64_t i = 0; i < n; i++) p[i] = (uint64_t)i;
    out->read_bytes = best_read(d, p, n, seconds);
    mem_free(p);
    out->flops = best_flops(d, seconds);
    return OK;
}
