/* stdout for results, stderr for people.
 *
 * Written with write(2) and poll(2), not stdio: an interrupted stdio write may lose or repeat
 * bytes, and a reader that stalls must not keep a run from saving its work when it is told to stop.
 */
#ifndef BASIN_CMD_OUT_H
#define BASIN_CMD_OUT_H

#include "base/sbuf.h"

/* Buffered results. Zeroed is ready to use. */
struct cmd_out {
    struct sbuf held; /* not written yet */
    bool at_once;     /* write every piece at once: somebody is watching */
    bool gone;        /* the reader has closed its end (`| head`) */
    bool failed;      /* writing failed otherwise; said once */
};

/* As report_cat() and run_sink want it: `ctx` is a struct cmd_out. Errors: E_CANCEL (the reader has
 * gone, or stalls while the run is to stop), E_IO. */
enum status cmd_out_write(void *ctx, const char *bytes, size_t n, struct err *e) WARN_UNUSED;
enum status cmd_out_flush(struct cmd_out *o, struct err *e) WARN_UNUSED;

/* Writes what is held and frees it. Returns the exit code: `code`, but 0 when the reader has gone
 * and 74 when writing failed. */
int cmd_out_end(struct cmd_out *o, int code);

/* Writes `b` to stdout and frees it: the whole output of a small command. Returns the exit code. */
int cmd_out_text(struct sbuf *b);

/* "basin: message" on stderr, as one write; control characters of file names are replaced. */
void cmd_say(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* cmd_say() of what is wrong with the document `id` of `source`: the id in front, unless the message
 * begins with the source and says the place itself. id may be NULL. */
void cmd_say_about(const char *id, const char *source, const char *message);
/* Text as it is, to stderr. */
void cmd_say_raw(const char *text);

/* Appends s with control characters replaced by '?', so that a file name cannot steer a terminal.
 */
void cmd_out_printable(struct sbuf *b, const char *s);

#endif
