#include "base/suggest.h"
#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"

#include <string.h>

enum { MAX_SUBS = 32 };

int cmd_help_list(void) {
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, "usage: basin COMMAND ...\n\n"
                  "Scores very long documents through language models with attention sinks,\n"
                  "offline and in bounded memory.\n\n");
    for (int i = 0; cmd_subs[i] != NULL; i++) {
        sbuf_printf(&b, "  %-10s %s\n", cmd_subs[i]->args.name, cmd_subs[i]->args.summary);
    }
    sbuf_puts(&b, "\n"
                  "  -h, --help     this text; 'basin COMMAND -h' says more about each\n"
                  "  --version      version, compiler, CPU, CUDA and libraries\n\n"
                  "examples:\n"
                  "  basin init > job.json && basin validate job.json && basin run job.json\n"
                  "  basin stats out/demo\n"
                  "  basin score examples/demo/model examples/demo/persuasion.txt\n");
    return cmd_out_text(&b);
}

int cmd_help_unknown(const char *word) {
    const char *names[MAX_SUBS + 3];
    int n = 0;
    for (; cmd_subs[n] != NULL; n++) {
        CHECK(n < MAX_SUBS);
        names[n] = cmd_subs[n]->args.name;
    }
    names[n++] = "--help";
    names[n++] = "--version";
    names[n] = NULL;
    const char *near = suggest_closest(word, names);
    if (near != NULL) {
        cmd_say("no command \"%s\"; did you mean %s?", word, near);
    } else {
        cmd_say("no command \"%s\"; 'basin help' lists them", word);
    }
    return CMD_EXIT_USAGE;
}

static int help_main(const struct cmd_sub *self, int argc, char **argv) {
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, NULL, &n, &code)) return code;
    if (n == 0) return cmd_help_list();
    for (int i = 0; cmd_subs[i] != NULL; i++) {
        if (strcmp(cmd_subs[i]->args.name, argv[0]) == 0) return cmd_args_help(&cmd_subs[i]->args);
    }
    return cmd_help_unknown(argv[0]);
}

const struct cmd_sub cmd_help = {
    .args =
        {
            .name = "help",
            .operands = "[COMMAND]",
            .max_operands = 1,
            .summary = "the list of commands, or what one of them does",
            .examples = "  basin help\n"
                        "  basin help run\n",
        },
    .main = help_main,
};
