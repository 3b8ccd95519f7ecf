/* Opening and closing a GPU, and the table of operations. */
#include "kernels/cuda/cuda_impl.h"

#include "base/mem.h"

#include <stdio.h>

/* Sizes for real models: 2048 rows are a span, and fill an H100's 132 multiprocessors twice with tiles of a
 * 4096-wide layer; 8192 columns of the vocabulary make 64 MiB of logits; products of 8192 are as fast as they get. */
static const struct cuda_tune usual = {
    .rows = 2048, .vocab = 8192, .staging_bytes = 8 << 20, .raw_bytes = 64 << 20, .peak = 8192};

// ---- events

static enum status event_open(struct dev_event *ev, struct err *e) {
    cudaEvent_t event = NULL;
    const struct cuda_dev *d = cuda_of(ev->dev);
    cudaError_t st = cudaSetDevice(d->ordinal);
    if (st == cudaSuccess) st = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (st != cudaSuccess)
        return err_fail(e, E_DEVICE, "GPU %d: %s", d->ordinal, cudaGetErrorString(st));
    ev->state = event;
    return OK;
}

static void event_close(struct dev_event *ev) {
    cudaEventDestroy(ev->state);
}

// The stream of a queue, with its GPU the current one. Time is that of the operations.
static cudaStream_t queue(struct cuda_dev *d, enum dev_queue q) {
    if (q == DEV_QUEUE) cuda_begin(&d->base, DEV_OTHER);
    if (q == DEV_FETCHES) CUDA_OK(d, cudaSetDevice(d->ordinal));
    return q == DEV_QUEUE ? d->stream : d->fetches;
}

static void event_record(struct dev *dev, enum dev_queue q, struct dev_event *ev) {
    struct cuda_dev *d = cuda_of(dev);
    CUDA_OK(d, cudaEventRecord(ev->state, queue(d, q)));
}

static void event_wait(struct dev *dev, enum dev_queue q, const struct dev_event *ev) {
    struct cuda_dev *d = cuda_of(dev);
    CUDA_OK(d, cudaStreamWaitEvent(queue(d, q), ev->state, 0));
}

static struct dev_memory memory(struct dev *dev) {
    const struct cuda_dev *d = cuda_of(dev);
    size_t left = 0, all = 0;
    if (cudaSetDevice(d->ordinal) != cudaSuccess || cudaMemGetInfo(&left, &all) != cudaSuccess) {
        cudaGetLastError();
        left = all = 0;
    }
    return (struct dev_memory){(int64_t)left, (int64_t)all};
}

// ---- closing

static void close_blas(struct cuda_dev *d) {
    cuda_gemm_free(d);
    if (d->desc != NULL) d->blas.desc_destroy(d->desc);
    if (d->pref != NULL) d->blas.pref_destroy(d->pref);
    if (d->lt != NULL) d->blas.destroy(d->lt);
    cuda_blas_close(&d->blas);
}

static void cuda_close(struct dev *dev) {
    struct cuda_dev *d = cuda_of(dev);
    if (cudaSetDevice(d->ordinal) == cudaSuccess && d->stream != NULL) {
        struct cuda_mem *all[] = {&d->operand, &d->panel, &d->partial,  &d->logits,
                                  &d->heads,   &d->raw,   &d->sampling, &d->attending};
        for (size_t i = 0; i < COUNTOF(all); i++) cuda_give(d, all[i]->p);
        cuda_give(d, d->fault);
        cudaStreamSynchronize(d->stream);
        if (d->fetches != NULL) cudaStreamSynchronize(d->fetches);
        for (size_t i = 0; i < d->n_event; i++) cudaEventDestroy(d->mark[i].event);
        for (int i = 0; i < 2; i++)
            if (d->staged[i] != NULL) cudaEventDestroy(d->staged[i]);
        if (d->staging != NULL) cudaFreeHost(d->staging);
        if (d->fault_host != NULL) cudaFreeHost(d->fault_host);
        if (d->read_mem != NULL) cudaFreeHost(d->read_mem);
        cudaStreamDestroy(d->stream);
        if (d->fetches != NULL) cudaStreamDestroy(d->fetches);
    }
    close_blas(d);
    mem_free(d->kept);
    mem_free(d->mark);
    mem_free(d->reads);
    mem_free(d);
}

static const struct dev_ops cuda_ops = {
    .kind = "cuda",
    .makes = true,
    .close = cuda_close,
    .sync = cuda_sync,
    .memory = memory,
    .times = cuda_times,
    .measure = cuda_measure,
    .buf_alloc = cuda_buf_alloc,
    .buf_release = cuda_buf_release,
    .write = cuda_write,
    .read = cuda_read,
    .wt_prepare = cuda_wt_prepare,
    .wt_release = cuda_wt_release,
    .wt_drop = cuda_wt_drop,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .linear = cuda_linear,
    .angles = cuda_angles,
    .rope = cuda_rope,
    .kv_store = cuda_kv_store,
    .attend = cuda_attend,
    .act = cuda_act,
    .clip = cuda_clip,
    .add = cuda_add,
    .head = cuda_head,
    .sample = cuda_sample,
    .similar = cuda_similar,
    .replay_open = cuda_replay_open,
    .replay_close = cuda_replay_close,
    .replay_begin = cuda_replay_begin,
    .replay_end = cuda_replay_end,
    .copy = cuda_copy,
    .copy_peer = cuda_copy_peer,
    .fetch = cuda_fetch,
    .event_open = event_open,
    .event_close = event_close,
    .event_record = event_record,
    .event_wait = event_wait,
};

// ---- opening

// What stands between this process and a GPU, and what to do about it. OK: n GPUs.
static enum status count(int *n, struct err *e) {
    int driver = 0, runtime = 0;
    *n = 0;
    const cudaError_t st = cudaGetDeviceCount(n);
    if (st == cudaSuccess && *n > 0) return OK;
    *n = 0;
    cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
    if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) runtime = 0;
    cudaGetLastError();
    if (driver == 0)
        return err_fail(e, E_DEVICE,
                        "no NVIDIA driver is loaded: install it (nvidia-smi shows it), or use "
                        "--devices cpu");
    if (st == cudaErrorInsufficientDriver)
        return err_fail(
            e, E_DEVICE,
            "the NVIDIA driver is too old: it supports CUDA %d.%d, this program was built with "
            "%d.%d; update the driver, or build with an older CUDA",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (st == cudaSuccess || st == cudaErrorNoDevice)
        return err_fail(e, E_DEVICE,
                        "no GPU is to be seen: see what nvidia-smi lists; CUDA_VISIBLE_DEVICES, "
                        "where it is set, hides all that it does not name");
    return err_fail(e, E_DEVICE, "the GPUs do not answer: %s", cudaGetErrorString(st));
}

int dev_cuda_count(void) {
    int n = 0;
    return count(&n, NULL) == OK ? n : 0;
}

static enum status find(struct cuda_dev *d, struct err *e) {
    struct cudaDeviceProp p;
    int n = 0;
    const enum status st = count(&n, e);
    if (st != OK) return st;
    if (d->ordinal < 0 || d->ordinal >= n)
        return err_fail(e, E_DEVICE,
                        "there is no GPU %d: %d to be seen, counted from 0 in the order of "
                        "CUDA_VISIBLE_DEVICES where that is set",
                        d->ordinal, n);
    const cudaError_t got = cudaGetDeviceProperties(&p, d->ordinal);
    if (got != cudaSuccess)
        return err_fail(e, E_DEVICE, "GPU %d: %s", d->ordinal, cudaGetErrorString(got));
    if (p.major < 8)
        return err_fail(
            e, E_DEVICE,
            "GPU %d (%s) has compute capability %d.%d; 8.0 is needed: use --devices cpu",
            d->ordinal, p.name, p.major, p.minor);
    d->smem_most = p.sharedMemPerBlockOptin;
    snprintf(d->base.describe, sizeof d->base.describe, "cuda %.60s %s, GPU %d", p.name,
             dtype_name(d->base.cfg.compute), d->ordinal);
    return OK;
}

static void open_blas(struct cuda_dev *d) {
    const bool bf16 = d->base.cfg.compute == DT_BF16;
    const int32_t turned = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    const uint64_t work = 0;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    // Pedantic: floats are multiplied as floats, never as TF32 or as sums of bf16.
    const cublasComputeType_t compute = bf16 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_32F_PEDANTIC;
    const struct cuda_blas *b = &d->blas;
    if (CUDA_BLAS_OK(d, b->create(&d->lt)) &&
        CUDA_BLAS_OK(d, b->desc_create(&d->desc, compute, CUDA_R_32F)) &&
        CUDA_BLAS_OK(d,
                     b->desc_set(d->desc, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned)) &&
        CUDA_BLAS_OK(d, b->desc_set(d->desc, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain)) &&
        CUDA_BLAS_OK(d, b->pref_create(&d->pref)) &&
        CUDA_BLAS_OK(
            d, b->pref_set(d->pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &work, sizeof work)))
        CUDA_BLAS_OK(d, b->pref_set(d->pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
                                    sizeof reduction));
}

// Failures stick to the handle, as in an operation.
static void open_memory(struct cuda_dev *d) {
    uint64_t all = UINT64_MAX; // memory that was given back stays for the next who asks
    cudaMemPool_t pool = NULL;
    void *p = NULL;
    struct err e = {.code = OK};
    if (!CUDA_OK(d, cudaSetDevice(d->ordinal)) ||
        !CUDA_OK(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking)) ||
        !CUDA_OK(d, cudaStreamCreateWithFlags(&d->fetches, cudaStreamNonBlocking)) ||
        !CUDA_OK(d, cudaDeviceGetDefaultMemPool(&pool, d->ordinal)) ||
        !CUDA_OK(d, cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all)))
        return;
    for (int i = 0; i < 2; i++)
        if (!CUDA_OK(d, cudaEventCreateWithFlags(&d->staged[i], cudaEventDisableTiming))) return;
    if (!CUDA_OK(d, cudaHostAlloc((void **)&d->staging, 2 * d->tune.staging_bytes,
                                  cudaHostAllocDefault)) ||
        !CUDA_OK(d, cudaHostAlloc((void **)&d->read_mem, CUDA_READ_BYTES, cudaHostAllocDefault)) ||
        !CUDA_OK(
            d, cudaHostAlloc((void **)&d->fault_host, sizeof *d->fault_host, cudaHostAllocDefault)))
        return;
    const enum status st = cuda_take(d, sizeof *d->fault, &p, &e);
    if (st != OK) dev_fail(&d->base, st, "%s", e.msg);
    d->fault = p;
    if (p != NULL) CUDA_OK(d, cudaMemsetAsync(p, 0xFF, sizeof *d->fault, d->stream));
}

enum status cuda_open_with(struct dev **out, int ordinal, const struct cuda_tune *t,
                           const struct dev_config *c, struct err *e) {
    enum status st = OK;
    struct cuda_dev *d = NULL;
    *out = NULL;
    TRY(dev_config_check(c, e));
    if (c->int8)
        FAIL(e, E_UNSUPPORTED, "products of int8 are the CPU's; here there are f32 and bf16");
    TRY(mem_zalloc(&d, 1, sizeof *d, e));
    d->base.ops = &cuda_ops;
    d->base.cfg = *c;
    d->base.act = DT_F32;
    d->base.kv = c->compute;
    d->base.op = "open";
    d->ordinal = d->base.ordinal = ordinal;
    d->tune = *t;
    TRY(find(d, e));
    TRY(cuda_blas_open(&d->blas, e));
    open_memory(d);
    if (d->base.err.code == OK) open_blas(d);
    if (d->base.err.code != OK) FAIL(e, d->base.err.code, "%s", d->base.err.msg);
    *out = &d->base;
    d = NULL;
done:
    if (d != NULL) cuda_close(&d->base);
    return st;
}

enum status dev_open_cuda(struct dev **out, int ordinal, const struct dev_config *c,
                          struct err *e) {
    return cuda_open_with(out, ordinal, &usual, c, e);
}
