/* cpu_pool: every item once, by one thread at a time, seen by the caller; rounds of any length follow each
 * other at once or after a rest. */
#include "kernels/cpu/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { MOST = 3000, THREADS = 5 };

struct round {
    int n_thread;
    _Atomic int wrong;    // items outside, threads outside, a thread twice at a time
    int count[MOST];      // written by whoever has the item: plain memory
    int64_t own[THREADS]; // a thread's own, too
    _Atomic int inside[THREADS];
};

static void item(void *ctx, int64_t i, int thread) {
    struct round *r = ctx;
    if (i < 0 || i >= MOST || thread < 0 || thread >= r->n_thread) {
        atomic_fetch_add(&r->wrong, 1);
        return;
    }
    if (atomic_fetch_add(&r->inside[thread], 1) != 0) atomic_fetch_add(&r->wrong, 1);
    r->count[i]++;
    r->own[thread] += i;
    atomic_fetch_sub(&r->inside[thread], 1);
}

static void check(struct cpu_pool *p, struct round *r, int64_t n) {
    memset(r->count, 0, sizeof r->count);
    memset(r->own, 0, sizeof r->own);
    cpu_pool_run(p, n, item, r);
    int64_t sum = 0;
    for (int64_t i = 0; i < MOST; i++) assert_int_equal(r->count[i], i < n);
    for (int t = 0; t < THREADS; t++) sum += r->own[t];
    assert_int_equal(sum, n * (n - 1) / 2);
    assert_int_equal(atomic_load(&r->wrong), 0);
}

static void test_rounds(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 2, 0, 7, 64, 3, MOST, 1, 1, 500};
    static struct round r;
    for (int n_thread = 1; n_thread <= THREADS; n_thread++) {
        struct cpu_pool *p = NULL;
        assert_int_equal(cpu_pool_open(&p, n_thread, NULL), OK);
        r.n_thread = n_thread;
        for (int i = 0; i < 400; i++) check(p, &r, lengths[i % 10]);
        for (int i = 0; i < 5; i++) { // long enough for all to go to sleep
            nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
            check(p, &r, 100);
        }
        cpu_pool_close(p);
    }
}

static void test_closed_unused(void **state) {
    (void)state;
    struct cpu_pool *p = NULL;
    assert_int_equal(cpu_pool_open(&p, 3, NULL), OK);
    cpu_pool_close(p);
    cpu_pool_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rounds),
                                       cmocka_unit_test(test_closed_unused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
