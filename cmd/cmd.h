/* The subcommands: what main() dispatches to, and the text of their help.
 *
 * A subcommand is one file with one `struct cmd_sub`. Its main() gets the words behind its name,
 * reads them with cmd_args_read() and returns the process's exit code. */
#ifndef BASIN_CMD_CMD_H
#define BASIN_CMD_CMD_H

#include "cmd/args.h"

struct cmd_sub {
    struct cmd_args_spec args; /* name, operands, options, help */
    int (*main)(const struct cmd_sub *self, int argc, char **argv);
};

extern const struct cmd_sub cmd_run, cmd_score, cmd_generate, cmd_init, cmd_validate, cmd_plan,
    cmd_status, cmd_cat, cmd_stats, cmd_verify, cmd_tokenize, cmd_inspect, cmd_bench, cmd_schema,
    cmd_help;

/* cmd/main.c: every subcommand, in the order of `basin help`; ended by NULL. */
extern const struct cmd_sub *const cmd_subs[];

/* cmd/help.c: the list of subcommands, to stdout. Returns the exit code. */
int cmd_help_list(void);
/* Says on stderr that there is no subcommand `word`, with a suggestion. Returns the exit code. */
int cmd_help_unknown(const char *word);

/* cmd/version.c: `basin --version`. Returns the exit code. */
int cmd_version_print(void);

#endif
