/* Locks and removal: the parts of file.h that look at what other processes do. */
#include "io/file.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { MAX_DEPTH = 64 };

struct file_lock {
    int fd;
};

enum status file_lock_try(struct file_lock **out, const char *path, bool *held, bool *unsupported,
                          struct err *e) {
    enum status st = OK;
    struct file_lock *l = NULL;
    *out = NULL;
    *held = *unsupported = false;
    TRY(mem_zalloc(&l, 1, sizeof *l, e));
    // The lock belongs to the open file: without O_CLOEXEC a child would keep it after our death.
    l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (l->fd < 0) {
        st = err_errno(e, E_OUTPUT, errno, "%s: cannot create the lock file", path);
        goto done;
    }
    int rc;
    do rc = flock(l->fd, LOCK_EX | LOCK_NB);
    while (rc != 0 && errno == EINTR);
    if (rc == 0) {
        *out = l;
        l = NULL;
    } else if (errno == EWOULDBLOCK) {
        *held = true;
    } else if (errno == ENOLCK || errno == ENOTSUP || errno == ENOSYS || errno == EINVAL) {
        *unsupported = true;
    } else {
        st = err_errno(e, E_IO, errno, "%s: cannot lock", path);
    }
done:
    file_unlock(l);
    return st;
}

void file_unlock(struct file_lock *l) {
    if (l == NULL) return;
    if (l->fd >= 0) close(l->fd); // the last descriptor takes the lock with it
    mem_free(l);
}

static enum status remove_at(int dir, const char *name, const char *path, int depth, struct err *e);

// Empties an open directory. Takes over the descriptor. Removing names while reading them may skip
// some on a few file systems, hence the rounds: until one finds nothing.
static enum status empty_take_dir(int fd, const char *path, int depth, struct err *e) {
    enum status st = OK;
    DIR *d = fdopendir(fd);
    if (d == NULL) {
        st = err_errno(e, E_IO, errno, "%s: cannot read the directory", path);
        close(fd);
        return st;
    }
    for (bool found = true; found;) {
        const struct dirent *entry;
        found = false;
        rewinddir(d);
        while (errno = 0, (entry = readdir(d)) != NULL) {
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
            found = true;
            TRY(remove_at(fd, entry->d_name, path, depth, e));
        }
        if (errno != 0) {
            st = err_errno(e, E_IO, errno, "%s: cannot read the directory", path);
            goto done;
        }
    }
done:
    closedir(d);
    return st;
}

static enum status remove_at(int dir, const char *name, const char *path, int depth,
                             struct err *e) {
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return OK;
    // A directory says EISDIR here (EPERM on other systems). O_NOFOLLOW: a link put in its place
    // meanwhile must not lead us out of the tree.
    const int why = errno;
    const int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return err_errno(e, E_IO, why, "%s: cannot remove %s", path, name);
    if (depth >= MAX_DEPTH) {
        close(fd);
        return err_fail(e, E_NOMEM, "%s: more than %d directories deep", path, MAX_DEPTH);
    }
    const enum status st = empty_take_dir(fd, path, depth + 1, e);
    if (st != OK) return st;
    if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT) return OK;
    return err_errno(e, E_IO, errno, "%s: cannot remove %s", path, name);
}

enum status file_remove_tree(const char *path, struct err *e) {
    return remove_at(AT_FDCWD, path, path, 0, e);
}
