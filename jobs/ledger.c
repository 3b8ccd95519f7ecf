/* Opening an output directory, and questions about its parts. */
#include "jobs/ledger_impl.h"
#include "jobs/ledger_job.h"

#include "base/mem.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const ledger_stream_names[LEDGER_STREAMS] = {"results", "tokens", "errors"};
const char *const ledger_state_names[2] = {"state-0", "state-1"};

struct ledger_stamp ledger_stamp_of(const char *path) {
    struct ledger_stamp s = {.there = false};
    struct stat sb;
    if (stat(path, &sb) != 0) return s;
    s.there = true;
    s.dev = sb.st_dev;
    s.ino = sb.st_ino;
    s.bytes = sb.st_size;
    s.mtime_ns = (int64_t)sb.st_mtim.tv_sec * 1000000000 + sb.st_mtim.tv_nsec;
    return s;
}

bool ledger_same_stamp(const struct ledger_stamp *a, const struct ledger_stamp *b) {
    return a->there == b->there && a->dev == b->dev && a->ino == b->ino && a->bytes == b->bytes &&
           a->mtime_ns == b->mtime_ns;
}

/* ---- names ---- */

void ledger_name(char name[LEDGER_NAME], enum ledger_stream s, int part, int n_part) {
    snprintf(name, LEDGER_NAME, "%s-%05d-of-%05d.jsonl%s", ledger_stream_names[s], part, n_part,
             s == LEDGER_ERRORS ? "" : ".lz4");
}

void ledger_put_published(struct sbuf *path, const char *dir, enum ledger_stream s, int part,
                          int n_part) {
    char name[LEDGER_NAME];
    ledger_name(name, s, part, n_part);
    sbuf_printf(path, "%s/%s", dir, name);
}

void ledger_put_lock(struct sbuf *path, const char *dir, int part) {
    sbuf_printf(path, "%s/.basin/lock/%05d", dir, part);
}

void ledger_put_done(struct sbuf *path, const char *dir, int part) {
    sbuf_printf(path, "%s/.basin/done/%05d.json", dir, part);
}

void ledger_put_work(struct sbuf *path, const char *dir, int part, const char *attempt,
                     const char *file) {
    sbuf_printf(path, "%s/.basin/work/%05d", dir, part);
    if (attempt != NULL) sbuf_printf(path, "/%s", attempt);
    if (file != NULL) sbuf_printf(path, "/%s", file);
}

// On the stack, so that running out of memory cannot make a part look undone.
static struct ledger_stamp published_stamp(const char *dir, enum ledger_stream s, int part,
                                           int n_part) {
    char name[LEDGER_NAME], path[PATH_MAX];
    ledger_name(name, s, part, n_part);
    const int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path) return (struct ledger_stamp){.there = false};
    return ledger_stamp_of(path);
}

/* ---- the handle ---- */

static bool is_name(const char *s) {
    const size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");
    return n > 0 && n <= 128 && s[n] == '\0';
}

// The errors files that this run is to do away with: those there are now. One that is written
// later, by whomever, has been tried again and stays.
static enum status remember_errors(struct ledger *l, struct err *e) {
    enum status st = OK;
    TRY(mem_zalloc(&l->errors, (size_t)l->n_part, sizeof *l->errors, e));
    for (int i = 0; i < l->n_part; i++) {
        l->errors[i] = published_stamp(l->dir, LEDGER_ERRORS, i, l->n_part);
    }
done:
    return st;
}

static enum status make_folders(const char *dir, struct err *e) {
    enum status st = OK;
    static const char *const folders[] = {"lock", "done", "work"};
    struct sbuf path;
    sbuf_init(&path);
    for (size_t i = 0; i < COUNTOF(folders); i++) {
        sbuf_clear(&path);
        sbuf_printf(&path, "%s/.basin/%s", dir, folders[i]);
        TRY(sbuf_status(&path, e));
        TRY(file_mkdirs(path.s, e));
    }
    sbuf_clear(&path);
    sbuf_printf(&path, "%s/.basin", dir);
    TRY(sbuf_status(&path, e));
    TRY(file_sync_dir(path.s, e));
done:
    sbuf_fini(&path);
    return st;
}

enum status ledger_open(struct ledger **out, const struct ledger_config *c, struct err *e) {
    enum status st = OK;
    struct ledger *l = NULL;
    struct json *mine = NULL;
    *out = NULL;
    if (!is_name(c->attempt)) FAIL(e, E_ARG, "\"%.64s\" cannot name an attempt", c->attempt);
    TRY(ledger_parse_job(&mine, c->job_json, c->n_part, e));
    TRY(mem_zalloc(&l, 1, sizeof *l, e));
    TRY(mem_dup(&l->dir, c->dir, strlen(c->dir), e));
    TRY(mem_dup(&l->attempt, c->attempt, strlen(c->attempt), e));
    l->n_part = c->n_part;
    l->tokens = c->tokens;
    l->retry_failed = c->retry_failed;
    TRY(file_mkdirs(l->dir, e));
    TRY(ledger_settle_job(l->dir, mine, c->overwrite, &l->job, e));
    TRY(make_folders(l->dir, e));
    if (l->retry_failed) TRY(remember_errors(l, e));
    *out = l;
    l = NULL;
done:
    json_close(mine);
    ledger_close(l);
    return st;
}

void ledger_close(struct ledger *l) {
    if (l == NULL) return;
    mem_free(l->dir);
    mem_free(l->attempt);
    mem_free(l->errors);
    mem_free(l);
}

const char *ledger_dir(const struct ledger *l) {
    return l->dir;
}

enum status ledger_write_run(struct ledger *l, const char *json, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/run", l->dir);
    TRY(sbuf_status(&path, e));
    TRY(file_mkdirs(path.s, e));
    sbuf_printf(&path, "/%s.json", l->attempt);
    TRY(sbuf_status(&path, e));
    TRY(file_write_atomic(path.s, json, strlen(json), FILE_REPLACE, NULL, e));
done:
    sbuf_fini(&path);
    return st;
}

bool ledger_has_results(const char *dir, int part, int n_part) {
    return published_stamp(dir, LEDGER_RESULTS, part, n_part).there;
}

bool ledger_is_published(const struct ledger *l, int part) {
    // Somebody who removes a damaged tokens file wants it made again, not missed in silence.
    return ledger_has_results(l->dir, part, l->n_part) &&
           (!l->tokens || published_stamp(l->dir, LEDGER_TOKENS, part, l->n_part).there);
}

bool ledger_is_settled(const struct ledger *l, int part) {
    if (!ledger_is_published(l, part)) return false;
    if (l->errors == NULL || !l->errors[part].there) return true;
    const struct ledger_stamp now = published_stamp(l->dir, LEDGER_ERRORS, part, l->n_part);
    return !ledger_same_stamp(&now, &l->errors[part]);
}

enum status ledger_part_counts(struct ledger *l, int part, struct ledger_counts *out,
                               struct err *e) {
    return ledger_counts_of(l->dir, part, l->n_part, out, e);
}

enum status ledger_finish(struct ledger *l, bool *all, struct ledger_counts *total, struct err *e) {
    enum status st = OK;
    struct sbuf path, text, old;
    sbuf_init(&path);
    sbuf_init(&text);
    sbuf_init(&old);
    *all = true;
    memset(total, 0, sizeof *total);
    for (int i = 0; i < l->n_part; i++) {
        struct ledger_counts c;
        struct err why = {.code = OK};
        st = ledger_counts_of(l->dir, i, l->n_part, &c, &why);
        if (st == E_NOINPUT) {
            *all = false;
            continue;
        }
        if (st != OK) FAIL(e, st, "%s", why.msg);
        total->documents += c.documents;
        total->failed += c.failed;
        total->rows += c.rows;
        total->tokens += c.tokens;
    }
    st = OK;
    if (!*all) goto done;
    sbuf_printf(&path, "%s/_SUCCESS", l->dir);
    sbuf_printf(&text,
                "{\"parts\":%d,\"documents\":%" PRId64 ",\"failed\":%" PRId64 ",\"rows\":%" PRId64
                ",\"tokens\":%" PRId64 "}\n",
                l->n_part, total->documents, total->failed, total->rows, total->tokens);
    TRY(sbuf_status(&path, e));
    TRY(sbuf_status(&text, e));
    if (file_read_all(path.s, 4096, &old, NULL) == OK && old.n == text.n &&
        memcmp(old.s, text.s, text.n) == 0) {
        goto done;
    }
    TRY(file_write_atomic(path.s, text.s, text.n, FILE_REPLACE, NULL, e));
done:
    sbuf_fini(&path);
    sbuf_fini(&text);
    sbuf_fini(&old);
    return st;
}
