#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "jobs/report.h"

static int verify_main(const struct cmd_sub *self, int argc, char **argv) {
    struct sbuf findings;
    struct err e = {.code = OK};
    bool ok = false;
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, NULL, &n, &code)) return code;
    sbuf_init(&findings);
    if (report_verify(argv[0], &findings, &ok, &e) != OK) {
        sbuf_fini(&findings);
        return cmd_fail(&e, CMD_FROM_RESULTS);
    }
    code = cmd_out_text(&findings);
    if (code != CMD_EXIT_OK) return code;
    if (!ok) {
        cmd_say("%s is damaged; remove the files named and run the job again", argv[0]);
        return CMD_EXIT_IO;
    }
    cmd_say("%s: everything is as it was written", argv[0]);
    return CMD_EXIT_OK;
}

const struct cmd_sub cmd_verify = {
    .args =
        {
            .name = "verify",
            .operands = "DIR",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "read everything in an output directory again, against its checksums",
            .about = "Findings, a line each, on stdout.\n"
                     "\n"
                     "exit codes: 0 all as written, 66 no job there, 74 something is damaged\n",
            .examples = "  basin verify out/books\n",
        },
    .main = verify_main,
};
