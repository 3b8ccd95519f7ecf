/* Files that survive a crash: atomic replacement, locks, append-only logs.
 *
 * Every message names the path. Every write loop goes on after EINTR and short writes. A full disk
 * or quota is E_IO with "no space left" in the message. Nothing here keeps state between calls
 * except in the two handles; all functions may be called from any thread. */
#ifndef BASIN_IO_FILE_H
#define BASIN_IO_FILE_H

#include "base/err.h"
#include "base/sbuf.h"

/* What happens to a file that is already there. */
enum file_mode {
    FILE_REPLACE,    /* it is replaced in one step: readers see the old bytes or the new ones */
    FILE_CREATE_ONLY /* it stays: E_OUTPUT, and *existed is set */
};

/* Appends to `out` a name in the directory of `path` that no other attempt on any host uses:
 * DIR/.tmp-PID-16 random hex digits. Errors: E_NOMEM, E_IO (no random numbers). */
enum status file_temp_path(const char *path, struct sbuf *out, struct err *e) WARN_UNUSED;

/* Gives the finished, synced file `from` the name `to` (same file system) and syncs the directory.
 * On FILE_CREATE_ONLY with `to` already there: E_OUTPUT, *existed true, `from` is left as it is.
 * `existed` may be NULL. Errors: E_OUTPUT, E_IO. */
enum status file_publish(const char *from, const char *to, enum file_mode mode, bool *existed,
                         struct err *e) WARN_UNUSED;

/* Writes bytes[0..n) under a temporary name, syncs, publishes as above. After an error `path` holds
 * what it held before and no temporary file is left. Errors: E_OUTPUT (cannot be created, or
 * exists: *existed), E_IO, E_NOMEM. */
enum status file_write_atomic(const char *path, const void *bytes, size_t n, enum file_mode mode,
                              bool *existed, struct err *e) WARN_UNUSED;

/* Appends the whole file to `out`. Errors: E_NOINPUT (cannot be opened, not a regular file), E_IO,
 * E_NOMEM, E_FORMAT (longer than max_bytes). */
enum status file_read_all(const char *path, size_t max_bytes, struct sbuf *out,
                          struct err *e) WARN_UNUSED;

/* Appends bytes [at, at + n) of a file to `out`. Errors: E_NOINPUT, E_IO (also: not there), E_NOMEM. */
enum status file_read_piece(const char *path, int64_t at, size_t n, struct sbuf *out,
                            struct err *e) WARN_UNUSED;

/* Creates a directory and those above it; one that is there already is fine. Errors: E_OUTPUT. */
enum status file_mkdirs(const char *path, struct err *e) WARN_UNUSED;

/* Makes names in a directory durable. File systems that cannot do it are believed. Errors: E_IO. */
enum status file_sync_dir(const char *path, struct err *e) WARN_UNUSED;

/* All of bytes[0..n) to a descriptor; `path` is for messages. Errors: E_IO. */
enum status file_write_all(int fd, const char *path, const void *bytes, size_t n,
                           struct err *e) WARN_UNUSED;

/* fsync; file systems that cannot do it are believed. Errors: E_IO. */
enum status file_sync(int fd, const char *path, struct err *e) WARN_UNUSED;

/* Removes `path` and everything under it; symbolic links are removed, never followed; a path that
 * is not there is fine. Errors: E_IO, E_NOMEM (also deeper than 64 directories). */
enum status file_remove_tree(const char *path, struct err *e) WARN_UNUSED;

/* The first n bytes of `src` as a new file `dst` (replaced if there), synced. Errors: E_NOINPUT,
 * E_OUTPUT, E_IO (also: src is shorter than n). `dst` may hold anything after an error. */
enum status file_copy_prefix(const char *src, const char *dst, int64_t n,
                             struct err *e) WARN_UNUSED;

/* An exclusive lock (flock) on a file, created if needed. It ends with file_unlock() or with the
 * process, is not inherited by programs it starts, and a second lock in the same process is refused
 * like one of another process. The file itself stays. */
struct file_lock; /* opaque */

/* Never waits. On OK exactly one of three holds: *out is a lock; *held (somebody has it);
 * *unsupported (this file system has no working locks). Errors: E_OUTPUT (cannot create), E_IO,
 * E_NOMEM. */
enum status file_lock_try(struct file_lock **out, const char *path, bool *held, bool *unsupported,
                          struct err *e) WARN_UNUSED;
void file_unlock(struct file_lock *l);

/* A file that grows at its end. */
struct file_append; /* opaque */

/* Opens for appending, creates (and makes the name durable) when missing. Errors: E_OUTPUT, E_IO,
 * E_NOMEM. */
enum status file_append_open(struct file_append **out, const char *path, struct err *e) WARN_UNUSED;
void file_append_close(struct file_append *a); /* does not sync */

/* All or nothing: after an error the file is cut back to its former length (if that fails too, the
 * torn tail stays until the next write, and file_append_bytes() is the valid length).
 * Errors: E_IO. */
enum status file_append_write(struct file_append *a, const void *bytes, size_t n,
                              struct err *e) WARN_UNUSED;
enum status file_append_sync(struct file_append *a, struct err *e) WARN_UNUSED;
/* Cuts to `bytes`, at most the present length (E_ARG). Errors: E_IO. */
enum status file_append_truncate(struct file_append *a, int64_t bytes, struct err *e) WARN_UNUSED;
int64_t file_append_bytes(const struct file_append *a);
const char *file_append_borrow_path(const struct file_append *a);

#endif
