#include "io/fmap.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_MAPS = 256 };

struct fmap {
    unsigned char *data; /* mapped, or NULL when empty */
    size_t bytes;
    int slot;
    char *path; /* owned */
};

/* The one piece of process-wide mutable state below cmd/: a signal handler gets no argument through
 * which it could reach a mapping, so the ranges it may repair live here. Slots are claimed and
 * freed atomically. */
static struct {
    _Atomic uintptr_t begin, end; /* end is 0 while the slot is unused */
    _Atomic int claimed, torn;
} g_slots[MAX_MAPS];
static struct sigaction g_previous;
static pthread_once_t g_once = PTHREAD_ONCE_INIT;
static long g_page;

static void on_sigbus(int sig, siginfo_t *info, void *context) {
    (void)context;
    const uintptr_t at = (uintptr_t)info->si_addr;
    for (int i = 0; i < MAX_MAPS; i++) {
        const uintptr_t begin = atomic_load(&g_slots[i].begin), end = atomic_load(&g_slots[i].end);
        if (end == 0 || at < begin || at >= end) continue;
        const uintptr_t page = at - (at - begin) % (uintptr_t)g_page; // begin is page-aligned
        void *zeros = mmap((void *)page, (size_t)g_page, PROT_READ,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (zeros != MAP_FAILED) {
            atomic_store(&g_slots[i].torn, 1);
            return;
        }
    }
    sigaction(sig, &g_previous, NULL); // not ours: let the fault happen again under the old handler
}

static void install(void) {
    g_page = sysconf(_SC_PAGESIZE);
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_sigbus;
    sa.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, &g_previous);
}

static int claim_slot(const unsigned char *data, size_t bytes) {
    pthread_once(&g_once, install);
    const size_t page = (size_t)g_page;
    for (int i = 0; i < MAX_MAPS; i++) {
        int expected = 0;
        if (!atomic_compare_exchange_strong(&g_slots[i].claimed, &expected, 1)) continue;
        atomic_store(&g_slots[i].torn, 0);
        atomic_store(&g_slots[i].begin, (uintptr_t)data);
        atomic_store(&g_slots[i].end, (uintptr_t)data + (bytes + page - 1) / page * page);
        return i;
    }
    return -1;
}

enum status fmap_open(struct fmap **out, const char *path, struct err *e) {
    enum status st = OK;
    struct fmap *m = NULL;
    int fd = -1;
    *out = NULL;
    TRY(mem_zalloc(&m, 1, sizeof *m, e));
    m->slot = -1;
    TRY(mem_dup(&m->path, path, strlen(path), e));
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not block here
    if (fd < 0) {
        st = err_errno(e, E_NOINPUT, errno, "%s", path);
        goto done;
    }
    struct stat sb;
    if (fstat(fd, &sb) != 0) {
        st = err_errno(e, E_IO, errno, "%s", path);
        goto done;
    }
    if (!S_ISREG(sb.st_mode)) FAIL(e, E_NOINPUT, "%s: not a regular file", path);
    m->bytes = (size_t)sb.st_size;
    if (m->bytes > 0) {
        void *p = mmap(NULL, m->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            st = err_errno(e, E_IO, errno, "%s: cannot map %zu bytes", path, m->bytes);
            goto done;
        }
        m->data = p;
        m->slot = claim_slot(m->data, m->bytes);
        if (m->slot < 0) FAIL(e, E_NOMEM, "%s: more than %d files mapped at once", path, MAX_MAPS);
    }
    *out = m;
    m = NULL;
done:
    if (fd >= 0) close(fd); // the mapping stays valid without the descriptor
    fmap_close(m);
    return st;
}

void fmap_close(struct fmap *m) {
    if (m == NULL) return;
    if (m->slot >= 0) {
        atomic_store(&g_slots[m->slot].end, 0);
        atomic_store(&g_slots[m->slot].claimed, 0);
    }
    if (m->data != NULL) munmap(m->data, m->bytes);
    mem_free(m->path);
    mem_free(m);
}

const unsigned char *fmap_borrow_data(const struct fmap *m) {
    return m->data;
}

size_t fmap_bytes(const struct fmap *m) {
    return m->bytes;
}

const char *fmap_borrow_path(const struct fmap *m) {
    return m->path;
}

bool fmap_torn(const struct fmap *m) {
    return m->slot >= 0 && atomic_load(&g_slots[m->slot].torn) != 0;
}
