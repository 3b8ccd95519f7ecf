/* Exit codes: the one place where a status becomes what the shell sees. */
#ifndef BASIN_CMD_EXIT_H
#define BASIN_CMD_EXIT_H

#include "base/err.h"
#include "jobs/run.h"

enum cmd_exit {
    CMD_EXIT_OK = 0,           /* all done, or nothing to do */
    CMD_EXIT_SOME_FAILED = 3,  /* finished, some documents failed */
    CMD_EXIT_HELD = 11,        /* what is left is held by another run */
    CMD_EXIT_USAGE = 64,       /* options, operands, environment variables */
    CMD_EXIT_DATA = 65,        /* bad manifest or model */
    CMD_EXIT_NOINPUT = 66,     /* an input is missing */
    CMD_EXIT_UNAVAILABLE = 69, /* no such device */
    CMD_EXIT_INTERNAL = 70,    /* a mistake of this program */
    CMD_EXIT_OS = 71,          /* out of memory */
    CMD_EXIT_CANTCREAT = 73,   /* cannot create the output, or it holds another job */
    CMD_EXIT_IO = 74,          /* reading or writing failed; damaged results */
    CMD_EXIT_STOPPED = 75      /* stopped, everything saved: run the same command again */
};

/* Where a status comes from decides what E_ARG, E_FORMAT and E_UNSUPPORTED mean. */
enum cmd_source {
    CMD_FROM_OPTIONS, /* what the user typed, and the environment */
    CMD_FROM_JOB,     /* manifest, model, inputs */
    CMD_FROM_RESULTS  /* an output directory being read */
};

int cmd_exit_code(enum status st, enum cmd_source source);

/* How a run ended: stopped before held before failed documents. */
int cmd_exit_run(const struct run_result *r);

/* Says e's message on stderr; returns its exit code. */
int cmd_fail(const struct err *e, enum cmd_source source);

#endif
