#include "cmd/exit.h"

#include "cmd/out.h"

int cmd_exit_code(enum status st, enum cmd_source source) {
    switch (st) {
    case OK: return CMD_EXIT_OK;
    case E_ARG: return source == CMD_FROM_JOB ? CMD_EXIT_DATA : CMD_EXIT_USAGE;
    case E_NOMEM: return CMD_EXIT_OS;
    case E_IO: return CMD_EXIT_IO;
    case E_NOINPUT: return CMD_EXIT_NOINPUT;
    case E_OUTPUT: return CMD_EXIT_CANTCREAT;
    case E_FORMAT: // results that cannot be read were damaged after they were written
        return source == CMD_FROM_RESULTS ? CMD_EXIT_IO : CMD_EXIT_DATA;
    case E_UNSUPPORTED: // of the environment: an instruction set this CPU lacks
        return source == CMD_FROM_OPTIONS ? CMD_EXIT_UNAVAILABLE : CMD_EXIT_DATA;
    case E_DEVICE: return CMD_EXIT_UNAVAILABLE;
    case E_BUSY: return CMD_EXIT_HELD;
    case E_CANCEL: return CMD_EXIT_STOPPED;
    case E_BUG: return CMD_EXIT_INTERNAL;
    }
    return CMD_EXIT_INTERNAL;
}

int cmd_exit_run(const struct run_result *r) {
    if (r->end == RUN_STOPPED) return CMD_EXIT_STOPPED;
    if (r->end == RUN_HELD) return CMD_EXIT_HELD;
    return r->failed > 0 ? CMD_EXIT_SOME_FAILED : CMD_EXIT_OK;
}

int cmd_fail(const struct err *e, enum cmd_source source) {
    cmd_say("%s", e->msg[0] != '\0' ? e->msg : err_name(e->code));
    if (e->code == E_BUG) cmd_say("this is a mistake in basin; please report it with the command");
    return cmd_exit_code(e->code, source);
}
