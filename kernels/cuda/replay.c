/* Sequences of operations that repeat, as CUDA graphs. The first time a sequence runs as it is, so that scratch has
 * grown and shared memory is allowed; the second time the stream is captured; from then on one launch queues it.
 *
 * What a graph has in it beside buffers' addresses is checked before each launch: no memory has been taken or given
 * back since (`generation`), and the segments still fit the grids that were captured. */
#include "kernels/cuda/cuda_impl.h"

#include "base/mem.h"

enum { RECORDS = 8, KEY_BYTES = 64, CONDITIONS = 16 };

struct cuda_record {
    unsigned char key[KEY_BYTES];
    size_t n_key;         // 0: free
    uint64_t generation;  // of the handle, when it ran
    uint64_t used;        // when, by the replay's clock
    bool ran, too_much;   // too_much: more conditions than there is room for
    cudaGraphExec_t exec; // owned, or NULL
    struct cuda_condition condition[CONDITIONS];
    int n_condition;
    struct cuda_watched watched[CUDA_WATCHES];
    uint32_t n_watched;
};

struct cuda_replay {
    struct cuda_record record[RECORDS];
    uint64_t clock;
};

static void forget(struct cuda_record *r) {
    if (r->exec != NULL && cudaGraphExecDestroy(r->exec) != cudaSuccess) cudaGetLastError();
    r->exec = NULL;
    r->ran = r->too_much = false;
    r->n_condition = 0;
}

enum status cuda_replay_open(struct dev_replay *r, struct err *e) {
    struct cuda_replay *c = NULL;
    const enum status st = mem_zalloc(&c, 1, sizeof *c, e);
    r->state = c;
    return st;
}

void cuda_replay_close(struct dev_replay *r) {
    struct cuda_replay *c = r->state;
    struct cuda_dev *d = cuda_of(r->dev);
    if (cudaSetDevice(d->ordinal) == cudaSuccess) {
        cudaStreamSynchronize(d->stream); // nothing runs that is to be destroyed
        for (int i = 0; i < RECORDS; i++) forget(&c->record[i]);
    }
    mem_free(c);
}

static struct cuda_record *record_of(struct cuda_replay *c, const void *key, size_t n) {
    struct cuda_record *oldest = &c->record[0];
    for (int i = 0; i < RECORDS; i++) {
        struct cuda_record *r = &c->record[i];
        if (r->n_key == n && memcmp(r->key, key, n) == 0) return r;
        if (r->used < oldest->used) oldest = r;
    }
    forget(oldest);
    memcpy(oldest->key, key, n);
    oldest->n_key = n;
    return oldest;
}

// Fails the handle where the segments are wrong.
static bool still_fits(struct cuda_dev *d, const struct cuda_record *r) {
    for (int i = 0; i < r->n_condition; i++) {
        const struct cuda_condition *c = &r->condition[i];
        const struct dev_seg *seg = cuda_segs(c->seg);
        const int64_t need =
            c->attends ? cuda_step_tiles(seg, c->n_seg) : cuda_store_pieces(seg, c->n_seg);
        if (need > c->grid || !dev_host_segs_ok(&d->base, seg, c->n_seg, c->n_row, c->kv_rows,
                                                c->attends, c->attends))
            return false;
    }
    return true;
}

void cuda_note_segs(struct cuda_dev *d, const struct cuda_condition *c) {
    struct cuda_record *r = d->noting;
    if (r == NULL) return;
    for (int i = 0; i < r->n_condition; i++) {
        const struct cuda_condition *o = &r->condition[i];
        if (o->seg == c->seg && o->n_seg == c->n_seg && o->n_row == c->n_row &&
            o->kv_rows == c->kv_rows && o->attends == c->attends && o->grid == c->grid)
            return;
    }
    r->too_much = r->too_much || r->n_condition == CONDITIONS;
    if (!r->too_much) r->condition[r->n_condition++] = *c;
}

bool cuda_replay_begin(struct dev_replay *rp, const void *key, size_t n) {
    struct cuda_dev *d = cuda_begin(rp->dev, DEV_OTHER);
    struct cuda_replay *c = rp->state;
    d->operand_of = NULL;
    // Faults are named by their number, which the graph has in it: they must begin anew.
    if (!cuda_steps(d) || n > KEY_BYTES || d->n_watched > 0) return false;
    struct cuda_record *r = record_of(c, key, n);
    r->used = ++c->clock;
    const bool fits = r->ran && r->generation == d->generation && still_fits(d, r);
    if (fits && r->exec != NULL) {
        memcpy(d->watched, r->watched, sizeof d->watched);
        d->n_watched = r->n_watched;
        CUDA_OK(d, cudaGraphLaunch(r->exec, d->stream));
        return true;
    }
    if (d->base.err.code != OK) return false;
    const bool capture = fits && !r->too_much;
    forget(r);
    if (capture && !CUDA_OK(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal)))
        return false;
    d->capturing = capture;
    d->noting = r;
    return false;
}

void cuda_replay_end(struct dev_replay *rp, bool whole) {
    struct cuda_dev *d = cuda_of(rp->dev);
    struct cuda_record *r = d->noting;
    cudaGraph_t graph = NULL;
    d->noting = NULL;
    d->operand_of = NULL;
    if (r == NULL) return;
    r->generation = d->generation;
    r->n_watched = d->n_watched;
    memcpy(r->watched, d->watched, sizeof d->watched);
    if (!d->capturing) {
        r->ran = whole && d->base.err.code == OK;
        return;
    }
    d->capturing = false;
    bool ok =
        CUDA_OK(d, cudaStreamEndCapture(d->stream, &graph)) && whole && d->base.err.code == OK;
    ok = ok && CUDA_OK(d, cudaGraphInstantiateWithFlags(&r->exec, graph, 0)) &&
         CUDA_OK(d, cudaGraphLaunch(r->exec, d->stream));
    r->ran = ok;
    if (graph != NULL && cudaGraphDestroy(graph) != cudaSuccess) cudaGetLastError();
    if (!ok) forget(r);
}
