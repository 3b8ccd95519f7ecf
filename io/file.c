#include "io/file.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 18 };

static enum status io_failed(struct err *e, int errno_value, const char *path, const char *doing) {
    if (errno_value == ENOSPC || errno_value == EDQUOT) {
        return err_errno(e, E_IO, errno_value, "%s: cannot %s, no space left", path, doing);
    }
    return err_errno(e, E_IO, errno_value, "%s: cannot %s", path, doing);
}

// A full disk is a failure of I/O wherever it shows; anything else means the output is refused.
static enum status create_failed(struct err *e, int errno_value, const char *path) {
    if (errno_value == ENOSPC || errno_value == EDQUOT) {
        return io_failed(e, errno_value, path, "create");
    }
    return err_errno(e, E_OUTPUT, errno_value, "%s: cannot create", path);
}

enum status file_write_all(int fd, const char *path, const void *bytes, size_t n, struct err *e) {
    const char *p = bytes;
    while (n > 0) {
        const ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return io_failed(e, errno, path, "write");
        if (k == 0) return io_failed(e, ENOSPC, path, "write"); // would loop for ever otherwise
        p += k;
        n -= (size_t)k;
    }
    return OK;
}

enum status file_sync(int fd, const char *path, struct err *e) {
    while (fsync(fd) != 0) {
        if (errno == EINVAL || errno == ENOTSUP || errno == ENOSYS) return OK;
        if (errno != EINTR) return io_failed(e, errno, path, "sync");
    }
    return OK;
}

// Directory part of a path: "." without a slash, "/" for the root.
static enum status dir_of(const char *path, char **out, struct err *e) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return mem_dup(out, ".", 1, e);
    return mem_dup(out, path, slash == path ? 1 : (size_t)(slash - path), e);
}

enum status file_sync_dir(const char *path, struct err *e) {
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_failed(e, errno, path, "open the directory");
    const enum status st = file_sync(fd, path, e);
    close(fd);
    return st;
}

static enum status sync_parent(const char *path, struct err *e) {
    enum status st = OK;
    char *dir = NULL;
    TRY(dir_of(path, &dir, e));
    TRY(file_sync_dir(dir, e));
done:
    mem_free(dir);
    return st;
}

enum status file_temp_path(const char *path, struct sbuf *out, struct err *e) {
    uint64_t random = 0;
    while (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
        if (errno != EINTR) return err_errno(e, E_IO, errno, "%s: no random numbers", path);
    }
    const char *slash = strrchr(path, '/');
    if (slash != NULL) sbuf_add(out, path, (size_t)(slash - path) + 1);
    // Not derived from the file's own name, which may already be as long as names can be.
    sbuf_printf(out, ".tmp-%ld-%016" PRIx64, (long)getpid(), random);
    return sbuf_status(out, e);
}

// Whether `from` has a second name. link() over a network may report failure for a link it made.
static bool was_linked(const char *from) {
    struct stat sb;
    return stat(from, &sb) == 0 && sb.st_nlink == 2;
}

static enum status publish_new(const char *from, const char *to, bool *existed, struct err *e) {
    if (link(from, to) == 0 || was_linked(from)) {
        if (unlink(from) != 0) return io_failed(e, errno, from, "remove the temporary name");
        return OK;
    }
    int why = errno;
    // No hard links here (FAT, some network file systems): a rename that refuses to replace.
    if (why != EEXIST && renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return OK;
    if (why != EEXIST && errno == EEXIST) why = EEXIST;
    if (why == EEXIST) {
        *existed = true;
        return err_fail(e, E_OUTPUT, "%s: exists already", to);
    }
    return create_failed(e, why, to);
}

enum status file_publish(const char *from, const char *to, enum file_mode mode, bool *existed,
                         struct err *e) {
    enum status st = OK;
    bool ignored = false;
    if (existed == NULL) existed = &ignored;
    *existed = false;
    if (mode == FILE_CREATE_ONLY) {
        TRY(publish_new(from, to, existed, e));
    } else if (rename(from, to) != 0) {
        st = create_failed(e, errno, to);
        goto done;
    }
    TRY(sync_parent(to, e));
done:
    return st;
}

enum status file_write_atomic(const char *path, const void *bytes, size_t n, enum file_mode mode,
                              bool *existed, struct err *e) {
    enum status st = OK;
    struct sbuf temp;
    int fd = -1;
    bool made = false;
    sbuf_init(&temp);
    if (existed != NULL) *existed = false;
    TRY(file_temp_path(path, &temp, e));
    fd = open(temp.s, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        st = create_failed(e, errno, path);
        goto done;
    }
    made = true;
    TRY(file_write_all(fd, path, bytes, n, e));
    TRY(file_sync(fd, path, e));
    const int rc = close(fd); // some file systems report a full disk only here
    fd = -1;
    if (rc != 0 && errno != EINTR) {
        st = io_failed(e, errno, path, "close");
        goto done;
    }
    TRY(file_publish(temp.s, path, mode, existed, e));
    made = false;
done:
    if (fd >= 0) close(fd);
    if (made) unlink(temp.s);
    sbuf_fini(&temp);
    return st;
}

enum status file_read_all(const char *path, size_t max_bytes, struct sbuf *out, struct err *e) {
    enum status st = OK;
    char *piece = NULL;
    size_t total = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not block here
    if (fd < 0) return err_errno(e, E_NOINPUT, errno, "%s", path);
    struct stat sb;
    if (fstat(fd, &sb) != 0) {
        st = io_failed(e, errno, path, "read");
        goto done;
    }
    if (!S_ISREG(sb.st_mode)) FAIL(e, E_NOINPUT, "%s: not a regular file", path);
    TRY(mem_zalloc(&piece, COPY_BYTES, 1, e));
    for (;;) {
        const ssize_t k = read(fd, piece, COPY_BYTES);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            st = io_failed(e, errno, path, "read");
            goto done;
        }
        if (k == 0) break;
        total += (size_t)k;
        if (total > max_bytes) FAIL(e, E_FORMAT, "%s: longer than %zu bytes", path, max_bytes);
        sbuf_add(out, piece, (size_t)k);
        TRY(sbuf_status(out, e));
    }
done:
    close(fd);
    mem_free(piece);
    return st;
}

enum status file_read_piece(const char *path, int64_t at, size_t n, struct sbuf *out,
                            struct err *e) {
    enum status st = OK;
    char *piece = NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_errno(e, E_NOINPUT, errno, "%s", path);
    TRY(mem_zalloc(&piece, COPY_BYTES, 1, e));
    while (n > 0) {
        const ssize_t k = pread(fd, piece, n < COPY_BYTES ? n : COPY_BYTES, at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            st = io_failed(e, errno, path, "read");
            goto done;
        }
        if (k == 0) FAIL(e, E_IO, "%s: ends before byte %lld", path, (long long)at + (long long)n);
        sbuf_add(out, piece, (size_t)k);
        at += k;
        n -= (size_t)k;
    }
    TRY(sbuf_status(out, e));
done:
    close(fd);
    mem_free(piece);
    return st;
}

static enum status make_dir(const char *path, struct err *e) {
    struct stat sb;
    if (mkdir(path, 0777) == 0) return OK;
    const int why = errno;
    if (why == EEXIST && stat(path, &sb) == 0 && S_ISDIR(sb.st_mode)) return OK;
    if (why == EEXIST) return err_fail(e, E_OUTPUT, "%s: is there and not a directory", path);
    return create_failed(e, why, path);
}

enum status file_mkdirs(const char *path, struct err *e) {
    enum status st = OK;
    char *part = NULL;
    if (path[0] == '\0') return err_fail(e, E_OUTPUT, "the directory's name is empty");
    TRY(mem_dup(&part, path, strlen(path), e));
    for (char *p = part + 1; *p != '\0'; p++) {
        struct stat sb;
        if (*p != '/') continue;
        *p = '\0';
        // Looked at first: making a directory that is there may be refused on a read-only parent.
        if (stat(part, &sb) != 0 || !S_ISDIR(sb.st_mode)) TRY(make_dir(part, e));
        *p = '/';
    }
    TRY(make_dir(part, e));
done:
    mem_free(part);
    return st;
}

// copy_file_range shares blocks where the file system can; *left is what remains to be copied by
// hand.
static void copy_by_kernel(int from, int to, int64_t *left) {
    while (*left > 0) {
        const size_t want = *left > (1 << 30) ? (size_t)1 << 30 : (size_t)*left;
        const ssize_t k = copy_file_range(from, NULL, to, NULL, want, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return; // not supported between these two, or an error that read/write will name
        *left -= k;
    }
}

static enum status copy_by_hand(int from, int to, int64_t left, const char *src, const char *dst,
                                struct err *e) {
    enum status st = OK;
    char *piece = NULL;
    TRY(mem_zalloc(&piece, COPY_BYTES, 1, e));
    while (left > 0) {
        const ssize_t k = read(from, piece, left < COPY_BYTES ? (size_t)left : COPY_BYTES);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            st = io_failed(e, errno, src, "read");
            goto done;
        }
        if (k == 0) FAIL(e, E_IO, "%s: ends %" PRId64 " bytes too early", src, left);
        TRY(file_write_all(to, dst, piece, (size_t)k, e));
        left -= k;
    }
done:
    mem_free(piece);
    return st;
}

enum status file_copy_prefix(const char *src, const char *dst, int64_t n, struct err *e) {
    enum status st = OK;
    int to = -1;
    const int from = open(src, O_RDONLY | O_CLOEXEC);
    if (from < 0) return err_errno(e, E_NOINPUT, errno, "%s", src);
    to = open(dst, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (to < 0) {
        st = create_failed(e, errno, dst);
        goto done;
    }
    copy_by_kernel(from, to, &n);
    if (n > 0) TRY(copy_by_hand(from, to, n, src, dst, e));
    TRY(file_sync(to, dst, e));
done:
    close(from);
    if (to >= 0) close(to);
    return st;
}

struct file_append {
    int fd;
    int64_t bytes; /* without a torn tail */
    bool torn;     /* bytes behind that are left over from a failed write */
    char *path;    /* owned */
};

enum status file_append_open(struct file_append **out, const char *path, struct err *e) {
    enum status st = OK;
    struct file_append *a = NULL;
    *out = NULL;
    TRY(mem_zalloc(&a, 1, sizeof *a, e));
    a->fd = -1;
    TRY(mem_dup(&a->path, path, strlen(path), e));
    const int flags = O_WRONLY | O_APPEND | O_CLOEXEC;
    a->fd = open(path, flags | O_CREAT | O_EXCL, 0666);
    if (a->fd >= 0) {
        TRY(sync_parent(path, e));
    } else if (errno == EEXIST) {
        a->fd = open(path, flags);
    }
    struct stat sb;
    if (a->fd < 0 || fstat(a->fd, &sb) != 0) {
        st = create_failed(e, errno, path);
        goto done;
    }
    a->bytes = sb.st_size;
    *out = a;
    a = NULL;
done:
    file_append_close(a);
    return st;
}

void file_append_close(struct file_append *a) {
    if (a == NULL) return;
    if (a->fd >= 0) close(a->fd);
    mem_free(a->path);
    mem_free(a);
}

static enum status set_length(struct file_append *a, int64_t bytes, struct err *e) {
    while (ftruncate(a->fd, bytes) != 0) {
        if (errno != EINTR) return io_failed(e, errno, a->path, "truncate");
    }
    a->bytes = bytes;
    a->torn = false;
    return OK;
}

enum status file_append_write(struct file_append *a, const void *bytes, size_t n, struct err *e) {
    enum status st = OK;
    if (a->torn) TRY(set_length(a, a->bytes, e)); // O_APPEND would write behind the torn tail
    a->torn = true;
    TRY(file_write_all(a->fd, a->path, bytes, n, e));
    a->torn = false;
    a->bytes += (int64_t)n;
done:
    if (a->torn) (void)set_length(a, a->bytes, NULL); // tried again before the next write
    return st;
}

enum status file_append_sync(struct file_append *a, struct err *e) {
    return file_sync(a->fd, a->path, e);
}

enum status file_append_truncate(struct file_append *a, int64_t bytes, struct err *e) {
    if (bytes < 0 || bytes > a->bytes) {
        return err_fail(e, E_ARG, "%s: cannot cut %" PRId64 " bytes to %" PRId64, a->path, a->bytes,
                        bytes);
    }
    return set_length(a, bytes, e);
}

int64_t file_append_bytes(const struct file_append *a) {
    return a->bytes;
}

const char *file_append_borrow_path(const struct file_append *a) {
    return a->path;
}
