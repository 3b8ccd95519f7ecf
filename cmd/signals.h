/* Stopping on request. */
#ifndef BASIN_CMD_SIGNALS_H
#define BASIN_CMD_SIGNALS_H

#include <stdbool.h>

/* From now on a closed pipe is an error of write(), not the end of the process. */
void cmd_signals_ignore_pipe(void);

/* From now on SIGTERM, SIGINT and SIGUSR1 ask the command to save and stop; a second SIGINT ends
 * the process at once (exit code 130). For commands that ask cmd_signals_asked(); the others simply
 * end.
 */
void cmd_signals_catch(void);

/* True once one of them came. ctx is not used: the shape is that of run_hooks.stop. */
bool cmd_signals_asked(void *ctx);

/* "SIGTERM", ... of the signal that came first; NULL when none did. */
const char *cmd_signals_name(void);

#endif
