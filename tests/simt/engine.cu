/* The threads of a block as fibers. One operating-system thread runs them all, one block after another. */
#include "tests/simt/simt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

enum { MOST_THREADS = 256, STACK_BYTES = 256 * 1024, WARP = 32 };

enum fiber_state { READY, IN_WARP, AT_BARRIER, DONE };

struct copy {
    void *dst;
    const void *src;
    int group;
};

// A stack of its own: a thread of the block, or (without a stack to free) the scheduler.
struct context {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t uc;
#endif
    void *fake; // ASan's
    const void *bottom;
    size_t size;
};

struct fiber {
    struct context at;
    enum fiber_state state;
    int index;
    struct simt_self self;
    struct copy *copies;
    int n_copy, cap_copy, group;
    unsigned char *stack;
};

struct warp {
    int arrived;
    simt_warp_fn fn;
    const void *in[WARP];
    void *out[WARP];
};

// The block at work.
static __thread struct fiber fibers[MOST_THREADS];
static __thread struct warp warps[MOST_THREADS / WARP];
static __thread struct context scheduler;
static __thread struct fiber *current;
static __thread int n_thread, n_waiting;
static __thread bool eager;
static __thread void (*body)(void *);
static __thread void *body_arg;
__thread struct simt_self *simt_self;

void simt_die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "simulated GPU: ");
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    abort();
}

// ---- switching

#if defined(__x86_64__)
extern "C" void simt_switch(void **save, void *load);
asm(".text\n.p2align 4\n.globl simt_switch\n.type simt_switch, @function\nsimt_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size simt_switch, .-simt_switch\n");
#endif

static void change(struct context *from, struct context *to, bool for_good) {
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(for_good ? NULL : &from->fake, to->bottom, to->size);
#endif
    (void)for_good;
#if defined(__x86_64__)
    simt_switch(&from->sp, to->sp);
#else
    swapcontext(&from->uc, &to->uc);
#endif
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

static void enter(void) {
    struct fiber *f = current;
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(NULL, &scheduler.bottom, &scheduler.size);
#endif
    body(body_arg);
    f->state = DONE;
    change(&f->at, &scheduler, true);
    simt_die("a thread went on after its end");
}

static void give_way(void) {
    change(&current->at, &scheduler, false);
}

static void prepare(struct fiber *f) {
    if (f->stack == NULL) {
        void *p =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) simt_die("no memory for a stack");
        f->stack = static_cast<unsigned char *>(p);
    }
#if defined(SIMT_ASAN)
    __asan_unpoison_memory_region(f->stack, STACK_BYTES);
#endif
    f->at.fake = NULL;
    f->at.bottom = f->stack;
    f->at.size = STACK_BYTES;
#if defined(__x86_64__)
    void **sp = reinterpret_cast<void **>(f->stack + STACK_BYTES);
    *--sp = NULL; // where a caller's return address would be: the calling convention counts on it
    *--sp = reinterpret_cast<void *>(enter);
    for (int i = 0; i < 6; i++) *--sp = NULL;
    f->at.sp = sp;
#else
    getcontext(&f->at.uc);
    f->at.uc.uc_stack.ss_sp = f->stack;
    f->at.uc.uc_stack.ss_size = STACK_BYTES;
    makecontext(&f->at.uc, enter, 0);
#endif
    f->state = READY;
    f->n_copy = f->group = 0;
}

// ---- a block

static void resume(struct fiber *f) {
    current = f;
    simt_self = &f->self;
    change(&scheduler, &f->at, false);
}

static uint32_t next_random(uint32_t *x) {
    *x = *x * 1664525u + 1013904223u;
    return *x >> 8;
}

// Lets every thread that can go on do so, once, in the device's order. The number that did.
static int pass(int device, uint32_t *rng) {
    static __thread int order[MOST_THREADS];
    int went = 0;
    for (int i = 0; i < n_thread; i++) order[i] = device == 1 ? n_thread - 1 - i : i;
    for (int i = n_thread - 1; device >= 2 && i > 0; i--) {
        const int j = (int)(next_random(rng) % (uint32_t)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < n_thread; i++) {
        if (fibers[order[i]].state != READY) continue;
        resume(&fibers[order[i]]);
        went++;
    }
    return went;
}

static void run_block(int device, uint32_t *rng) {
    memset(warps, 0, sizeof warps);
    n_waiting = 0;
    for (int i = 0; i < n_thread; i++) prepare(&fibers[i]);
    while (pass(device, rng) > 0) {
    }
    for (int i = 0; i < n_thread; i++)
        if (fibers[i].state != DONE)
            simt_die("thread %d waits %s, others do not come", i,
                     fibers[i].state == IN_WARP ? "for its warp" : "at a barrier");
}

void simt_run(int device, struct simt_dim grid, struct simt_dim block, size_t smem_bytes,
              void (*run)(void *), void *arg) {
    unsigned char *smem = static_cast<unsigned char *>(malloc(smem_bytes > 0 ? smem_bytes : 1));
    uint32_t rng = 12345u + (uint32_t)device;
    const int64_t n_block = (int64_t)grid.x * grid.y;
    n_thread = (int)block.x;
    if (smem == NULL || n_thread % WARP != 0 || n_thread > MOST_THREADS || block.y != 1 ||
        grid.z != 1 || grid.x == 0 || grid.y == 0 || grid.y > 65535)
        simt_die("a launch of %u x %u blocks of %d threads", grid.x, grid.y, n_thread);
    if (smem_bytes > 227 * 1024) simt_die("%zu bytes of shared memory", smem_bytes);
    body = run;
    body_arg = arg;
    eager = device % 2 == 1;
    for (int64_t b = 0; b < n_block; b++) {
        const int64_t at = device == 1 ? n_block - 1 - b : b;
        memset(smem, 0xFF, smem_bytes);
        for (int i = 0; i < n_thread; i++) {
            fibers[i].index = i;
            fibers[i].self =
                (struct simt_self){{(unsigned)i, 0, 0},
                                   {(unsigned)(at % grid.x), (unsigned)(at / grid.x), 0},
                                   block,
                                   grid,
                                   smem,
                                   smem_bytes};
        }
        run_block(device, &rng);
    }
    free(smem);
}

void simt_barrier(void) {
    if (++n_waiting < n_thread) {
        current->state = AT_BARRIER;
        give_way();
        return;
    }
    n_waiting = 0;
    for (int i = 0; i < n_thread; i++) {
        if (fibers[i].state == DONE || fibers[i].state == IN_WARP)
            simt_die("a barrier that thread %d does not come to", i);
        fibers[i].state = READY;
    }
}

void simt_warp(simt_warp_fn fn, const void *in, void *out) {
    const int first = current->index / WARP * WARP;
    struct warp *w = &warps[current->index / WARP];
    if (w->arrived > 0 && w->fn != fn) simt_die("lanes of a warp do different things");
    w->fn = fn;
    w->in[current->index - first] = in;
    w->out[current->index - first] = out;
    if (++w->arrived < WARP) {
        current->state = IN_WARP;
        give_way();
        return;
    }
    w->arrived = 0;
    fn(w->in, w->out);
    for (int i = first; i < first + WARP; i++) fibers[i].state = READY;
}

// ---- asynchronous copies

static void perform(const struct copy *c) {
    if (c->src != NULL)
        memcpy(c->dst, c->src, 16);
    else
        memset(c->dst, 0, 16);
}

void simt_copy(void *shared, const void *global) {
    struct fiber *f = current;
    const struct copy c = {shared, global, f->group};
    if (eager) {
        perform(&c);
        return;
    }
    if (f->n_copy == f->cap_copy) {
        f->cap_copy = f->cap_copy > 0 ? 2 * f->cap_copy : 64;
        void *grown = realloc(f->copies, (size_t)f->cap_copy * sizeof *f->copies);
        if (grown == NULL) simt_die("no memory for copies");
        f->copies = static_cast<struct copy *>(grown);
    }
    f->copies[f->n_copy++] = c;
}

void simt_copies_commit(void) {
    current->group++;
}

void simt_copies_wait(int left) {
    struct fiber *f = current;
    int kept = 0;
    for (int i = 0; i < f->n_copy; i++) {
        if (f->copies[i].group < f->group - left)
            perform(&f->copies[i]);
        else
            f->copies[kept++] = f->copies[i];
    }
    f->n_copy = kept;
}

void simt_check_shared(const void *p, size_t n) {
    const unsigned char *at = static_cast<const unsigned char *>(p);
    const struct simt_self *s = simt_self;
    if (at < s->smem || n > s->smem_bytes || (size_t)(at - s->smem) > s->smem_bytes - n)
        simt_die("shared memory: %zu bytes at %td of %zu", n, at - s->smem, s->smem_bytes);
}
