/* Errors: one status enum, one error object on the caller's stack.
 *
 * Every fallible function returns enum status (0 is success) and takes `struct err *e` last. `e`
 * may be NULL; the first error recorded wins; callers may put context in front with err_prefix().
 * Bodies follow one shape: TRY(...) jumps to the label `done:`, which frees every owned local and
 * returns `st`. */
#ifndef BASIN_BASE_ERR_H
#define BASIN_BASE_ERR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum status {
    OK = 0,
    E_ARG,         /* a value the caller or the user gave is out of range */
    E_NOMEM,       /* memory could not be had */
    E_IO,          /* reading or writing failed */
    E_NOINPUT,     /* a named input does not exist or cannot be opened */
    E_OUTPUT,      /* an output cannot be created, or holds another job */
    E_FORMAT,      /* bytes of a file are not what the format says */
    E_UNSUPPORTED, /* valid, but not something this program does */
    E_DEVICE,      /* a compute device is missing or failed */
    E_BUSY,        /* held by another run */
    E_CANCEL,      /* stopped on request */
    E_BUG          /* a state our own code makes impossible */
};

struct err {
    enum status code;
    char msg[512];
};

#define WARN_UNUSED __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Records code and message unless `e` is NULL or already holds an error. Returns `code`. */
enum status err_fail(struct err *e, enum status code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* As err_fail, with ": strerror(errno_value)" behind the message. */
enum status err_errno(struct err *e, enum status code, int errno_value, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* Puts formatted text in front of a recorded message; no effect when `e` is NULL or clear. */
void err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Short lower-case name of a status ("format", "io", ...), the `code` of an errors-*.jsonl row. */
const char *err_name(enum status code);

/* Prints place and condition to stderr, aborts. Only for states our own code makes impossible. */
void err_check_failed(const char *cond, const char *file, int line) __attribute__((noreturn));

#define TRY(call)                                                                                  \
    do {                                                                                           \
        st = (call);                                                                               \
        if (st != OK) goto done;                                                                   \
    } while (0)
#define FAIL(e, code, ...)                                                                         \
    do {                                                                                           \
        st = err_fail((e), (code), __VA_ARGS__);                                                   \
        goto done;                                                                                 \
    } while (0)
#define CHECK(cond) ((cond) ? (void)0 : err_check_failed(#cond, __FILE__, __LINE__))
#define COUNTOF(a) (sizeof(a) / sizeof((a)[0]))

#endif
