/* Simulated GPUs, so that kernels/cuda/ is tested where there is none: the .cu files are compiled as C++ with
 * the headers of this folder in front of CUDA's.
 *
 * A block's threads are fibers that give way at barriers and at what a warp does together, so that barriers,
 * shuffles and tensor-core fragments mean what they mean on a GPU. Lanes of a warp that do not come to the
 * same instruction, and threads that do not come to a barrier, end the test.
 *
 * Devices differ in order only, so that the same bytes on all of them say that no barrier is missing:
 *   0     blocks and threads in ascending order, asynchronous copies at the last moment allowed
 *   1     in descending order, asynchronous copies at once
 *   2, 3  threads in random order, copies late and at once
 *
 * Several threads may use them: they take turns, call by call.
 *
 * Streams are lazy: what is queued runs when somebody waits for it, so that a missing wait shows; but rows from
 * other devices come to device 1 at once, and device 3 does everything at once. Memory is
 * filled with NaN when it is taken and guarded behind its end (by ASan where that is on). */
#ifndef BASIN_TESTS_SIMT_H
#define BASIN_TESTS_SIMT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The world as the stand-in of the runtime shows it; a test may change it between its steps. */
struct simt_world {
    int n_device;          /* 0 to 4 */
    int driver, runtime;   /* versions as CUDA writes them: 13000; 0: no driver */
    size_t memory_bytes;   /* of each device */
    int major, minor;      /* compute capability */
    int fail_launch_after; /* launches until one fails, < 0: never */
    int no_blas;           /* the cuBLAS library cannot be loaded */
    size_t memory_of[4];   /* of one device; 0: memory_bytes */
    unsigned broken;       /* the devices, a bit each, that fail for good ... */
    int broken_after;      /* ... after so many launches on them; < 0: have failed ... */
    int broken_error;      /* ... and what every call on them comes to from then on */
};
struct simt_world *simt_world(void);

/* Bytes of device memory taken now, on all devices; and matrix products so far by number of rows: the
 * only number of rows seen, or -1 when there were several. */
size_t simt_memory_used(void);
int64_t simt_product_rows(void);

/* What has been done so far, on all devices; a test may set them to 0. */
struct simt_counts {
    int64_t captures, replays; /* of graphs */
    int64_t waits;             /* of the host for a stream that had something left to do */
};
struct simt_counts *simt_counts(void);

/* ---- for the headers of this folder */

struct simt_dim {
    unsigned x, y, z;
};
/* What a thread knows of itself and its block. */
struct simt_self {
    struct simt_dim thread, block, block_dim, grid_dim;
    unsigned char *smem;
    size_t smem_bytes;
};
extern __thread struct simt_self *simt_self;

void simt_run(int device, struct simt_dim grid, struct simt_dim block, size_t smem_bytes,
              void (*body)(void *), void *arg);
void simt_barrier(void);
/* Lanes of a warp together: the last one to come calls fn with what all 32 brought. */
typedef void (*simt_warp_fn)(const void *const in[32], void *const out[32]);
void simt_warp(simt_warp_fn fn, const void *in, void *out);
void simt_copy(void *shared, const void *global); /* 16 bytes; NULL: zeros */
void simt_copies_commit(void);
void simt_copies_wait(int left);
/* Ends the test unless [p, p + n) lies in the block's shared memory, or in memory of the device at work. */
void simt_check_shared(const void *p, size_t n);
void simt_check_global(const void *p, size_t n);
void simt_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#ifdef __cplusplus
}
#endif

#endif
