/* How a run looks from outside while it goes: a bar on a terminal, a line every few seconds
 * elsewhere, events as JSON lines, or nothing. Belongs to the thread that runs the job. */
#ifndef BASIN_CMD_PROGRESS_H
#define BASIN_CMD_PROGRESS_H

#include "cmd/env.h"
#include "cmd/out.h"
#include "jobs/run.h"

enum cmd_progress_kind {
    CMD_PROGRESS_NONE,
    CMD_PROGRESS_BAR,
    CMD_PROGRESS_LINES,
    CMD_PROGRESS_JSON
};

struct cmd_progress {
    enum cmd_progress_kind kind;
    bool quiet; /* no notes on stderr */
    bool color;
    bool drawn;                      /* a bar stands on the terminal's last line */
    struct cmd_out *events;          /* borrowed; CMD_PROGRESS_JSON */
    int64_t begun_ns;                /* clock when the run was begun */
    int64_t shown_ns;                /* clock of the last bar, line or event */
    struct run_progress first, last; /* as reported first and last; `source` is not kept */
    bool any;                        /* something was reported */
    struct sbuf text;                /* work space */
};

/* events: where JSON lines go, or NULL for people. */
void cmd_progress_init(struct cmd_progress *p, const struct cmd_env *env, bool quiet,
                       struct cmd_out *events);
/* Takes the bar away and frees. `first` and `last` stay. */
void cmd_progress_fini(struct cmd_progress *p);

/* The callbacks of a run that is watched by p and stopped by signals. */
void cmd_progress_hooks(struct cmd_progress *p, struct run_hooks *h);

/* A message or warning while the bar may be up. */
void cmd_progress_note(void *progress, enum run_note kind, const char *text);

/* Takes the bar away before something else is written to the terminal. */
void cmd_progress_clear(struct cmd_progress *p);

#endif
