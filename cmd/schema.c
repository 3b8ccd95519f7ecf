#include "cmd/cmd.h"
#include "cmd/out.h"
#include "io/manifest.h"

static int schema_main(const struct cmd_sub *self, int argc, char **argv) {
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, NULL, &n, &code)) return code;
    struct sbuf b;
    sbuf_init(&b);
    man_schema(&b);
    return cmd_out_text(&b);
}

const struct cmd_sub cmd_schema = {
    .args =
        {
            .name = "schema",
            .operands = "",
            .summary = "the JSON Schema of the manifest (draft 2020-12)",
            .about =
                "For editors, and for programs that write manifests. What a schema cannot say\n"
                "(two settings of one name, an input listed twice) 'basin validate' finds.\n",
            .examples = "  basin schema > manifest.schema.json\n"
                        "  basin schema | jq '.properties.output'\n",
        },
    .main = schema_main,
};
