#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/job.h"
#include "cmd/out.h"
#include "cmd/text.h"

#include <inttypes.h>
#include <stddef.h>

struct options {
    struct cmd_job_options job;
    bool parts, json;
};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    CMD_JOB_SHARD(struct options),
    CMD_JOB_DEVICES(struct options),
    CMD_JOB_THREADS(struct options),
    CMD_JOB_SET(struct options),
    CMD_JOB_OUT(struct options),
    {.name = "parts",
     .kind = CMD_FLAG,
     .offset = AT(parts),
     .help = "a line for each part instead: tab-separated, with a header"},
    {.name = "json", .kind = CMD_FLAG, .offset = AT(json), .help = "the numbers as a JSON object"},
};

static void put_json_devices(struct sbuf *b, const struct run_estimate *x) {
    cmd_text_key(b, "devices");
    sbuf_puts(b, "[");
    for (int i = 0; i < x->n_device; i++) {
        const struct run_device *v = &x->devices[i];
        sbuf_puts(b, i == 0 ? "{" : ",{");
        cmd_text_json_str(b, "name", v->name);
        cmd_text_json_str(b, "device", v->device);
        cmd_text_json_int(b, "span_rows", v->span_rows);
        cmd_text_json_int(b, "memory_bytes", v->memory_bytes);
        cmd_text_json_int(b, "weights_bytes", v->weights_bytes);
        cmd_text_json_int(b, "cache_bytes", v->cache_bytes);
        cmd_text_json_int(b, "span_bytes", v->span_bytes);
        cmd_text_json_int(b, "free_bytes", v->free_bytes);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
}

static void put_json(struct sbuf *b, const struct run_estimate *x, const struct rank *r) {
    sbuf_puts(b, "{");
    cmd_text_json_int(b, "rank", r->i);
    cmd_text_json_int(b, "ranks", r->n);
    cmd_text_json_int(b, "parts", x->n_part);
    cmd_text_json_int(b, "parts_mine", x->n_mine);
    cmd_text_json_int(b, "parts_published", x->n_published);
    cmd_text_json_int(b, "bytes", x->bytes);
    cmd_text_json_int(b, "bytes_mine", x->bytes_mine);
    cmd_text_json_int(b, "bytes_left", x->bytes_left);
    cmd_text_json_num(b, "bytes_per_token", x->bytes_per_token);
    cmd_text_json_int(b, "tokens", x->tokens);
    cmd_text_json_num(b, "seconds", x->seconds);
    cmd_text_json_int(b, "memory_bytes", x->memory_bytes);
    cmd_text_json_int(b, "weights_bytes", x->weights_bytes);
    cmd_text_json_int(b, "cache_bytes", x->cache_bytes);
    cmd_text_json_int(b, "span_bytes", x->span_bytes);
    cmd_text_json_int(b, "span_rows", x->span_rows);
    if (x->streams > 0) {
        cmd_text_json_int(b, "streams", x->streams);
        cmd_text_json_int(b, "documents", x->documents);
        cmd_text_json_int(b, "tokens_most", x->tokens_most);
        cmd_text_json_int(b, "stream_bytes", x->stream_bytes);
    }
    put_json_devices(b, x);
    cmd_text_json_str(b, "device", x->device);
    cmd_text_json_str(b, "dtype", x->dtype);
    sbuf_puts(b, "}\n");
}

// Of several, or of a GPU, whose memory is not the process's.
static void put_devices(struct sbuf *b, const struct run_estimate *x) {
    if (x->n_device == 1 && x->devices[0].total_bytes == 0) return;
    for (int i = 0; i < x->n_device; i++) {
        const struct run_device *v = &x->devices[i];
        sbuf_printf(b, "%-10s", v->name);
        cmd_text_bytes(b, v->memory_bytes);
        sbuf_puts(b, " at most: weights ");
        cmd_text_bytes(b, v->weights_bytes);
        sbuf_puts(b, ", caches ");
        cmd_text_bytes(b, v->cache_bytes);
        sbuf_puts(b, ", span ");
        cmd_text_bytes(b, v->span_bytes);
        sbuf_puts(b, " (");
        cmd_text_count(b, v->span_rows);
        sbuf_puts(b, " rows); ");
        cmd_text_bytes(b, v->free_bytes);
        sbuf_printf(b, " free; %s\n", v->device);
    }
}

static void put_people(struct sbuf *b, const struct run_estimate *x, const struct rank *r) {
    sbuf_puts(b, "parts     ");
    cmd_text_count(b, x->n_part);
    if (r->n > 1) {
        sbuf_puts(b, ", ");
        cmd_text_count(b, x->n_mine);
        sbuf_printf(b, " of them for rank %d of %d (%s)", r->i, r->n, r->from);
    }
    sbuf_puts(b, ", ");
    cmd_text_count(b, x->n_published);
    sbuf_puts(b, " done\ninput     ");
    cmd_text_bytes(b, x->bytes);
    if (r->n > 1) {
        sbuf_puts(b, ", ");
        cmd_text_bytes(b, x->bytes_mine);
        sbuf_puts(b, " for this rank");
    }
    sbuf_puts(b, ", ");
    cmd_text_bytes(b, x->bytes_left);
    sbuf_puts(b, " left to do\ntokens    about ");
    cmd_text_count(b, x->tokens);
    sbuf_printf(b, " %s, all settings together; %.2f bytes each\n",
                x->streams > 0 ? "of prompts left" : "left", x->bytes_per_token);
    if (x->streams > 0) {
        sbuf_puts(b, "answers   at most ");
        cmd_text_count(b, x->tokens_most);
        sbuf_puts(b, " tokens for about ");
        cmd_text_plural(b, x->documents, "document");
        sbuf_puts(b, "\nstreams   ");
        cmd_text_count(b, x->streams);
        sbuf_puts(b, " at once\n");
    }
    sbuf_puts(b, x->streams > 0 ? "time      at most about " : "time      about ");
    cmd_text_seconds(b, x->seconds);
    sbuf_printf(b, "\ndevice    %s\ndtype     %s\nspan      ", x->device, x->dtype);
    cmd_text_count(b, x->span_rows);
    sbuf_puts(b, " rows\nmemory    ");
    cmd_text_bytes(b, x->memory_bytes);
    sbuf_puts(b, " at most: weights ");
    cmd_text_bytes(b, x->weights_bytes);
    sbuf_puts(b, ", caches ");
    cmd_text_bytes(b, x->cache_bytes);
    if (x->streams > 0) {
        sbuf_puts(b, ", streams ");
        cmd_text_bytes(b, x->stream_bytes);
    }
    sbuf_puts(b, ", span ");
    cmd_text_bytes(b, x->span_bytes);
    sbuf_puts(b, "\n");
    put_devices(b, x);
}

static int plan_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.json = false};
    struct cmd_env env;
    struct run_options run;
    struct run_estimate estimate = {.n_part = 0};
    struct manifest *m = NULL;
    struct sbuf b, parts;
    struct err e = {.code = OK};
    int n = 0, code = 0;
    sbuf_init(&b);
    sbuf_init(&parts);
    cmd_env_read(&env);
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) goto done;
    if (o.parts && o.json) {
        code = cmd_args_misuse(&self->args, "--parts and --json exclude each other");
        goto done;
    }
    if (cmd_job_setup(&run, &o.job, &env, &e) != OK) {
        code = cmd_fail(&e, CMD_FROM_OPTIONS);
        goto done;
    }
    code = cmd_job_open(&m, argv[0], &o.job, o.json);
    if (code != CMD_EXIT_OK) goto done;
    if (run_plan(m, &run, &estimate, o.parts ? &parts : NULL, &e) != OK) {
        code = cmd_fail(&e, CMD_FROM_JOB);
        goto done;
    }
    if (o.parts) {
        sbuf_puts(&b, "part\trank\tbytes\ttokens\tstate\tsource\n");
        sbuf_add(&b, parts.s, parts.n);
    } else if (o.json) {
        put_json(&b, &estimate, &run.rank);
    } else {
        put_people(&b, &estimate, &run.rank);
    }
    code = cmd_out_text(&b);
done:
    man_close(m);
    sbuf_fini(&b);
    sbuf_fini(&parts);
    cmd_list_fini(&o.job.sets);
    return code;
}

const struct cmd_sub cmd_plan = {
    .args =
        {
            .name = "plan",
            .operands = "MANIFEST",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "what a run would do: parts, tokens, memory, time, and what is done already",
            .about =
                "Tokens are estimated from a sample of the text, time from a short measurement\n"
                "on this machine. Writes nothing.\n",
            .examples = "  basin plan job.json\n"
                        "  basin plan job.json --shard 2/8 --json | jq .seconds\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = plan_main,
};
