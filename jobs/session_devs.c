/* Which devices a run uses: from a list of names to open handles, and what they have room for. */
#include "base/num.h"
#include "jobs/session.h"

#include <stdio.h>
#include <string.h>

static void say(const struct session *s, enum run_note kind, const char *text) {
    const struct run_hooks *h = &s->o->hooks;
    if (h->note != NULL) h->note(h->ctx, kind, text);
}

/* ---- what they have room for */

void session_device_bytes(const struct session *s, int64_t n_row, int64_t longest,
                          struct session_bytes *out) {
    const struct arch *a = model_arch(s->model);
    const struct model_on *mo = s->devs[0].mo;
    const int64_t word = s->compute == DT_BF16 ? 2 : 4;
    int64_t rows = 0, cache = 0;
    for (size_t i = 0; i < s->man->n_settings; i++) {
        const struct vis_rule r = part_rule(&s->man->settings[i]);
        const int64_t n = r.dense ? longest : INT64_MAX / 4;
        cache += cache_bytes(a, mo->classes, mo->class_of_layer, &r, n, (size_t)word);
        rows += vis_cache_sinks(&r, &mo->classes[0]) + vis_cache_most(&r, &mo->classes[0], n);
    }
    out->cache = cache;
    // Working keys and values are packed once more for the kernels.
    out->span =
        span_bytes(a, n_row, rows, (size_t)word) + 2 * (n_row + rows) * a->n_kv * a->d_head * word;
    out->weights = (span_layer_params(a) + a->n_vocab * a->d_model) * word;
}

// Smaller spans where memory is short: results do not depend on it.
static void settle_rows(struct session *s, struct session_dev *v) {
    const struct arch *a = model_arch(s->model);
    const int64_t wanted = s->n_row;
    v->n_row = wanted;
    if (strcmp(dev_kind(v->dev), "cuda") != 0) return; // a CPU's memory is the process's
    for (; v->n_row / 2 >= 64; v->n_row /= 2) {
        struct session_bytes b;
        session_device_bytes(s, v->n_row, a->n_ctx_train, &b);
        const int64_t mlp = 2 * a->d_ff * 4 * v->n_row;
        if (b.weights + b.cache + b.span + mlp <= v->free_bytes - v->free_bytes / 16) break;
    }
    if (v->n_row == wanted) return;
    char text[256];
    snprintf(text, sizeof text, "%s has %lld MiB free: spans of %lld rows instead of %lld", v->name,
             (long long)(v->free_bytes >> 20), (long long)v->n_row, (long long)wanted);
    say(s, RUN_INFO, text);
}

/* ---- opening */

static enum status open_handle(struct session *s, const char *name, int ordinal, struct dev **out,
                               struct err *e) {
    const struct dev_config c = {
        .n_thread = s->o->n_thread, .isa = s->o->isa, .compute = s->compute, .int8 = s->int8};
    if (strcmp(name, "ref") == 0) return dev_open_ref(out, &c, e);
    if (strcmp(name, "cpu") == 0) return dev_open_cpu(out, &c, e);
    return dev_open_cuda(out, ordinal, &c, e);
}

static enum status open_one(struct session *s, const char *name, int ordinal, struct err *e) {
    enum status st = OK;
    struct session_dev *v = &s->devs[s->n_dev];
    struct err why = {.code = OK};
    for (int i = 0; i < s->n_dev; i++) {
        if (strcmp(s->devs[i].name, name) == 0) FAIL(e, E_ARG, "%s is named twice", name);
    }
    if (s->n_dev == SESSION_DEVICES) FAIL(e, E_ARG, "more than %d devices", SESSION_DEVICES);
    snprintf(v->name, sizeof v->name, "%s", name);
    st = open_handle(s, name, ordinal, &v->dev, &why);
    if (st == OK) st = model_on_open(&v->mo, s->model, v->dev, &why);
    if (st != OK) {
        dev_close(v->dev);
        v->dev = NULL;
        // Whatever keeps a GPU from being used: it is not available.
        FAIL(e, strncmp(name, "cuda", 4) == 0 ? E_DEVICE : st, "%s", why.msg);
    }
    s->n_dev++;
    const struct dev_memory m = dev_memory(v->dev);
    v->free_bytes = m.free_bytes;
    v->total_bytes = m.total_bytes;
    settle_rows(s, v);
done:
    return st;
}

// All GPUs that CUDA shows: one that cannot be opened is passed over as long as there is another.
static enum status open_all_gpus(struct session *s, struct err *e) {
    enum status st = OK;
    const int n = dev_cuda_count(), before = s->n_dev;
    struct err first = {.code = OK};
    for (int i = 0; i < (n > 0 ? n : 1); i++) { // without one opening it says why
        struct err why = {.code = OK};
        char name[32], text[640];
        snprintf(name, sizeof name, "cuda:%d", i);
        st = open_one(s, name, i, &why);
        if (st == OK) continue;
        if (st != E_DEVICE) FAIL(e, st, "%s", why.msg);
        if (first.code == OK) first = why;
        snprintf(text, sizeof text, "%s is not used: %s", name, why.msg);
        if (n > 1) say(s, RUN_WARNING, text);
    }
    st = OK;
    if (s->n_dev == before) FAIL(e, E_DEVICE, "%s", first.msg);
done:
    return st;
}

// cpu, cuda, cuda:N and, behind that, further N.
static enum status open_list(struct session *s, const char *list, struct err *e) {
    enum status st = OK;
    bool numbers = false;
    for (const char *at = list, *next = NULL; at != NULL; at = next) {
        char word[24] = "", name[32];
        const size_t n = strcspn(at, ",");
        int64_t ordinal = 0;
        next = at[n] == ',' ? at + n + 1 : NULL;
        if (n < sizeof word) memcpy(word, at, n);
        const bool prefixed = strncmp(word, "cuda:", 5) == 0;
        if ((prefixed || numbers) && num_parse_int(prefixed ? word + 5 : word, 4095, &ordinal)) {
            snprintf(name, sizeof name, "cuda:%d", (int)ordinal);
            TRY(open_one(s, name, (int)ordinal, e));
            numbers = true;
            continue;
        }
        numbers = false;
        if (strcmp(word, "cpu") == 0 || strcmp(word, "ref") == 0) {
            TRY(open_one(s, word, 0, e));
        } else if (strcmp(word, "cuda") == 0) {
            TRY(open_all_gpus(s, e));
        } else {
            FAIL(e, E_ARG, "must be auto, cpu, cuda, cuda:0,1 or cpu,cuda");
        }
    }
done:
    return st;
}

enum status session_open_devices(struct session *s, struct err *e) {
    enum status st = OK;
    const char *want = s->o->devices != NULL ? s->o->devices : "auto";
    if (strcmp(want, "auto") == 0) {
        // The CPU, until the GPU backend has been seen on a GPU; the person is told what else there is.
        if (dev_cuda_count() > 0) say(s, RUN_INFO, "runs on the CPU; --devices cuda takes the GPU");
        return open_one(s, "cpu", 0, e);
    }
    TRY(open_list(s, want, e));
    if (s->man->job == MAN_GENERATE && s->n_dev > 1) {
        FAIL(e, E_UNSUPPORTED,
             "a generate job runs on one device: name one (cpu, or cuda:0), or share the job out, "
             "for "
             "example with --devices cuda:0 --shard 0/2 and --devices cuda:1 --shard 1/2");
    }
done:
    if (st != OK) err_prefix(e, "--devices %s: ", want);
    return st;
}
