/* Threads for regions of microseconds: the operations of a step of few rows.
 *
 * OpenMP's team meets twice in every region, so a thread that sleeps, or that another process has
 * displaced, holds all others up; a step has some two hundred regions. Here the caller takes items
 * itself, from the first one on, and waits only for items that others have begun. A thread that finds
 * nothing to do looks for a while (the shorter, the less often that paid), then sleeps. */
#ifndef BASIN_KERNELS_CPU_POOL_H
#define BASIN_KERNELS_CPU_POOL_H

#include "base/err.h"

#include <stdint.h>

struct cpu_pool;

/* n_thread counts the caller. The threads take no signals. Errors: E_NOMEM. */
enum status cpu_pool_open(struct cpu_pool **out, int n_thread, struct err *e) WARN_UNUSED;
void cpu_pool_close(struct cpu_pool *p); /* NULL is allowed */

/* `thread` is 0 (the caller) to n_thread - 1, and no two items have the same one at a time. */
typedef void cpu_item_fn(void *ctx, int64_t item, int thread);

/* Items 0..n-1 (below 2^31), each once, in any order, by any of the threads; returns when all are done.
 * What they wrote is seen by the caller. One caller at a time; not from within an item. */
void cpu_pool_run(struct cpu_pool *p, int64_t n, cpu_item_fn *fn, void *ctx);

#endif
