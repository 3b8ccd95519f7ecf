#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *job;
};

static const char *const jobs[] = {"score", "generate", NULL};
static const struct cmd_option table[] = {
    {.name = "job",
     .value = "NAME",
     .kind = CMD_WORD,
     .words = jobs,
     .offset = offsetof(struct options, job),
     .help = "score (default) or generate"},
};

static const char score_manifest[] =
    "{\n"
    "  \"version\": 1,\n"
    "  \"job\": \"score\",\n"
    "  \"model\": {\"path\": \"examples/demo/model\"},\n"
    "  \"input\": [\n"
    "    {\"path\": \"examples/demo/persuasion.txt\"}\n"
    "  ],\n"
    "  \"cache\": [\n"
    "    {\"name\": \"sink\", \"mode\": \"sink\", \"sink_tokens\": 4, "
    "\"window_tokens\": 124},\n"
    "    {\"name\": \"window\", \"mode\": \"window\", "
    "\"window_tokens\": 128}\n"
    "  ],\n"
    "  \"score\": {\"tokens\": false, \"limit_tokens\": 16384, "
    "\"add_bos\": \"auto\"},\n"
    "  \"output\": {\"path\": \"out/demo\", \"part_bytes\": 67108864},\n"
    "  \"compute\": {\"dtype\": \"auto\"}\n"
    "}\n";

static const char generate_manifest[] =
    "{\n"
    "  \"version\": 1,\n"
    "  \"job\": \"generate\",\n"
    "  \"model\": {\"path\": \"examples/demo/model\"},\n"
    "  \"input\": [\n"
    "    {\"path\": \"examples/demo/persuasion.txt\"}\n"
    "  ],\n"
    "  \"cache\": {\"mode\": \"sink\", \"sink_tokens\": 4, \"window_tokens\": 124},\n"
    "  \"generate\": {\"max_new_tokens\": 200, \"temperature\": 0.8, \"top_p\": 0.95, "
    "\"seed\": 7, \"stop\": [\"\\n\\n\\n\"]},\n"
    "  \"output\": {\"path\": \"out/written\"}\n"
    "}\n";

// A manifest is somebody's work: never written over.
static int write_new(const char *path, const char *manifest) {
    struct err e = {.code = OK};
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) {
        cmd_say("%s exists already; remove it or name another file", path);
        return CMD_EXIT_CANTCREAT;
    }
    if (fd < 0) {
        err_errno(&e, E_OUTPUT, errno, "%s: cannot be created", path);
        return cmd_fail(&e, CMD_FROM_OPTIONS);
    }
    enum status st = file_write_all(fd, path, manifest, strlen(manifest), &e);
    if (close(fd) != 0 && st == OK) st = err_errno(&e, E_IO, errno, "%s", path);
    if (st == OK) {
        cmd_say("wrote %s; next: basin validate %s", path, path);
        return CMD_EXIT_OK;
    }
    unlink(path);
    return cmd_fail(&e, CMD_FROM_OPTIONS);
}

static int init_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.job = NULL};
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    const bool generate = o.job != NULL && strcmp(o.job, "generate") == 0;
    const char *manifest = generate ? generate_manifest : score_manifest;
    if (n == 1 && strcmp(argv[0], "-") != 0) return write_new(argv[0], manifest);
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, manifest);
    return cmd_out_text(&b);
}

const struct cmd_sub cmd_init = {
    .args =
        {
            .name = "init",
            .operands = "[FILE]",
            .max_operands = 1,
            .summary = "a manifest to start from, to stdout or to a new file",
            .about =
                "It scores the demo text under the demo model, with sinks and without, or writes\n"
                "on from it; change model, input and output. Its paths are relative to where the "
                "file lies.\n",
            .examples = "  basin init > job.json\n"
                        "  basin init job.json && basin run job.json\n"
                        "  basin init --job generate job.json\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = init_main,
};
