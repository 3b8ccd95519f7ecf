/* Memory of a GPU: taken and given back in stream order, so that nothing is waited for. Uploads pass through
 * two halves of pinned memory; one is filled while the other is copied. */
#include "kernels/cuda/cuda_impl.h"

#include "base/mem.h"

enum status cuda_take(struct cuda_dev *d, size_t bytes, void **out, struct err *e) {
    *out = NULL;
    if (d->capturing) return err_fail(e, E_BUG, "memory while operations are recorded");
    d->generation++;
    cudaError_t st = cudaMallocAsync(out, bytes > 0 ? bytes : 1, d->stream);
    while (st == cudaErrorMemoryAllocation && cuda_wt_evict(d)) {
        cudaGetLastError();
        st = cudaMallocAsync(out, bytes > 0 ? bytes : 1, d->stream);
    }
    if (st == cudaSuccess) return OK;
    cudaGetLastError();
    *out = NULL;
    if (st != cudaErrorMemoryAllocation)
        return err_fail(e, E_DEVICE, "GPU %d: %s", d->ordinal, cudaGetErrorString(st));
    size_t left = 0, all = 0;
    if (cudaMemGetInfo(&left, &all) != cudaSuccess) cudaGetLastError();
    return err_fail(
        e, E_NOMEM,
        "GPU %d has no room for %.1f MiB more (%.1f of %.1f MiB are free): use a smaller "
        "span, cache or model",
        d->ordinal, (double)bytes / 1048576, (double)left / 1048576, (double)all / 1048576);
}

void cuda_give(struct cuda_dev *d, void *p) {
    // Not through cuda_check: memory is given back after failures, too.
    d->generation++;
    if (p != NULL && cudaFreeAsync(p, d->stream) != cudaSuccess) cudaGetLastError();
}

void *cuda_scratch(struct cuda_dev *d, struct cuda_mem *m, size_t bytes) {
    if (bytes <= m->bytes) return m->p;
    struct err e = {.code = OK};
    cuda_give(d, m->p); // contents are not kept, so that the peak is one copy
    m->bytes = 0;
    const enum status st = cuda_take(d, bytes, &m->p, &e);
    if (st != OK) {
        dev_fail(&d->base, st, "%s", e.msg);
        return NULL;
    }
    m->bytes = bytes;
    return m->p;
}

// ---- uploads

// Uploads lie one behind the other in a half; the other half is taken when one is full, and waited for only
// where its copies are still going on.
static bool turn_over(struct cuda_dev *d) {
    if (!CUDA_OK(d, cudaEventRecord(d->staged[d->half], d->stream))) return false;
    d->half = !d->half;
    d->half_used = 0;
    return CUDA_OK(d, cudaEventSynchronize(d->staged[d->half]));
}

void cuda_upload(struct cuda_dev *d, void *dst, size_t n, cuda_fill *fill, const void *ctx) {
    const size_t all = d->tune.staging_bytes;
    if (d->capturing) dev_fail(&d->base, E_BUG, "an upload while operations are recorded");
    for (size_t at = 0; !d->capturing && at < n;) {
        if (d->half_used == all && !turn_over(d)) return;
        const size_t room = all - d->half_used, k = n - at < room ? n - at : room;
        unsigned char *from = d->staging + (d->half ? all : 0) + d->half_used;
        fill(ctx, at, k, from);
        if (!CUDA_OK(d, cudaMemcpyAsync((unsigned char *)dst + at, from, k, cudaMemcpyHostToDevice,
                                        d->stream)))
            return;
        d->half_used += k;
        at += k;
    }
}

static void fill_bytes(const void *ctx, size_t at, size_t k, unsigned char *out) {
    memcpy(out, (const unsigned char *)ctx + at, k);
}

void cuda_upload_bytes(struct cuda_dev *d, void *dst, const void *host, size_t n) {
    cuda_upload(d, dst, n, fill_bytes, host);
}

// ---- buffers

enum status cuda_buf_alloc(struct buf *b, struct err *e) {
    enum status st = OK;
    struct cuda_dev *d = cuda_of(b->dev);
    struct cuda_buf *m = NULL;
    void *p = NULL;
    if (cudaSetDevice(d->ordinal) != cudaSuccess) FAIL(e, E_DEVICE, "GPU %d is gone", d->ordinal);
    TRY(mem_zalloc(&m, 1, sizeof *m, e));
    if (b->kind == BUF_SEG || b->kind == BUF_SAMPLE || b->kind == BUF_ADJUST)
        TRY(mem_zalloc(&m->host, (size_t)b->n_row, b->row_bytes, e));
    TRY(cuda_take(d, (size_t)b->n_row * b->row_bytes, &p, e));
    m->p = p;
    b->data = m;
    m = NULL;
done:
    if (m != NULL) mem_free(m->host);
    mem_free(m);
    return st;
}

void cuda_buf_release(struct buf *b) {
    struct cuda_dev *d = cuda_of(b->dev);
    struct cuda_buf *m = b->data;
    cudaSetDevice(d->ordinal);
    cuda_wrote(d, b);
    for (int i = 0; i < 2; i++) {
        cuda_give(d, m->plan[i].mem.p);
        mem_free(m->plan[i].host);
    }
    cuda_give(d, m->p);
    mem_free(m->host);
    mem_free(m);
}

// Rows of structs are read by the host as well: a copy of them stays there.
static void keep_rows(struct buf *dst, int64_t row, int64_t n, const void *from) {
    struct cuda_buf *m = dst->data;
    if (m->host == NULL || n == 0) return;
    memcpy(m->host + (size_t)row * dst->row_bytes, from, (size_t)n * dst->row_bytes);
    m->version++;
}

static const void *kept_rows(const struct buf *src, int64_t row) {
    const struct cuda_buf *m = src->data;
    return m->host != NULL ? m->host + (size_t)row * src->row_bytes : NULL;
}

void cuda_write(struct dev *dev, struct buf *dst, int64_t row, int64_t n, const void *host) {
    struct cuda_dev *d = cuda_begin(dev, DEV_OTHER);
    cuda_wrote(d, dst);
    keep_rows(dst, row, n, host);
    cuda_upload_bytes(d, cuda_at(dst, row), host, (size_t)n * dst->row_bytes);
}

// Through pinned memory, so that the copy is waited for with everything else: cuda_settle hands it on. What is
// too large for that is copied where it belongs.
void cuda_read(struct dev *dev, const struct buf *src, int64_t row, int64_t n, void *host) {
    struct cuda_dev *d = cuda_begin(dev, DEV_OTHER);
    const size_t bytes = (size_t)n * src->row_bytes;
    void *to = host;
    if (d->capturing) dev_fail(dev, E_BUG, "a read while operations are recorded");
    if (n == 0 || d->capturing) return;
    if (bytes <= CUDA_READ_BYTES - d->read_used &&
        mem_grow(&d->reads, &d->cap_reads, d->n_reads + 1, sizeof *d->reads, NULL) == OK) {
        to = d->read_mem + d->read_used;
        d->reads[d->n_reads++] = (struct cuda_read){host, to, bytes};
        d->read_used += (bytes + 15) / 16 * 16;
    }
    CUDA_OK(d, cudaMemcpyAsync(to, cuda_at(src, row), bytes, cudaMemcpyDeviceToHost, d->stream));
}

void cuda_copy(struct dev *dev, struct buf *dst, int64_t dst_row, const struct buf *src,
               int64_t src_row, int64_t n) {
    struct cuda_dev *d = cuda_begin(dev, DEV_OTHER);
    cuda_wrote(d, dst);
    keep_rows(dst, dst_row, n, kept_rows(src, src_row));
    if (n > 0)
        CUDA_OK(d,
                cudaMemcpyAsync(cuda_at(dst, dst_row), cuda_at(src, src_row),
                                (size_t)n * dst->row_bytes, cudaMemcpyDeviceToDevice, d->stream));
}

// `second` goes on once what is queued on `first` has run.
static bool after(struct cuda_dev *first, struct cuda_dev *second, cudaEvent_t *ev) {
    return CUDA_OK(first, cudaSetDevice(first->ordinal)) &&
           CUDA_OK(first, cudaEventCreateWithFlags(ev, cudaEventDisableTiming)) &&
           CUDA_OK(first, cudaEventRecord(*ev, first->stream)) &&
           CUDA_OK(second, cudaSetDevice(second->ordinal)) &&
           CUDA_OK(second, cudaStreamWaitEvent(second->stream, *ev, 0));
}

void cuda_copy_peer(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                    const struct buf *src, int64_t src_row, int64_t n) {
    struct cuda_dev *from = cuda_of(src_dev), *to = cuda_of(dst_dev);
    cudaEvent_t ready = NULL, read = NULL;
    cuda_wrote(to, dst);
    keep_rows(dst, dst_row, n, kept_rows(src, src_row));
    if (n == 0 || !after(from, to, &ready)) goto done;
    if (CUDA_OK(to, cudaMemcpyPeerAsync(cuda_at(dst, dst_row), to->ordinal, cuda_at(src, src_row),
                                        from->ordinal, (size_t)n * dst->row_bytes, to->stream)))
        after(to, from, &read); // the rows must not change before they have been read
done:
    if (ready != NULL) cudaEventDestroy(ready); // lives on until it has happened
    if (read != NULL) cudaEventDestroy(read);
}

// Asks once for the other GPU's memory to be reached without a stop in the host's; copies do without, too.
static void reach(struct cuda_dev *to, const struct cuda_dev *from) {
    const uint64_t bit = (uint64_t)1 << (from->ordinal & 63);
    cudaMemPool_t pool = NULL;
    int can = 0;
    if (to->ordinal == from->ordinal || (to->reaches & bit)) return;
    to->reaches |= bit;
    const struct cudaMemAccessDesc access = {
        .location = {.type = cudaMemLocationTypeDevice, .id = to->ordinal},
        .flags = cudaMemAccessFlagsProtReadWrite};
    if (cudaDeviceCanAccessPeer(&can, to->ordinal, from->ordinal) != cudaSuccess || !can ||
        cudaDeviceGetDefaultMemPool(&pool, from->ordinal) != cudaSuccess ||
        cudaMemPoolSetAccess(pool, &access, 1) != cudaSuccess)
        cudaGetLastError();
}

void cuda_fetch(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                const struct buf *src, int64_t src_row, int64_t n) {
    struct cuda_dev *from = cuda_of(src_dev), *to = cuda_of(dst_dev);
    if (n == 0 || !CUDA_OK(to, cudaSetDevice(to->ordinal))) return;
    reach(to, from);
    cuda_wrote(to, dst);
    CUDA_OK(to, cudaMemcpyPeerAsync(cuda_at(dst, dst_row), to->ordinal, cuda_at(src, src_row),
                                    from->ordinal, (size_t)n * dst->row_bytes, to->fetches));
}

// ---- work items

static enum status plan_make(struct cuda_plan *p, const struct dev_seg *seg, struct err *e) {
    enum status st = OK;
    p->n_item = 0;
    for (int i = 0; i < p->n_seg; i++) {
        const int64_t n = (int64_t)seg[i].n_row * p->group, more = (n + p->rows - 1) / p->rows;
        TRY(mem_grow(&p->host, &p->cap, (size_t)(p->n_item + more), sizeof *p->host, e));
        for (int64_t k = 0; k < more; k++)
            p->host[p->n_item++] = (struct cuda_item){.seg = i, .first = k * p->rows};
    }
done:
    return st;
}

const struct cuda_item *cuda_plan_items(struct cuda_dev *d, const struct buf *seg, int which,
                                        int n_seg, int rows, int group, int64_t *n_item) {
    struct cuda_buf *b = seg->data;
    struct cuda_plan *p = &b->plan[which];
    struct err e = {.code = OK};
    *n_item = p->n_item;
    if (p->version == b->version && p->n_seg == n_seg && p->rows == rows && p->group == group)
        return p->mem.p;
    p->version = 0;
    p->n_seg = n_seg;
    p->rows = rows;
    p->group = group;
    const enum status st = plan_make(p, cuda_segs(seg), &e);
    if (st != OK) {
        dev_fail(&d->base, st, "%s", e.msg);
        return NULL;
    }
    const size_t bytes = (size_t)p->n_item * sizeof *p->host;
    if (cuda_scratch(d, &p->mem, bytes) == NULL) return NULL;
    cuda_upload_bytes(d, p->mem.p, p->host, bytes);
    *n_item = p->n_item;
    p->version = b->version;
    return d->base.err.code == OK ? p->mem.p : NULL;
}
