/* job.json: created once by whichever rank comes first, then compared. And its removal, with all
 * that belongs to it, when another job is to take its place. */
#include "jobs/ledger_job.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { JOB_MAX_BYTES = 1 << 30, WAIT_STEPS = 600, VALUE_SHOWN = 100 };

static bool is_job(const struct jnode *v) {
    const struct jnode *parts = json_kind_of(v) == JSON_OBJ ? json_get(v, "parts") : NULL;
    return parts != NULL && json_kind_of(parts) == JSON_ARR && json_get(v, "identity") != NULL;
}

enum status ledger_parse_job(struct json **out, const char *text, int n_part, struct err *e) {
    enum status st = OK;
    *out = NULL;
    TRY(json_open_text(out, "job", text, strlen(text), e));
    const struct jnode *root = json_root(*out);
    if (!is_job(root) || json_len(json_get(root, "parts")) != (size_t)n_part) {
        json_close(*out);
        *out = NULL;
        FAIL(e, E_ARG, "job: not an object with \"identity\" and %d \"parts\"", n_part);
    }
done:
    return st;
}

enum status ledger_read_job(struct json **out, const char *dir, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    sbuf_init(&path);
    *out = NULL;
    sbuf_printf(&path, "%s/job.json", dir);
    TRY(sbuf_status(&path, e));
    TRY(json_open(out, path.s, JOB_MAX_BYTES, e));
    if (!is_job(json_root(*out))) {
        json_close(*out);
        *out = NULL;
        FAIL(e, E_FORMAT, "%s: not the job of a result directory", path.s);
    }
done:
    sbuf_fini(&path);
    return st;
}

/* ---- comparing ---- */

struct difference {
    struct sbuf place; /* "$.cache.sink_tokens" */
    const struct jnode *there, *here;
};

static bool same_scalar(const struct jnode *a, const struct jnode *b) {
    size_t n = 0, m = 0;
    switch (json_kind_of(a)) {
    case JSON_BOOL: return json_bool(a) == json_bool(b);
    case JSON_INT: return json_int(a) == json_int(b);
    case JSON_NUM: return !(json_num(a) < json_num(b)) && !(json_num(a) > json_num(b));
    case JSON_STR: {
        const char *s = json_str(a, &n), *t = json_str(b, &m);
        return n == m && memcmp(s, t, n) == 0;
    }
    case JSON_NIL:
    case JSON_ARR:
    case JSON_OBJ: break;
    }
    return true;
}

// Where results lie and how fast they come, never what they are.
static bool is_free(const char *place) {
    return strcmp(place, "$.manifest.output.path") == 0 ||
           strcmp(place, "$.manifest.compute.span_tokens") == 0 ||
           strcmp(place, "$.manifest.generate.streams") == 0;
}

// a or b may be NULL: absent. Leaves the first difference in d.
static bool differs(const struct jnode *a, const struct jnode *b, struct difference *d) {
    const size_t mark = d->place.n;
    if (is_free(sbuf_str(&d->place))) return false;
    d->there = a;
    d->here = b;
    if (a == NULL || b == NULL || json_kind_of(a) != json_kind_of(b)) return true;
    if (json_kind_of(a) == JSON_ARR) {
        const size_t n = json_len(a) > json_len(b) ? json_len(a) : json_len(b);
        for (size_t i = 0; i < n; i++) {
            sbuf_printf(&d->place, "[%zu]", i);
            if (differs(json_at(a, i), json_at(b, i), d)) return true;
            d->place.n = mark;
        }
        return false;
    }
    if (json_kind_of(a) != JSON_OBJ) return !same_scalar(a, b);
    for (int pass = 0; pass < 2; pass++) { // a's members, then those that only b has
        struct json_iter it = json_iter(pass == 0 ? a : b);
        for (; it.key != NULL; json_next(&it)) {
            if (pass == 1 && json_get(a, it.key) != NULL) continue;
            sbuf_printf(&d->place, ".%s", it.key);
            if (differs(json_get(a, it.key), json_get(b, it.key), d)) return true;
            d->place.n = mark;
        }
    }
    return false;
}

static void put_value(struct sbuf *out, const struct jnode *v) {
    size_t n = 0;
    if (v == NULL) {
        sbuf_puts(out, "absent");
        return;
    }
    switch (json_kind_of(v)) {
    case JSON_NIL: sbuf_puts(out, "null"); break;
    case JSON_BOOL: sbuf_puts(out, json_bool(v) ? "true" : "false"); break;
    case JSON_INT: sbuf_printf(out, "%" PRId64, json_int(v)); break;
    case JSON_NUM: sbuf_json_double(out, json_num(v)); break;
    case JSON_ARR: sbuf_printf(out, "a list of %zu", json_len(v)); break;
    case JSON_OBJ: sbuf_puts(out, "an object"); break;
    case JSON_STR: {
        const char *s = json_str(v, &n);
        sbuf_json_string(out, s, n < VALUE_SHOWN ? n : VALUE_SHOWN);
        if (n > VALUE_SHOWN) sbuf_puts(out, "...");
    }
    }
}

// E_OUTPUT when the two are different jobs.
static enum status compare_jobs(const char *dir, const struct json *there, const struct json *here,
                                struct err *e) {
    enum status st = OK;
    static const char *const what[] = {"identity", "parts"};
    struct difference d;
    struct sbuf a, b;
    sbuf_init(&d.place);
    sbuf_init(&a);
    sbuf_init(&b);
    for (size_t i = 0; i < COUNTOF(what); i++) {
        sbuf_clear(&d.place);
        sbuf_puts(&d.place, i == 0 ? "$" : "$.parts");
        const bool differ =
            differs(json_get(json_root(there), what[i]), json_get(json_root(here), what[i]), &d);
        TRY(sbuf_status(&d.place, e));
        if (!differ) continue;
        put_value(&a, d.there);
        put_value(&b, d.here);
        FAIL(
            e, E_OUTPUT,
            "%s: holds another job%s: %s is %s there and %s here; use --overwrite or another --out",
            dir, i == 0 ? "" : " (the inputs have changed)", sbuf_str(&d.place), sbuf_str(&a),
            sbuf_str(&b));
    }
done:
    sbuf_fini(&d.place);
    sbuf_fini(&a);
    sbuf_fini(&b);
    return st;
}

enum status ledger_match_job(const char *dir, const char *job_json, int n_part, struct err *e) {
    enum status st = OK;
    struct json *there = NULL, *here = NULL;
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/job.json", dir);
    TRY(sbuf_status(&path, e));
    if (access(path.s, F_OK) != 0) goto done;
    TRY(ledger_read_job(&there, dir, e));
    TRY(ledger_parse_job(&here, job_json, n_part, e));
    TRY(compare_jobs(dir, there, here, e));
done:
    json_close(there);
    json_close(here);
    sbuf_fini(&path);
    return st;
}

/* ---- creating ---- */

static bool begins(const char *s, const char *with) {
    return strncmp(s, with, strlen(with)) == 0;
}

// What a run that was killed before it had written job.json can have left.
static bool is_leftover(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, ".basin") == 0 ||
           begins(name, ".tmp-");
}

// Nothing of ours is put between files we know nothing about.
static enum status refuse_foreign(const char *dir, const char *job_path, struct err *e) {
    enum status st = OK;
    DIR *d = opendir(dir);
    if (d == NULL) return err_errno(e, E_OUTPUT, errno, "%s: cannot read the directory", dir);
    const struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        if (is_leftover(entry->d_name)) continue;
        if (access(job_path, F_OK) == 0) break; // another rank has come first
        FAIL(e, E_OUTPUT, "%s: not empty, and not a result directory: it has no job.json but %s",
             dir, entry->d_name);
    }
done:
    closedir(d);
    return st;
}

static enum status write_job(const char *path, const struct json *mine, enum file_mode mode,
                             bool *existed, struct err *e) {
    enum status st = OK;
    size_t n = 0;
    struct sbuf text;
    sbuf_init(&text);
    const char *s = json_borrow_text(mine, &n);
    sbuf_add(&text, s, n);
    if (n == 0 || s[n - 1] != '\n') sbuf_putc(&text, '\n');
    TRY(sbuf_status(&text, e));
    TRY(file_write_atomic(path, text.s, text.n, mode, existed, e));
done:
    sbuf_fini(&text);
    return st;
}

/* ---- overwriting ---- */

// results-00017-of-00120.jsonl.lz4 and its like
static bool is_published_name(const char *name) {
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        const char *p = name;
        if (!begins(p, ledger_stream_names[s])) continue;
        p += strlen(ledger_stream_names[s]);
        if (*p++ != '-') return false;
        p += strspn(p, "0123456789");
        if (!begins(p, "-of-")) return false;
        p += strlen("-of-");
        p += strspn(p, "0123456789");
        return strcmp(p, s == LEDGER_ERRORS ? ".jsonl" : ".jsonl.lz4") == 0;
    }
    return false;
}

static enum status remove_in(const char *dir, const char *name, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/%s", dir, name);
    TRY(sbuf_status(&path, e));
    TRY(file_remove_tree(path.s, e));
done:
    sbuf_fini(&path);
    return st;
}

// Results before what belongs to them: a part whose results are there is complete, also when this
// ends half way and the old job is taken up again.
static enum status remove_job_files(const char *dir, struct err *e) {
    enum status st = OK;
    static const char *const rest[] = {"run", ".basin/done", ".basin/work"};
    DIR *d = NULL;
    TRY(remove_in(dir, "_SUCCESS", e));
    d = opendir(dir);
    if (d == NULL) {
        st = err_errno(e, E_OUTPUT, errno, "%s: cannot read the directory", dir);
        goto done;
    }
    for (int pass = 0; pass < 2; pass++) {
        const struct dirent *entry;
        rewinddir(d);
        while ((entry = readdir(d)) != NULL) {
            const bool result = begins(entry->d_name, ledger_stream_names[LEDGER_RESULTS]);
            const bool ours = is_published_name(entry->d_name) || begins(entry->d_name, ".tmp-");
            if (ours && (pass == 1 || result)) TRY(remove_in(dir, entry->d_name, e));
        }
        TRY(file_sync_dir(dir, e));
    }
    for (size_t i = 0; i < COUNTOF(rest); i++) TRY(remove_in(dir, rest[i], e));
done:
    if (d != NULL) closedir(d);
    return st;
}

// Whether any lock of a part is held. The lock called "job" is ours.
static enum status refuse_running(const char *dir, const char *lock_dir, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    DIR *d = opendir(lock_dir);
    const struct dirent *entry;
    sbuf_init(&path);
    while (d != NULL && (entry = readdir(d)) != NULL) {
        struct file_lock *lock = NULL;
        bool held = false, unsupported = false;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "job") == 0) continue;
        sbuf_clear(&path);
        sbuf_printf(&path, "%s/%s", lock_dir, entry->d_name);
        TRY(sbuf_status(&path, e));
        TRY(file_lock_try(&lock, path.s, &held, &unsupported, e));
        file_unlock(lock);
        if (held) FAIL(e, E_BUSY, "%s: a run of the job it holds is going on", dir);
    }
done:
    if (d != NULL) closedir(d);
    sbuf_fini(&path);
    return st;
}

// Ranks that all came with --overwrite take turns, so that the second does not throw away what the
// first one has begun. Without working locks there are no turns to take.
static enum status wait_for_turn(struct file_lock **lock, const char *path, struct err *e) {
    enum status st = OK;
    for (int i = 0;; i++) {
        bool held = false, unsupported = false;
        TRY(file_lock_try(lock, path, &held, &unsupported, e));
        if (!held) break;
        if (i == WAIT_STEPS) FAIL(e, E_BUSY, "%s: held by another run", path);
        const struct timespec step = {.tv_nsec = 100 * 1000 * 1000};
        nanosleep(&step, NULL);
    }
done:
    return st;
}

static enum status replace_job(const char *dir, const char *job_path, const struct json *mine,
                               struct err *e) {
    enum status st = OK;
    struct json *there = NULL;
    struct file_lock *lock = NULL;
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/.basin/lock", dir);
    TRY(sbuf_status(&path, e));
    TRY(file_mkdirs(path.s, e));
    sbuf_puts(&path, "/job");
    TRY(sbuf_status(&path, e));
    TRY(wait_for_turn(&lock, path.s, e));
    TRY(ledger_read_job(&there, dir, e));
    st = compare_jobs(dir, there, mine, NULL);
    if (st != E_OUTPUT) goto done; // OK: another rank has done it meanwhile
    st = OK;
    path.n -= strlen("/job");
    path.s[path.n] = '\0';
    TRY(refuse_running(dir, path.s, e));
    TRY(remove_job_files(dir, e));
    // job.json is never absent: to other ranks the directory is the old job's or the new one's.
    TRY(write_job(job_path, mine, FILE_REPLACE, NULL, e));
done:
    json_close(there);
    file_unlock(lock);
    sbuf_fini(&path);
    return st;
}

// One look: *again when somebody else changed what was looked at.
static enum status settle_once(const char *dir, const char *path, const struct json *mine,
                               bool overwrite, struct ledger_stamp *stamp, bool *again,
                               struct err *e) {
    enum status st = OK;
    struct json *there = NULL;
    struct err why = {.code = OK};
    bool existed = false;
    *again = false;
    *stamp = ledger_stamp_of(path);
    if (!stamp->there) {
        TRY(refuse_foreign(dir, path, e));
        st = write_job(path, mine, FILE_CREATE_ONLY, &existed, &why);
        if (existed) st = OK;
        *again = true; // look at it, whoever wrote it
    } else {
        st = ledger_read_job(&there, dir, &why);
        if (st == E_FORMAT) FAIL(e, E_OUTPUT, "%s", why.msg); // somebody else's job.json
        if (st == OK) st = compare_jobs(dir, there, mine, &why);
        if (st == E_OUTPUT && overwrite) {
            why = (struct err){.code = OK};
            st = replace_job(dir, path, mine, &why);
            *again = true;
        } else if (st == OK) {
            const struct ledger_stamp now = ledger_stamp_of(path);
            *again = !ledger_same_stamp(&now, stamp);
        }
    }
    if (st != OK) FAIL(e, st, "%s", why.msg);
done:
    json_close(there);
    return st;
}

enum status ledger_settle_job(const char *dir, const struct json *mine, bool overwrite,
                              struct ledger_stamp *stamp, struct err *e) {
    enum status st = OK;
    bool again = true;
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/job.json", dir);
    TRY(sbuf_status(&path, e));
    for (int i = 0; again; i++) {
        if (i == 100) FAIL(e, E_BUSY, "%s: runs of other jobs keep replacing job.json", dir);
        TRY(settle_once(dir, path.s, mine, overwrite, stamp, &again, e));
    }
done:
    sbuf_fini(&path);
    return st;
}
