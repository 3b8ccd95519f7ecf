/* Status and totals. */
#include "jobs/report_impl.h"

#include "base/mem.h"
#include "base/num.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* ---- status ---- */

// Asks with a shared lock, let go at once; runs that find a lock taken look twice.
static bool is_held(const char *dir, int part) {
    struct sbuf path;
    sbuf_init(&path);
    ledger_put_lock(&path, dir, part);
    const int fd = open(sbuf_str(&path), O_RDONLY | O_CLOEXEC);
    sbuf_fini(&path);
    if (fd < 0) return false;
    const bool held = flock(fd, LOCK_SH | LOCK_NB) != 0;
    close(fd);
    return held;
}

static enum status append_row(void *ctx, const char *line, size_t n, struct err *e) {
    struct sbuf *out = ctx;
    sbuf_add(out, line, n);
    sbuf_putc(out, '\n');
    return sbuf_status(out, e);
}

static enum status part_status(const char *dir, int part, int n_part, struct report_status *out,
                               struct err *e) {
    enum status st = OK;
    struct ledger_counts c;
    struct ledger_mark m;
    struct err why = {.code = OK};
    st = ledger_counts_of(dir, part, n_part, &c, &why);
    if (st == OK) {
        out->published++;
        out->documents += c.documents;
        out->failed += c.failed;
        out->tokens += c.tokens;
        goto done;
    }
    if (st != E_NOINPUT) FAIL(e, st, "%s", why.msg);
    st = OK;
    const bool held = is_held(dir, part), begun = ledger_peek(dir, part, &m);
    out->held += held;
    out->in_progress += held || begun;
    if (!begun) goto done;
    out->documents += m.documents;
    out->failed += m.failed;
    out->tokens += m.tokens;
done:
    return st;
}

enum status report_status(const char *dir, struct report_status *out, struct sbuf *failed_rows,
                          struct err *e) {
    enum status st = OK;
    struct sbuf path;
    sbuf_init(&path);
    memset(out, 0, sizeof *out);
    TRY(report_open_dir(dir, &out->n_part, NULL, e));
    for (int i = 0; i < out->n_part; i++) {
        struct report_cursor cursor = {.taken_bytes = 0};
        TRY(part_status(dir, i, out->n_part, out, e));
        if (failed_rows == NULL) continue;
        TRY(report_read_part(dir, i, out->n_part, LEDGER_ERRORS, &cursor, append_row, failed_rows,
                             e));
    }
    sbuf_printf(&path, "%s/_SUCCESS", dir);
    TRY(sbuf_status(&path, e));
    // Files may have been removed since _SUCCESS was written.
    out->success = access(path.s, F_OK) == 0 && out->published == out->n_part;
done:
    sbuf_fini(&path);
    return st;
}

/* ---- totals ---- */

struct totals {
    struct report_total *v; /* owned */
    size_t n, cap;
    struct num_sum *sums; /* owned [cap_sums]: of sum_logprob, beside v */
    size_t cap_sums;
};

static enum status find_total(struct totals *t, const char *setting, size_t *at, struct err *e) {
    enum status st = OK;
    for (*at = 0; *at < t->n; ++*at) {
        if (strcmp(t->v[*at].setting, setting) == 0) goto done;
    }
    TRY(mem_grow(&t->v, &t->cap, t->n + 1, sizeof *t->v, e));
    TRY(mem_grow(&t->sums, &t->cap_sums, t->n + 1, sizeof *t->sums, e));
    memset(&t->v[t->n], 0, sizeof *t->v);
    memset(&t->sums[t->n], 0, sizeof *t->sums);
    memcpy(t->v[t->n].setting, setting, strlen(setting) + 1);
    t->v[t->n].has_text = true;
    t->n++;
done:
    return st;
}

// False when the row has no such number (a document of ids has no words).
static bool add_number(const struct jnode *row, const char *key, int64_t *total) {
    const struct jnode *v = json_get(row, key);
    if (v == NULL || json_kind_of(v) != JSON_INT) return false;
    *total += json_int(v);
    return true;
}

static void add_answer(const struct jnode *row, struct report_total *total) {
    const struct jnode *end = json_get(row, "finish_reason");
    total->written = true;
    total->has_text = false;
    (void)add_number(row, "prompt_tokens", &total->num_tokens);
    if (end != NULL && json_kind_of(end) == JSON_STR && strcmp(json_str(end, NULL), "stop") == 0) {
        total->stopped++;
    }
}

static enum status add_scores(const struct jnode *row, struct report_total *total, struct err *e) {
    if (!add_number(row, "num_tokens", &total->num_tokens) ||
        !add_number(row, "num_scored", &total->num_scored)) {
        return err_fail(e, E_FORMAT, "no num_tokens or num_scored");
    }
    const bool bytes = add_number(row, "num_bytes", &total->num_bytes);
    const bool words = add_number(row, "num_words", &total->num_words);
    total->has_text = total->has_text && bytes && words;
    return OK;
}

static enum status add_row(void *ctx, const char *line, size_t n, struct err *e) {
    enum status st = OK;
    struct totals *t = ctx;
    struct json *j = NULL;
    size_t at = 0, n_name = 0;
    TRY(json_open_text(&j, "row", line, n, e));
    const struct jnode *row = json_root(j);
    if (json_kind_of(row) != JSON_OBJ) FAIL(e, E_FORMAT, "a row that is not an object");
    const struct jnode *setting = json_get(row, "setting");
    if (setting == NULL || json_kind_of(setting) != JSON_STR) FAIL(e, E_FORMAT, "no setting");
    const char *name = json_str(setting, &n_name);
    if (n_name >= sizeof t->v->setting) FAIL(e, E_FORMAT, "a setting with a long name");
    TRY(find_total(t, name, &at, e));
    struct report_total *total = &t->v[at];
    total->documents++;
    if (add_number(row, "completion_tokens", &total->num_scored)) {
        add_answer(row, total);
    } else {
        TRY(add_scores(row, total, e));
    }
    const struct jnode *sum = json_get(row, "sum_logprob");
    const enum json_kind kind = sum != NULL ? json_kind_of(sum) : JSON_NIL;
    if (kind == JSON_INT || kind == JSON_NUM) num_sum_add(&t->sums[at], json_num(sum));
done:
    json_close(j);
    return st;
}

enum status report_stats(const char *dir, struct report_total **totals, int *n_total,
                         struct err *e) {
    enum status st = OK;
    struct totals t;
    int n_part = 0;
    memset(&t, 0, sizeof t);
    *totals = NULL;
    *n_total = 0;
    TRY(report_open_dir(dir, &n_part, NULL, e));
    for (int i = 0; i < n_part; i++) {
        struct report_cursor cursor = {.taken_bytes = 0};
        st = report_read_part(dir, i, n_part, LEDGER_RESULTS, &cursor, add_row, &t, e);
        if (st != OK) {
            err_prefix(e, "part %d: ", i);
            goto done;
        }
    }
    for (size_t i = 0; i < t.n; i++) {
        t.v[i].sum_logprob = num_sum_value(&t.sums[i]);
        if (!t.v[i].has_text) t.v[i].num_bytes = t.v[i].num_words = 0; // of some documents only
    }
    *totals = t.v;
    *n_total = (int)t.n;
    t.v = NULL;
done:
    mem_free(t.v);
    mem_free(t.sums);
    return st;
}
