/* Buffers, copies and events of the backends that live in host memory (ref, cpu). Their operations
 * have finished when they return, so that there is nothing to wait for. */
#include "kernels/dev_impl.h"

#include "base/mem.h"

void dev_host_sync(struct dev *d) {
    (void)d;
}

void dev_host_times(const struct dev *d, double seconds[DEV_STAGE_COUNT]) {
    memcpy(seconds, d->seconds, sizeof d->seconds);
}

enum status dev_host_buf_alloc(struct buf *b, struct err *e) {
    return mem_alloc64(&b->data, (size_t)b->n_row, b->row_bytes, e);
}

void dev_host_buf_release(struct buf *b) {
    mem_free(b->data);
}

void dev_host_write(struct dev *d, struct buf *dst, int64_t row, int64_t n, const void *host) {
    (void)d;
    if (n > 0) memcpy(dev_host_row(dst, row), host, (size_t)n * dst->row_bytes);
}

void dev_host_read(struct dev *d, const struct buf *src, int64_t row, int64_t n, void *host) {
    (void)d;
    if (n > 0) memcpy(host, dev_host_row(src, row), (size_t)n * src->row_bytes);
}

void dev_host_copy(struct dev *d, struct buf *dst, int64_t dst_row, const struct buf *src,
                   int64_t src_row, int64_t n) {
    (void)d;
    if (n > 0)
        memcpy(dev_host_row(dst, dst_row), dev_host_row(src, src_row), (size_t)n * dst->row_bytes);
}

void dev_host_copy_peer(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                        const struct buf *src, int64_t src_row, int64_t n) {
    (void)src_dev;
    dev_host_copy(dst_dev, dst, dst_row, src, src_row, n);
}

enum status dev_host_event_open(struct dev_event *ev, struct err *e) {
    (void)e;
    ev->state = NULL;
    return OK;
}

void dev_host_event_close(struct dev_event *ev) {
    (void)ev;
}

void dev_host_event_record(struct dev *d, enum dev_queue q, struct dev_event *ev) {
    (void)d;
    (void)q;
    (void)ev;
}

void dev_host_event_wait(struct dev *d, enum dev_queue q, const struct dev_event *ev) {
    (void)d;
    (void)q;
    (void)ev;
}

static bool rows_ok(int64_t row, int64_t n, int64_t n_row) {
    return n <= 0 || (row >= 0 && row <= n_row && n <= n_row - row);
}

// The keys that attend reads for a segment: sinks, those from the cache, those of the block.
static bool reads_ok(const struct dev_seg *s, int64_t kv_rows) {
    const int64_t end = s->pos + s->n_row;
    const int64_t n_sink = s->n_sink < end ? s->n_sink : end;
    const int64_t low = dev_seg_first_win(s, 0);
    const int64_t own = low > s->pos ? low : s->pos;
    return rows_ok(s->sink_row, n_sink, kv_rows) &&
           (low >= s->pos || (low >= s->old_pos &&
                              rows_ok(s->old_row + (low - s->old_pos), s->pos - low, kv_rows))) &&
           rows_ok(s->own_row + (own - s->pos), end - own, kv_rows);
}

// The rows that kv_store writes.
static bool writes_ok(const struct dev_seg *s, int64_t kv_rows) {
    const int64_t end = s->pos + s->n_row < s->n_sink ? s->pos + s->n_row : s->n_sink;
    return rows_ok(s->own_row, s->n_row, kv_rows) &&
           rows_ok(s->sink_row + s->pos, end - s->pos, kv_rows);
}

bool dev_host_segs_ok(struct dev *d, const struct dev_seg *seg, int n_seg, int64_t n_row,
                      int64_t kv_rows, bool cover, bool reads) {
    int64_t next = 0;
    for (int i = 0; i < n_seg; i++) {
        const struct dev_seg *s = seg + i;
        bool ok = s->n_row > 0 && s->pos >= 0 && s->n_sink >= 0 &&
                  (s->low <= s->pos || s->n_sink > 0) && rows_ok(s->first_row, s->n_row, n_row) &&
                  (!cover || s->first_row == next);
        // A key that the segment does not see (low past its end) has no row to check.
        ok = ok && (reads ? reads_ok(s, kv_rows) : writes_ok(s, kv_rows));
        if (!ok) {
            dev_fail(d, E_BUG, "segment %d names rows outside its buffers", i);
            return false;
        }
        next = (int64_t)s->first_row + s->n_row;
    }
    if (cover && next != n_row) {
        dev_fail(d, E_BUG, "segments cover %lld of %lld rows", (long long)next, (long long)n_row);
        return false;
    }
    return true;
}

static bool entries_ok(const struct dev_sample *a, const struct dev_adjust *entry,
                       const struct dev_sample_row *r) {
    if (r->n_adjust == 0) return true;
    if (a->adjust == NULL || r->n_adjust < 0 || !rows_ok(r->adjust, r->n_adjust, a->adjust->n_row))
        return false;
    for (int64_t i = r->adjust; i < r->adjust + r->n_adjust; i++)
        if (entry[i].id < 0 || entry[i].id >= a->logits->n_col) return false;
    return true;
}

static bool numbers_ok(const struct dev_sample_row *r) {
    return (r->temperature == 0 || (r->temperature >= 1e-6 && r->temperature <= 1e6)) &&
           r->top_k >= 0 && r->top_p > 0 && r->top_p <= 1 && r->min_p >= 0 && r->min_p <= 1 &&
           r->u >= 0 && r->u < 1;
}

bool dev_sample_rows_ok(struct dev *d, const struct dev_sample *a,
                        const struct dev_sample_row *rows, const struct dev_adjust *entries,
                        int64_t n_row) {
    for (int64_t i = 0; i < n_row; i++) {
        const struct dev_sample_row *r = rows + i;
        if (r->logits_row >= 0 && r->logits_row < a->logits->n_row && r->n_top >= 0 &&
            r->n_top <= a->n_top && entries_ok(a, entries, r) && numbers_ok(r))
            continue;
        dev_fail(d, E_BUG, "row %lld is out of range", (long long)i);
        return false;
    }
    return true;
}

bool dev_host_sample_ok(struct dev *d, const struct dev_sample *a, int64_t n_row) {
    return dev_sample_rows_ok(d, a, a->rows->data, a->adjust != NULL ? a->adjust->data : NULL,
                              n_row);
}
