/* The stand-in of the CUDA runtime: devices, memory, lazy streams, events. See simt.h. */
#include <cuda_runtime.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#if defined(SIMT_ASAN)
enum { GUARD_BYTES = 0 }; // ASan has its own
#else
enum { GUARD_BYTES = 64 };
#endif
enum { GUARD = 0xC3, ALIGN = 256, EAGER = 3 /* device */ };

struct op {
    struct op *next;
    void (*run)(void *);
    void *arg;
    bool own; // arg is freed with it
};

// What a stream was asked for while it was captured.
struct simt_graph {
    struct op *first, **last;
    int refs;
};

struct simt_stream {
    struct simt_stream *next;
    int device;
    struct op *first, **last;
    int64_t queued, done;
    bool running;
    struct simt_graph *capture; // NULL: what is asked for is queued
};

struct simt_event {
    int device;
    bool timing;
    struct simt_stream *stream; // NULL: not recorded yet
    int64_t at;
};

struct block {
    struct block *next;
    unsigned char *p;
    size_t bytes;
    int device; // < 0: pinned host memory
};

static struct {
    struct simt_world world;
    struct simt_counts counts;
    struct block *blocks;
    struct simt_stream *streams; // kept after their end: events may name them
    size_t used[4];
} g = {.world = {.n_device = 4,
                 .driver = 13000,
                 .runtime = 13000,
                 .memory_bytes = (size_t)1 << 30,
                 .major = 9,
                 .fail_launch_after = -1}};

// As in CUDA: each thread has a current device and a last error of its own.
static __thread int current;
static __thread cudaError_t last_error;

// The devices take turns, in the order in which they came: what several threads do to them is simulated one
// after the other, and none waits for ever.
static struct {
    pthread_mutex_t mu;
    pthread_cond_t moved;
    unsigned long next, now;
} turn = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
static __thread int depth; // of calls inside calls

static int take_turn(void) {
    if (depth++ > 0) return 0;
    pthread_mutex_lock(&turn.mu);
    const unsigned long mine = turn.next++;
    while (turn.now != mine) pthread_cond_wait(&turn.moved, &turn.mu);
    pthread_mutex_unlock(&turn.mu);
    return 0;
}

static void end_turn(const int *unused) {
    (void)unused;
    if (--depth > 0) return;
    pthread_mutex_lock(&turn.mu);
    turn.now++;
    pthread_cond_broadcast(&turn.moved);
    pthread_mutex_unlock(&turn.mu);
}
#define IN_TURN __attribute__((cleanup(end_turn), unused)) const int in_turn = take_turn()

// What a call on a device comes to.
static cudaError_t on(int device) {
    if ((g.world.broken >> device & 1) == 0 || g.world.broken_after >= 0) return cudaSuccess;
    last_error = (cudaError_t)g.world.broken_error;
    return last_error;
}

struct simt_world *simt_world(void) {
    return &g.world;
}

struct simt_counts *simt_counts(void) {
    return &g.counts;
}

size_t simt_memory_used(void) {
    IN_TURN;
    return g.used[0] + g.used[1] + g.used[2] + g.used[3];
}

// ---- memory

static size_t memory_of(int device) {
    return g.world.memory_of[device] > 0 ? g.world.memory_of[device] : g.world.memory_bytes;
}

static struct block *find(const void *p, size_t n) {
    for (struct block **at = &g.blocks; *at != NULL; at = &(*at)->next) {
        struct block *b = *at;
        if ((const unsigned char *)p < b->p || (const unsigned char *)p >= b->p + b->bytes)
            continue;
        if (n > b->bytes - (size_t)((const unsigned char *)p - b->p)) return NULL;
        *at = b->next; // to the front: the next question is likely the same
        b->next = g.blocks;
        g.blocks = b;
        return b;
    }
    return NULL;
}

static void check_device(const void *p, size_t n, int device) {
    const struct block *b = find(p, n);
    if (b == NULL) simt_die("%zu bytes at %p are not memory that was taken", n, p);
    if (b->device != device) simt_die("memory of device %d on device %d", b->device, device);
}

void simt_check_global(const void *p, size_t n) {
    IN_TURN;
    if (find(p, n) == NULL) simt_die("%zu bytes at %p are not memory that was taken", n, p);
}

static void check_guard(const struct block *b) {
    for (int i = 0; i < GUARD_BYTES; i++)
        if (b->p[b->bytes + (size_t)i] != GUARD)
            simt_die("a write behind the end of %zu bytes", b->bytes);
}

static void *take(size_t bytes, int device) {
    struct block *b = malloc(sizeof *b);
    void *p = NULL;
    if (b == NULL || posix_memalign(&p, ALIGN, bytes + GUARD_BYTES) != 0) simt_die("no memory");
    memset(p, 0xFF, bytes); // NaN
    memset((unsigned char *)p + bytes, GUARD, GUARD_BYTES);
    *b = (struct block){.next = g.blocks, .p = p, .bytes = bytes, .device = device};
    g.blocks = b;
    return p;
}

static void give(void *p) {
    struct block *b = find(p, 1);
    if (b == NULL || b->p != p) simt_die("freed what was not taken");
    check_guard(b);
    g.blocks = b->next; // find() has put it in front
    if (b->device >= 0) g.used[b->device] -= b->bytes;
    free(b->p);
    free(b);
}

// ---- streams

static void run_until(struct simt_stream *s, int64_t at) {
    while (s->done < at) {
        struct op *op = s->first;
        if (op == NULL || s->running) simt_die("a stream waits for itself");
        s->first = op->next;
        if (s->first == NULL) s->last = &s->first;
        s->running = true;
        op->run(op->arg);
        s->running = false;
        s->done++;
        if (op->own) free(op->arg);
        free(op);
    }
}

static void push_op(struct simt_stream *s, void (*run)(void *), void *arg, bool own) {
    struct op *op = malloc(sizeof *op);
    if (op == NULL) simt_die("no memory");
    *op = (struct op){NULL, run, arg, own};
    if (s->capture != NULL) {
        *s->capture->last = op;
        s->capture->last = &op->next;
        return;
    }
    *s->last = op;
    s->last = &op->next;
    s->queued++;
    if (s->device == EAGER) run_until(s, s->queued);
}

static void push(struct simt_stream *s, void (*run)(void *), void *arg) {
    push_op(s, run, arg, true);
}

static void not_captured(const struct simt_stream *s, const char *what) {
    if (s->capture != NULL) simt_die("%s while the stream is captured", what);
}

static void *keep(const void *p, size_t n) {
    void *q = malloc(n > 0 ? n : 1);
    if (q == NULL) simt_die("no memory");
    if (n > 0) memcpy(q, p, n);
    return q;
}

void simt_push(cudaStream_t s, void (*run)(void *), void *arg) {
    IN_TURN;
    push(s, run, arg);
}

int simt_device(cudaStream_t s) {
    return s->device;
}

bool simt_may_launch(cudaStream_t s) {
    IN_TURN;
    if (s->device != current)
        simt_die("a launch on device %d while %d is current", s->device, current);
    if ((g.world.broken >> s->device & 1) != 0 && g.world.broken_after >= 0) g.world.broken_after--;
    if (on(s->device) != cudaSuccess) return false;
    if (g.world.fail_launch_after >= 0 && g.world.fail_launch_after-- == 0) {
        last_error = cudaErrorLaunchFailure;
        return false;
    }
    return true;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    IN_TURN;
    (void)flags;
    *s = calloc(1, sizeof **s);
    if (*s == NULL) simt_die("no memory");
    (*s)->device = current;
    (*s)->last = &(*s)->first;
    (*s)->next = g.streams;
    g.streams = *s;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    IN_TURN;
    run_until(s, s->queued);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    IN_TURN;
    not_captured(s, "waiting");
    g.counts.waits += s->done < s->queued;
    run_until(s, s->queued);
    for (struct block *b = g.blocks; b != NULL; b = b->next) check_guard(b);
    return on(s->device);
}

// ---- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
    IN_TURN;
    *e = calloc(1, sizeof **e);
    if (*e == NULL) simt_die("no memory");
    (*e)->device = current;
    (*e)->timing = (flags & cudaEventDisableTiming) == 0;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    IN_TURN;
    free(e);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    IN_TURN;
    not_captured(s, "an event");
    if (on(s->device) != cudaSuccess) return on(s->device);
    if (e->device != s->device) return cudaErrorInvalidValue;
    e->stream = s;
    e->at = s->queued;
    return cudaSuccess;
}

static void wait_for(void *arg) {
    const struct simt_event *e = arg;
    run_until(e->stream, e->at);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    IN_TURN;
    (void)flags;
    not_captured(s, "an event");
    if (e->stream != NULL && e->stream != s) push(s, wait_for, keep(e, sizeof *e));
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    IN_TURN;
    if (e->stream == NULL) return on(e->device);
    g.counts.waits += e->stream->done < e->at;
    run_until(e->stream, e->at);
    return on(e->device);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    IN_TURN;
    *ms = 0.001f;
    if (!from->timing || !to->timing || from->stream == NULL || to->stream == NULL)
        return cudaErrorInvalidValue;
    return from->stream->done >= from->at && to->stream->done >= to->at ? cudaSuccess
                                                                        : cudaErrorInvalidValue;
}

// ---- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    IN_TURN;
    (void)mode;
    not_captured(s, "a capture");
    s->capture = calloc(1, sizeof *s->capture);
    if (s->capture == NULL) simt_die("no memory");
    s->capture->last = &s->capture->first;
    s->capture->refs = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph) {
    IN_TURN;
    if (s->capture == NULL) return cudaErrorInvalidValue;
    *graph = s->capture;
    s->capture = NULL;
    g.counts.captures++;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t graph,
                                          unsigned long long flags) {
    (void)flags;
    graph->refs++;
    *e = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
    IN_TURN;
    if (!simt_may_launch(s)) return cudaGetLastError();
    g.counts.replays++;
    for (const struct op *op = e->first; op != NULL; op = op->next)
        push_op(s, op->run, op->arg, false);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    IN_TURN;
    if (--graph->refs > 0) return cudaSuccess;
    for (struct simt_stream *s = g.streams; s != NULL; s = s->next) run_until(s, s->queued);
    for (struct op *op = graph->first, *next = NULL; op != NULL; op = next) {
        next = op->next;
        free(op->arg);
        free(op);
    }
    free(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) {
    return cudaGraphDestroy(e);
}

// ---- copies

struct move {
    void *dst;
    const void *src;
    size_t n;
    bool own;  // src is this move's to free
    int value; // of a memset, where src is NULL
};

static void move(void *arg) {
    const struct move *m = arg;
    if (m->src != NULL)
        memcpy(m->dst, m->src, m->n);
    else
        memset(m->dst, m->value, m->n);
    if (m->own) free((void *)(uintptr_t)m->src);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s) {
    IN_TURN;
    if (on(s->device) != cudaSuccess) return on(s->device);
    struct move m = {.dst = dst, .src = src, .n = n};
    if (n == 0) return cudaSuccess;
    if (kind != cudaMemcpyDeviceToDevice) not_captured(s, "a copy to or from the host");
    if (kind != cudaMemcpyHostToDevice) check_device(src, n, s->device);
    if (kind != cudaMemcpyDeviceToHost) check_device(dst, n, s->device);
    if (kind == cudaMemcpyHostToDevice &&
        find(src, n) == NULL) { // pageable: has been read on return
        m.src = keep(src, n);
        m.own = true;
    }
    push(s, move, keep(&m, sizeof m));
    if (kind == cudaMemcpyDeviceToHost && find(dst, n) == NULL) {
        g.counts.waits++;
        run_until(s, s->queued);
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device,
                                size_t n, cudaStream_t s) {
    IN_TURN;
    if (on(s->device) != cudaSuccess) return on(s->device);
    const struct move m = {.dst = dst, .src = src, .n = n};
    if (n == 0) return cudaSuccess;
    check_device(src, n, src_device);
    check_device(dst, n, dst_device);
    push(s, move, keep(&m, sizeof m));
    if (s->device % 2 == 1) run_until(s, s->queued); // as early as its stream allows
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s) {
    IN_TURN;
    if (on(s->device) != cudaSuccess) return on(s->device);
    const struct move m = {.dst = p, .n = n, .value = value};
    check_device(p, n, s->device);
    push(s, move, keep(&m, sizeof m));
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t s) {
    IN_TURN;
    if (on(s->device) != cudaSuccess) return on(s->device);
    if (s->device != current)
        simt_die("memory of device %d while %d is current", s->device, current);
    not_captured(s, "taking memory");
    run_until(s, s->queued); // what was freed before can be had
    const size_t most = memory_of(s->device);
    if (bytes > most || g.used[s->device] > most - bytes) {
        last_error = cudaErrorMemoryAllocation;
        return last_error;
    }
    *p = take(bytes, s->device);
    g.used[s->device] += bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t s) {
    IN_TURN;
    check_device(p, 1, s->device);
    not_captured(s, "giving memory back");
    push_op(s, give, p, false); // of a broken device, too: nothing of it stays
    return on(s->device);
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
    IN_TURN;
    (void)flags;
    *p = take(bytes, -1);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    IN_TURN;
    for (struct simt_stream *s = g.streams; s != NULL; s = s->next) run_until(s, s->queued);
    give(p);
    return cudaSuccess;
}

// ---- devices

const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorECCUncorrectable: return "uncorrectable ECC error encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorUnknown: return "unknown error";
    }
    return "unknown error";
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaGetDeviceCount(int *n) {
    *n = 0;
    if (g.world.driver / 1000 < g.world.runtime / 1000) return cudaErrorInsufficientDriver;
    if (g.world.n_device == 0) return cudaErrorNoDevice;
    *n = g.world.n_device;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *v) {
    *v = g.world.driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = g.world.runtime;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    if (device < 0 || device >= g.world.n_device) return cudaErrorInvalidDevice;
    *p = (struct cudaDeviceProp){.major = g.world.major,
                                 .minor = g.world.minor,
                                 .multiProcessorCount = 4,
                                 .totalGlobalMem = memory_of(device),
                                 .sharedMemPerBlockOptin = 227 * 1024};
    snprintf(p->name, sizeof p->name, "simulated %d", device);
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= g.world.n_device) return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    IN_TURN;
    *total = memory_of(current);
    *free_bytes = *total > g.used[current] ? *total - g.used[current] : 0;
    return on(current);
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
    (void)device;
    *pool = NULL;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr a, void *value) {
    (void)pool;
    (void)a;
    (void)value;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const struct cudaMemAccessDesc *list,
                                 size_t n) {
    (void)pool;
    for (size_t i = 0; i < n; i++)
        if (list[i].location.id >= g.world.n_device) return cudaErrorInvalidDevice;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = device != peer;
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t kept) {
    (void)pool;
    (void)kept;
    return cudaSuccess;
}
