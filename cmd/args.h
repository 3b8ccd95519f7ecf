/* Command line options, by table.
 *
 *   --name value   --name=value   --flag   -h   --help   --        operands anywhere before or
 * after
 *
 * "--" ends the options; "-" is an operand (stdin). An option given twice counts the last time,
 * except CMD_LIST, which collects. */
#ifndef BASIN_CMD_ARGS_H
#define BASIN_CMD_ARGS_H

#include "base/err.h"

enum cmd_option_kind {
    CMD_FLAG,     /* bool */
    CMD_TEXT,     /* const char *, not empty */
    CMD_WORD,     /* const char *, one of `words` */
    CMD_INT,      /* int64_t, lo .. hi */
    CMD_DURATION, /* double, seconds, above 0: rank_parse_duration() */
    CMD_LIST      /* struct cmd_list */
};

struct cmd_list {
    const char **v; /* owned [n]; the words are argv's */
    size_t n, cap;
};
void cmd_list_fini(struct cmd_list *l);

struct cmd_option {
    const char *name;  /* without "--" */
    const char *value; /* what the help calls its value, "N"; NULL for a flag */
    const char *help;  /* NULL: for tests; neither listed nor suggested */
    enum cmd_option_kind kind;
    size_t offset;            /* of its member in the subcommand's struct */
    int64_t lo, hi;           /* CMD_INT */
    const char *const *words; /* CMD_WORD: ended by NULL */
};

struct cmd_args_spec {
    const char *name;               /* "run" */
    const char *operands;           /* "MANIFEST", "MODEL FILE...", "" */
    int min_operands, max_operands; /* max -1: any number */
    const char *summary;            /* a line of `basin help` */
    const char *about;              /* further lines of `-h`, or NULL */
    const char *examples;           /* whole lines */
    const struct cmd_option *options;
    int n_option;
};

/* Reads argv[0..argc) into the members of `into` that options name; what is not named keeps its
 * value. Operands are moved to the front of argv; *n_operand says how many.
 * Returns true to go on. False: help was printed or misuse reported; *code is the exit code. */
bool cmd_args_read(const struct cmd_args_spec *spec, int argc, char **argv, void *into,
                   int *n_operand, int *code);

/* The text of `basin NAME -h`, to stdout. Returns the exit code. */
int cmd_args_help(const struct cmd_args_spec *spec);

/* Reports a misuse that the table cannot express; returns the exit code. */
int cmd_args_misuse(const struct cmd_args_spec *spec, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
