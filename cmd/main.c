#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "cmd/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <stdlib.h>

const struct cmd_sub *const cmd_subs[] = {
    &cmd_run,    &cmd_score,  &cmd_generate, &cmd_init,   &cmd_validate, &cmd_plan,
    &cmd_status, &cmd_cat,    &cmd_stats,    &cmd_verify, &cmd_tokenize, &cmd_inspect,
    &cmd_bench,  &cmd_schema, &cmd_help,     NULL,
};

// Started with a closed descriptor 0, 1 or 2, the next file opened would take its number, and rows
// or messages would be written into it. Occupied the wrong way round, each reports an error
// instead.
static void occupy_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0) return;
    }
}

/* OpenMP's threads spin while they wait for each other, which on a machine that others use as well keeps
 * the very thread they wait for off the CPU (seen: 3.5 times slower beside one busy neighbour). The
 * runtime reads its environment before main(), so the program starts over once with the policy set. */
static void wait_passively(char **argv) {
    prctl(PR_SET_NAME, "basin"); // started over, the kernel would call it "exe"
    if (getenv("OMP_WAIT_POLICY") != NULL) return;
    if (setenv("OMP_WAIT_POLICY", "passive", 0) == 0) execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
    wait_passively(argv);
    occupy_standard_streams();
    cmd_signals_ignore_pipe();
    if (argc < 2) {
        cmd_say("no command; 'basin help' lists them");
        return CMD_EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) return cmd_help_list();
    if (strcmp(word, "--version") == 0) return cmd_version_print();
    for (int i = 0; cmd_subs[i] != NULL; i++) {
        const struct cmd_sub *sub = cmd_subs[i];
        if (strcmp(sub->args.name, word) == 0) return sub->main(sub, argc - 2, argv + 2);
    }
    return cmd_help_unknown(word);
}
