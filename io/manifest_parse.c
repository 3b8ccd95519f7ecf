#include "io/manifest_impl.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INPUTS = 65536 };

/* ---- words ---- */

static const char *const job_words[] = {"score", "generate", NULL};
static const char *const job_later[] = {"probe", "experiment", "train", NULL};
static const char *const utf8_words[] = {"fail", "replace", NULL};
static const char *const dtype_words[] = {"auto", "f32", "bf16", "int8", NULL};

const char *man_dtype_name(enum man_dtype v) {
    return dtype_words[v];
}

/* ---- input ---- */

#define IN_INPUT(member) offsetof(struct man_input, member)
static const struct man_field input_fields[] = {
    {.key = "path",
     .kind = MAN_K_STRING,
     .offset = IN_INPUT(path),
     .required = true,
     .about = "A file or a pattern (*, ?, [...], **), relative to the manifest; - is stdin."},
    {.key = "text_key",
     .kind = MAN_K_STRING,
     .offset = IN_INPUT(text_key),
     .fallback = "\"text\"",
     .about = "JSON lines: where the text of a document is."},
    {.key = "id_key",
     .kind = MAN_K_STRING,
     .offset = IN_INPUT(id_key),
     .fallback = "\"id\"",
     .about = "JSON lines: where the id of a document is."},
    {.key = "messages_key",
     .kind = MAN_K_STRING,
     .offset = IN_INPUT(messages_key),
     .fallback = "\"messages\"",
     .about = "JSON lines of a generate job: where a chat is, a list of messages with role and "
              "content, or of turns, which are strings."},
    {.key = "ids_key",
     .kind = MAN_K_STRING,
     .offset = IN_INPUT(ids_key),
     .about = "JSON lines: where token ids are, which are taken as they stand, instead of text."},
    {.key = "invalid_utf8",
     .kind = MAN_K_WORD,
     .offset = IN_INPUT(invalid_utf8),
     .words = utf8_words,
     .fallback = "\"fail\"",
     .about = "What becomes of a text that is not UTF-8: it fails, or U+FFFD stands for what is "
              "wrong."},
};
static const char *const input_rules[] = {
    "{\"not\":{\"required\":[\"ids_key\",\"text_key\"]}}",
    "{\"not\":{\"required\":[\"ids_key\",\"messages_key\"]}}",
    "{\"if\":{\"required\":[\"path\"],\"properties\":{\"path\":{\"type\":\"string\","
    "\"pattern\":\"[.]txt([.](gz|zst|lz4))?$\"}}},\"then\":{\"properties\":{\"ids_key\":false}}}",
    NULL,
};
static const struct man_section input_section = {
    .fields = input_fields, .n_fields = COUNTOF(input_fields), .rules = input_rules};

static bool is_plain_text(const char *path) {
    static const char *const endings[] = {".txt", ".txt.gz", ".txt.zst", ".txt.lz4"};
    const size_t n = strlen(path);
    for (size_t i = 0; i < COUNTOF(endings); i++) {
        const size_t k = strlen(endings[i]);
        if (n >= k && strcmp(path + n - k, endings[i]) == 0) return true;
    }
    return false;
}

static bool generates(const struct man_reader *r) {
    return man_word_is(json_root(r->doc), "job", "generate");
}

static void drop(char **key) {
    mem_free(*key);
    *key = NULL;
}

static void read_input_entry(struct man_reader *r, const struct jnode *v, struct man_input *in) {
    if (json_kind_of(v) == JSON_STR) {
        man_read_string(r, v, &in->path);
    } else if (json_kind_of(v) != JSON_OBJ) {
        man_expect(r, "a path or an object", v);
        return;
    } else {
        man_read_section(r, &input_section, v, in);
        if (man_given(v, "ids_key") && man_given(v, "text_key")) {
            man_complain(r, E_FORMAT, "ids_key", "excludes text_key: a line is ids or text");
        }
        if (man_given(v, "ids_key") && man_given(v, "messages_key")) {
            man_complain(r, E_FORMAT, "ids_key", "excludes messages_key: a line is ids or a chat");
        }
        if (man_given(v, "messages_key") && !generates(r)) {
            man_complain(r, E_FORMAT, "messages_key",
                         "has no effect unless \"job\" is \"generate\"");
        }
        if (man_given(v, "ids_key") && in->invalid_utf8 == MAN_UTF8_REPLACE) {
            man_complain(r, OK, "invalid_utf8", "has no effect on ids");
        }
        in->keys_given =
            man_given(v, "text_key") || man_given(v, "messages_key") || man_given(v, "ids_key");
        const bool plain = in->path != NULL && is_plain_text(in->path);
        if (plain && man_given(v, "ids_key")) {
            man_complain(r, E_FORMAT, "ids_key", "needs .jsonl input: a .txt file has no keys");
        }
        for (size_t i = 1; i <= 3 && plain; i++) { // text_key, id_key, messages_key
            if (!man_given(v, input_fields[i].key)) continue;
            man_complain(r, OK, input_fields[i].key, "has no effect on a .txt file");
        }
    }
    if (in->path != NULL && is_plain_text(in->path)) {
        drop(&in->text_key);
        drop(&in->messages_key);
        drop(&in->id_key);
    } else {
        if (in->ids_key == NULL) man_set_default(r, &in->text_key, "text");
        if (in->ids_key == NULL && generates(r)) man_set_default(r, &in->messages_key, "messages");
        man_set_default(r, &in->id_key, "id");
    }
}

static int by_path(const void *a, const void *b) {
    const struct man_input *x = *(const struct man_input *const *)a;
    const struct man_input *y = *(const struct man_input *const *)b;
    const int order = strcmp(x->path, y->path);
    return order != 0 ? order : (x > y) - (x < y);
}

// A document is known by its source and offset, so no source may come twice. Patterns that overlap
// are found when they are expanded.
static void find_repeated(struct man_reader *r) {
    const struct manifest *m = r->m;
    const struct man_input **sorted = NULL; /* owned */
    size_t n = 0;
    if (mem_zalloc(&sorted, m->n_inputs, sizeof *sorted, NULL) != OK) {
        r->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < m->n_inputs; i++) {
        if (m->inputs[i].path != NULL) sorted[n++] = &m->inputs[i];
    }
    qsort(sorted, n, sizeof *sorted, by_path);
    const size_t mark = r->place.n;
    for (size_t i = 1; i < n; i++) {
        if (strcmp(sorted[i]->path, sorted[i - 1]->path) != 0) continue;
        const bool stdin_twice = strcmp(sorted[i]->path, "-") == 0;
        sbuf_printf(&r->place, "[%zu]", (size_t)(sorted[i] - m->inputs));
        man_complain(r, E_FORMAT, NULL, "%s; the first time at $.input[%zu]",
                     stdin_twice ? "\"-\" (stdin) can be read only once" : "is listed twice",
                     (size_t)(sorted[i - 1] - m->inputs));
        r->place.n = mark;
    }
    mem_free(sorted);
}

static void read_inputs(struct man_reader *r, const struct jnode *v) {
    struct manifest *m = r->m;
    const bool list = json_kind_of(v) == JSON_ARR;
    m->n_inputs = man_list_length(r, v, MAX_INPUTS, sizeof *m->inputs, &m->inputs);
    const size_t mark = r->place.n;
    for (size_t i = 0; i < m->n_inputs; i++) {
        if (list) sbuf_printf(&r->place, "[%zu]", i);
        read_input_entry(r, list ? json_at(v, i) : v, &m->inputs[i]);
        r->place.n = mark;
    }
    find_repeated(r);
}

/* ---- the other sections ---- */

#define IN_MANIFEST(member) offsetof(struct manifest, member)

static const struct man_field model_fields[] = {
    {.key = "path",
     .kind = MAN_K_STRING,
     .offset = IN_MANIFEST(model_path),
     .required = true,
     .about = "The model, relative to the manifest."},
};
static const struct man_section model_section = {.fields = model_fields,
                                                 .n_fields = COUNTOF(model_fields)};

static void read_model(struct man_reader *r, const struct jnode *v) {
    if (json_kind_of(v) == JSON_STR) {
        man_read_string(r, v, &r->m->model_path);
    } else if (json_kind_of(v) != JSON_OBJ) {
        man_expect(r, "a path or an object", v);
    } else {
        man_read_section(r, &model_section, v, r->m);
    }
}

void man_read_add_bos(struct man_reader *r, const struct jnode *v, enum man_bos *out) {
    if (json_kind_of(v) == JSON_BOOL) {
        *out = json_bool(v) ? MAN_BOS_TRUE : MAN_BOS_FALSE;
    } else if (json_kind_of(v) != JSON_STR || strcmp(json_str(v, NULL), "auto") != 0) {
        man_complain(r, E_FORMAT, NULL, "must be \"auto\", true or false");
    }
}

const char *man_bos_json(enum man_bos v) {
    static const char *const bos[] = {"\"auto\"", "true", "false"};
    return bos[v];
}

static void read_add_bos(struct man_reader *r, const struct jnode *v) {
    man_read_add_bos(r, v, &r->m->score.add_bos);
}

static const struct man_field score_fields[] = {
    {.key = "tokens",
     .kind = MAN_K_BOOL,
     .offset = IN_MANIFEST(score.tokens),
     .fallback = "false",
     .about = "Log-probabilities of every token too, not only sums."},
    {.key = "limit_tokens",
     .kind = MAN_K_INT,
     .offset = IN_MANIFEST(score.limit_tokens),
     .hi = (int64_t)1 << 40,
     .fallback = "0",
     .about = "Only so many tokens of each document; 0: all of them."},
    {.key = "add_bos",
     .kind = MAN_K_OWN,
     .own = read_add_bos,
     .fallback = "\"auto\"",
     .schema = MAN_BOS_SCHEMA,
     .about = "Whether a text begins with the BOS token; auto: as the tokenizer is configured."},
};
static const struct man_section score_section = {.fields = score_fields,
                                                 .n_fields = COUNTOF(score_fields)};

static void read_score(struct man_reader *r, const struct jnode *v) {
    if (generates(r)) {
        man_complain(r, E_FORMAT, NULL, "has no effect unless \"job\" is \"score\"");
        return;
    }
    man_read_section(r, &score_section, v, r->m);
}

static const struct man_field output_fields[] = {
    {.key = "path",
     .kind = MAN_K_STRING,
     .offset = IN_MANIFEST(output.path),
     .required = true,
     .unless = MAN_NO_OUTPUT,
     .about = "The directory of the results, relative to the manifest."},
    {.key = "part_bytes",
     .kind = MAN_K_INT,
     .offset = IN_MANIFEST(output.part_bytes),
     .lo = 1024,
     .hi = (int64_t)1 << 40,
     .fallback = "67108864",
     .about = "Input bytes of a part, the unit that is shared out and published."},
};
static const struct man_section output_section = {.fields = output_fields,
                                                  .n_fields = COUNTOF(output_fields)};

static void read_output(struct man_reader *r, const struct jnode *v) {
    man_read_section(r, &output_section, v, r->m);
}

static const struct man_field compute_fields[] = {
    {.key = "dtype",
     .kind = MAN_K_WORD,
     .offset = IN_MANIFEST(compute.dtype),
     .words = dtype_words,
     .fallback = "\"auto\"",
     .about =
         "What products are computed in; auto: f32 for models stored so, else bf16; int8 where "
         "quantized models write on a CPU."},
    {.key = "span_tokens",
     .kind = MAN_K_INT,
     .offset = IN_MANIFEST(compute.span_tokens),
     .hi = 1048576,
     .fallback = "0",
     .about = "Rows that go through the model together; 0: chosen by the program. Changes speed "
              "and memory, never results."},
};

// Where a job runs may change from start to start, so it is said on the command line.
static bool foreign_compute(struct man_reader *r, const struct jnode *object, const char *key) {
    (void)object;
    if (strcmp(key, "threads") != 0 && strcmp(key, "devices") != 0) return false;
    man_complain(r, E_FORMAT, key, "unknown key; give --%s on the command line", key);
    return true;
}

static const struct man_section compute_section = {
    .fields = compute_fields, .n_fields = COUNTOF(compute_fields), .foreign = foreign_compute};

static void read_compute(struct man_reader *r, const struct jnode *v) {
    man_read_section(r, &compute_section, v, r->m);
}

static void read_version(struct man_reader *r, const struct jnode *v) {
    if (json_kind_of(v) != JSON_INT && (json_kind_of(v) != JSON_NUM || json_num(v) != 1)) {
        man_expect(r, "the integer 1", v);
    } else if (json_num(v) != 1) {
        man_complain(r, E_UNSUPPORTED, NULL, "manifest version %" PRId64 "; this program reads 1",
                     json_int(v));
    } else {
        r->m->version = 1;
    }
}

static const struct man_field root_fields[] = {
    {.key = "version",
     .kind = MAN_K_OWN,
     .own = read_version,
     .required = true,
     .schema = "\"const\":1",
     .about = "Of this format."},
    {.key = "job",
     .kind = MAN_K_WORD,
     .offset = IN_MANIFEST(job),
     .words = job_words,
     .later = job_later,
     .required = true,
     .about = "What to compute."},
    {.key = "model",
     .kind = MAN_K_OWN,
     .own = read_model,
     .required = true,
     .form = MAN_F_PATH_OR_OBJECT,
     .section = &model_section,
     .about = "The model."},
    {.key = "input",
     .kind = MAN_K_OWN,
     .own = read_inputs,
     .required = true,
     .form = MAN_F_LIST_OF_PATHS,
     .hi = MAX_INPUTS,
     .section = &input_section,
     .about = "What to read, in this order; no source twice."},
    {.key = "cache",
     .kind = MAN_K_OWN,
     .own = man_read_cache,
     .form = MAN_F_LIST,
     .hi = MAN_MAX_SETTINGS,
     .section = &man_setting_section,
     .about = "What a token sees; of a list, the corpus is scored under each setting."},
    {.key = "score",
     .kind = MAN_K_OWN,
     .own = read_score,
     .form = MAN_F_OBJECT,
     .section = &score_section,
     .about = "What is scored, by a score job."},
    {.key = "generate",
     .kind = MAN_K_OWN,
     .own = man_read_generate,
     .form = MAN_F_OBJECT,
     .section = &man_generate_section,
     .about = "What is written, by a generate job."},
    {.key = "output",
     .kind = MAN_K_OWN,
     .own = read_output,
     .required = true,
     .unless = MAN_NO_OUTPUT,
     .form = MAN_F_OBJECT,
     .section = &output_section,
     .about = "Where results go."},
    {.key = "compute",
     .kind = MAN_K_OWN,
     .own = read_compute,
     .form = MAN_F_OBJECT,
     .section = &compute_section,
     .about = "How it is computed."},
};

// A rule for an object, or for each in a list of them.
#define EACH(rule) "{\"if\":{\"type\":\"array\"},\"then\":{\"items\":" rule "},\"else\":" rule "}"

// What the job decides about sections other than its own.
static const char *const root_rules[] = {
    "{\"if\":{\"required\":[\"job\"],\"properties\":{\"job\":{\"const\":\"generate\"}}},"
    "\"then\":{\"required\":[\"generate\"],\"properties\":{\"score\":false,"
    "\"cache\":" EACH(
        MAN_GENERATE_SETTING) "}},"
                              "\"else\":{\"properties\":{\"generate\":false,\"cache\":" EACH(
                                  MAN_SCORE_SETTING) ","
                                                     "\"input\":" EACH(
                                                         "{\"properties\":{\"messages_key\":false}"
                                                         "}") "}}}",
    NULL,
};
const struct man_section man_root_section = {
    .fields = root_fields, .n_fields = COUNTOF(root_fields), .rules = root_rules};

// "$.cache" for a key that is right there and nowhere else; NULL for others ("path" is in three).
static const char *section_of(const char *key) {
    static const struct {
        const char *place;
        const struct man_section *section;
    } sections[] = {{"$.cache", &man_setting_section},     {"$.input", &input_section},
                    {"$.model", &model_section},           {"$.score", &score_section},
                    {"$.generate", &man_generate_section}, {"$.output", &output_section},
                    {"$.compute", &compute_section},       {"$", &man_root_section}};
    const char *found = NULL;
    int n = 0;
    for (size_t i = 0; i < COUNTOF(sections); i++) {
        for (size_t k = 0; k < sections[i].section->n_fields; k++) {
            if (strcmp(sections[i].section->fields[k].key, key) != 0) continue;
            found = sections[i].place;
            n++;
        }
    }
    return n == 1 ? found : NULL;
}

static void read_root(struct man_reader *r) {
    struct manifest *m = r->m;
    const struct jnode *root = json_root(r->doc);
    m->output.part_bytes = 64 << 20;
    if (!man_read_section(r, &man_root_section, root, m)) return;
    if (!man_given(root, "cache")) man_default_cache(r);
    if (generates(r) && !man_given(root, "generate")) {
        man_complain(r, E_FORMAT, "generate", "is missing: it says how much to write, at least");
    }
}

enum status man_parse(struct manifest **out, const struct json *doc, const char *dir,
                      unsigned flags, struct man_problems *problems, struct err *e) {
    enum status st = OK;
    struct man_problems own;
    man_problems_init(&own);
    struct man_reader r = {.doc = doc,
                           .flags = flags,
                           .problems = problems != NULL ? problems : &own,
                           .home = section_of};
    sbuf_init(&r.place);
    *out = NULL;
    TRY(mem_zalloc(&r.m, 1, sizeof *r.m, e));
    TRY(mem_dup(&r.m->dir, dir, strlen(dir), e));
    sbuf_puts(&r.place, "$");
    read_root(&r);
    if (r.out_of_memory || r.place.failed) FAIL(e, E_NOMEM, "out of memory");
    if (r.problems->n_errors > 0) {
        const struct man_problem *p = &r.problems->errors[0];
        FAIL(e, p->code, "%s:%d: %s: %s", json_borrow_label(doc), p->line, p->path, p->message);
    }
    *out = r.m;
    r.m = NULL;
done:
    man_close(r.m);
    sbuf_fini(&r.place);
    man_problems_fini(&own);
    return st;
}
