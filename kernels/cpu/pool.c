#include "kernels/cpu/pool.h"

#include "base/clock.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define CLOSED UINT32_MAX /* in place of the next item: what the round is, is being written */

enum {
    LOOK_NS = 100000,     /* for a new round, at most */
    LOOK_LEAST_NS = 2000, /* and at least */
    LOOKS = 32,           /* between two looks at the clock */
    WAIT_LOOKS = 4000     /* for the items of others, before the core is offered to them */
};

struct worker {
    struct cpu_pool *pool;
    int index;
    pthread_t thread;
};

struct cpu_pool {
    /* The round in the upper half, its next item in the lower one: an item is taken by moving `next`
     * on, which fails when the round has changed since n, fn and ctx were read. */
    _Atomic uint64_t ticket;
    _Atomic int64_t n, done;
    _Atomic(cpu_item_fn *) fn;
    _Atomic(void *) ctx;
    _Atomic bool quit;
    _Atomic int asleep;
    uint32_t round; // of the caller

    pthread_mutex_t lock;
    pthread_cond_t wake;
    int n_worker; // that run
    struct worker workers[];
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static uint64_t ticket_of(uint32_t round, uint32_t next) {
    return (uint64_t)round << 32 | next;
}

static bool open_round(struct cpu_pool *p, uint64_t ticket) {
    return (uint32_t)ticket != CLOSED && (int64_t)(uint32_t)ticket < atomic_load(&p->n);
}

// One item of the round that is open; false when none is left.
static bool take(struct cpu_pool *p, int thread) {
    uint64_t ticket = atomic_load(&p->ticket);
    while (open_round(p, ticket)) {
        cpu_item_fn *fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        if (!atomic_compare_exchange_weak(&p->ticket, &ticket, ticket + 1)) continue;
        fn(ctx, (int64_t)(uint32_t)ticket, thread);
        atomic_fetch_add(&p->done, 1);
        return true;
    }
    return false;
}

// Whether there was something to do within `ns`.
static bool look(struct cpu_pool *p, int thread, int64_t ns) {
    const int64_t end = clock_ns() + ns;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load_explicit(&p->quit, memory_order_relaxed)) return false;
            if (take(p, thread)) return true;
            relax();
        }
    } while (clock_ns() < end);
    return false;
}

static void rest(struct cpu_pool *p) {
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->asleep, 1);
    while (!atomic_load(&p->quit) && !open_round(p, atomic_load(&p->ticket)))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg) {
    const struct worker *w = arg;
    struct cpu_pool *p = w->pool;
    int64_t ns = LOOK_NS;
    while (!atomic_load(&p->quit)) {
        if (look(p, w->index, ns)) {
            ns = 2 * ns < LOOK_NS ? 2 * ns : LOOK_NS;
            continue;
        }
        ns = ns / 2 > LOOK_LEAST_NS ? ns / 2 : LOOK_LEAST_NS;
        rest(p);
    }
    return NULL;
}

// Signals are for the threads that ask about them.
static enum status start(struct worker *w, struct err *e) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int failed = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return failed == 0 ? OK : err_fail(e, E_NOMEM, "a thread does not start: %s", strerror(failed));
}

enum status cpu_pool_open(struct cpu_pool **out, int n_thread, struct err *e) {
    struct cpu_pool *p = NULL;
    *out = NULL;
    const size_t bytes = sizeof *p + (size_t)(n_thread - 1) * sizeof *p->workers;
    enum status st = mem_alloc64(&p, 1, bytes, e);
    if (st != OK) return st;
    memset(p, 0, bytes);
    atomic_store(&p->ticket, ticket_of(0, CLOSED));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (int i = 0; st == OK && i < n_thread - 1; i++) {
        p->workers[i] = (struct worker){.pool = p, .index = i + 1};
        st = start(&p->workers[i], e);
        if (st == OK) p->n_worker++;
    }
    if (st != OK) {
        cpu_pool_close(p);
        return st;
    }
    *out = p;
    return OK;
}

void cpu_pool_close(struct cpu_pool *p) {
    if (p == NULL) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->quit, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_worker; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

void cpu_pool_run(struct cpu_pool *p, int64_t n, cpu_item_fn *fn, void *ctx) {
    if (p->n_worker == 0) {
        for (int64_t i = 0; i < n; i++) fn(ctx, i, 0);
        return;
    }
    p->round++;
    atomic_store(&p->ticket, ticket_of(p->round, CLOSED)); // nobody takes by what is written now
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store(&p->n, n);
    atomic_store(&p->ticket, ticket_of(p->round, 0));
    if (atomic_load(&p->asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    while (take(p, 0)) continue;
    for (int64_t looks = 0; atomic_load(&p->done) < n; looks++) {
        relax();
        if (looks > WAIT_LOOKS) sched_yield();
    }
}
