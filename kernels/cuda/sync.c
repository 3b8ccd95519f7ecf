/* Waiting: what failed since the last time, and where the time went. */
#include "kernels/cuda/cuda_impl.h"

#include "base/mem.h"

#include <stdio.h>

enum { MOST_MARKS = 1 << 16 }; // of one stretch without waiting: more are not timed

bool cuda_check(struct cuda_dev *d, cudaError_t e, const char *file, int line) {
    if (e == cudaSuccess) return true;
    cudaGetLastError(); // the runtime would say it again of the next launch
    dev_fail(&d->base, e == cudaErrorMemoryAllocation ? E_NOMEM : E_DEVICE, "%s (%s:%d)",
             cudaGetErrorString(e), file, line);
    return false;
}

bool cuda_check_blas(struct cuda_dev *d, cublasStatus_t s, const char *file, int line) {
    if (s == CUBLAS_STATUS_SUCCESS) return true;
    dev_fail(&d->base, E_DEVICE, "cuBLAS: %s (%s:%d)", d->blas.status_text(s), file, line);
    return false;
}

struct cuda_dev *cuda_begin(struct dev *dev, enum dev_stage stage) {
    struct cuda_dev *d = cuda_of(dev);
    if (CUDA_OK(d, cudaSetDevice(d->ordinal))) cuda_mark_stage(d, stage);
    return d;
}

// ---- time. An event at every change of stage; read when the stream has been waited for.

void cuda_mark_stage(struct cuda_dev *d, enum dev_stage stage) {
    if (d->capturing) return; // events in a graph have no time
    if (d->n_mark > 0 && d->mark[d->n_mark - 1].stage == stage) return;
    if (d->n_mark == MOST_MARKS) return;
    if (d->n_mark == d->n_event) {
        if (mem_grow(&d->mark, &d->cap_mark, d->n_event + 1, sizeof *d->mark, NULL) != OK) return;
        if (!CUDA_OK(d, cudaEventCreateWithFlags(&d->mark[d->n_event].event, cudaEventDefault)))
            return;
        d->n_event++;
    }
    d->mark[d->n_mark].stage = stage;
    if (CUDA_OK(d, cudaEventRecord(d->mark[d->n_mark].event, d->stream))) d->n_mark++;
}

static void add_times(struct cuda_dev *d) {
    for (size_t i = 0; i + 1 < d->n_mark; i++) {
        float ms = 0;
        if (!CUDA_OK(d, cudaEventElapsedTime(&ms, d->mark[i].event, d->mark[i + 1].event))) break;
        d->seconds[d->mark[i].stage] += 1e-3 * (double)ms;
    }
    d->n_mark = 0;
}

void cuda_times(const struct dev *dev, double seconds[DEV_STAGE_COUNT]) {
    const struct cuda_dev *d = (const struct cuda_dev *)dev;
    memcpy(seconds, d->seconds, sizeof d->seconds);
}

// ---- faults

struct cuda_watch cuda_watch(struct cuda_dev *d, const char *name) {
    if (d->n_watched == CUDA_WATCHES) cuda_settle(d);
    struct cuda_watched *w = &d->watched[d->n_watched];
    w->op = d->base.op;
    snprintf(w->name, sizeof w->name, "%s", name);
    return (struct cuda_watch){d->fault, d->n_watched++};
}

static void report(struct cuda_dev *d, unsigned long long fault) {
    const struct cuda_watched *w = &d->watched[fault >> 33 & (CUDA_WATCHES - 1)];
    const int what = (int)(uint32_t)fault;
    const char *op = d->base.op;
    d->base.op = w->op;
    if ((fault >> 32 & 1) == CUDA_FAULT_RANGE)
        dev_fail(&d->base, E_ARG,
                 w->name[0] != '\0' ? "token id %d is outside the table"
                                    : "target %d is outside the vocabulary",
                 what);
    else if (strcmp(w->op, "embed") == 0)
        dev_fail(&d->base, E_FORMAT, "%s holds NaN or infinity in row %d", w->name, what);
    else
        dev_fail(&d->base, E_FORMAT, "%s holds NaN or infinity", w->name);
    d->base.op = op;
}

void cuda_settle(struct cuda_dev *d) {
    const unsigned long long none = ~0ull;
    const bool asked = d->n_watched > 0;
    *d->fault_host = none;
    if (asked)
        CUDA_OK(d, cudaMemcpyAsync(d->fault_host, d->fault, sizeof none, cudaMemcpyDeviceToHost,
                                   d->stream));
    const bool waited = CUDA_OK(d, cudaStreamSynchronize(d->stream));
    for (size_t i = 0; waited && i < d->n_reads; i++)
        memcpy(d->reads[i].to, d->reads[i].from, d->reads[i].n);
    d->n_reads = d->read_used = 0;
    if (!waited) return;
    const unsigned long long fault = *d->fault_host;
    if (fault != none) {
        report(d, fault);
        CUDA_OK(d, cudaMemsetAsync(d->fault, 0xFF, sizeof none, d->stream));
    }
    d->n_watched = 0;
}

void cuda_sync(struct dev *dev) {
    struct cuda_dev *d = cuda_of(dev);
    dev->op = "sync";
    if (!CUDA_OK(d, cudaSetDevice(d->ordinal))) return;
    CUDA_OK(d, cudaStreamSynchronize(d->fetches));
    cuda_mark_stage(d, DEV_STAGE_COUNT);
    cuda_settle(d);
    add_times(d);
}
