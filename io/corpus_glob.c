/* Patterns for input files. A pattern is cut into components, which are walked depth first. */
#include "io/corpus.h"

#include "base/mem.h"
#include "base/sbuf.h"
#include "base/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_PARTS = 128, MAX_PATH = 4096 };

struct walk {
    char *pattern; /* owned: components, each ended by NUL */
    const char *part[MAX_PARTS];
    size_t n_parts;
    const char *base;        /* borrowed; "" when the pattern is absolute */
    struct sbuf source;      /* matched so far, without a trailing slash */
    struct sbuf path;        /* scratch: base/source; corpus_glob() asks whether it ever failed */
    struct corpus_list list; /* found so far */
};

void corpus_list_fini(struct corpus_list *list) {
    if (list == NULL) return;
    for (size_t i = 0; i < list->n; i++) {
        mem_free(list->v[i].source);
        mem_free(list->v[i].path);
    }
    mem_free(list->v);
    memset(list, 0, sizeof *list);
}

// One character of a name: a code point, or a byte that is not UTF-8.
static size_t next_char(const char *s, uint32_t *cp) {
    if (*s == '\0') return 0;
    const size_t n = utf8_decode(s, strnlen(s, 4), cp);
    if (n > 0) return n;
    *cp = 0x110000u + (unsigned char)*s; // equal to nothing that is a code point
    return 1;
}

// Length of the set at p ("[...]"), 0 when it is never closed. *hit: whether it has cp.
static size_t match_set(const char *p, uint32_t cp, bool *hit) {
    size_t i = 1;
    const bool negated = p[i] == '!' || p[i] == '^';
    bool in = false;
    i += negated;
    for (bool first = true; first || p[i] != ']'; first = false) {
        uint32_t low = 0, high = 0;
        const size_t k = next_char(p + i, &low);
        if (k == 0) return 0;
        i += k;
        high = low;
        if (p[i] == '-' && p[i + 1] != ']' && p[i + 1] != '\0') {
            i += 1;
            i += next_char(p + i, &high);
        }
        in = in || (cp >= low && cp <= high);
    }
    *hit = in != negated;
    return i + 1;
}

// Length of the pattern's first element if it matches the name's first character, else 0.
static size_t match_one(const char *p, const char *name, size_t *name_length) {
    uint32_t want = 0, have = 0;
    bool hit = false;
    *name_length = next_char(name, &have);
    if (*name_length == 0) return 0;
    if (*p == '?') return 1;
    if (*p == '[') {
        const size_t k = match_set(p, have, &hit);
        if (k > 0) return hit ? k : 0;
    }
    const size_t k = next_char(p, &want);
    return want == have ? k : 0;
}

// Linear space, at most |p| x |name| steps: a star that fails is retried from the last one only.
static bool matches(const char *p, const char *name) {
    const char *star = NULL, *retry = NULL;
    if (name[0] == '.' && p[0] != '.') return false;
    for (;;) {
        size_t k = 0, length = 0;
        if (*p == '*') {
            star = ++p;
            retry = name;
            continue;
        }
        if (*p == '\0' && *name == '\0') return true;
        if (*p != '\0') k = match_one(p, name, &length);
        if (k > 0) {
            p += k;
            name += length;
            continue;
        }
        if (star == NULL || *retry == '\0') return false;
        uint32_t ignored;
        retry += next_char(retry, &ignored);
        name = retry;
        p = star;
    }
}

static bool is_wild(const char *s) {
    return strpbrk(s, "*?[") != NULL;
}

static const char *join(struct walk *w) {
    sbuf_clear(&w->path);
    if (w->base[0] != '\0') sbuf_printf(&w->path, "%s/", w->base);
    sbuf_puts(&w->path, sbuf_str(&w->source));
    return sbuf_str(&w->path);
}

static enum status add_match(struct walk *w, int64_t bytes, struct err *e) {
    enum status st = OK;
    TRY(mem_grow(&w->list.v, &w->list.cap, w->list.n + 1, sizeof *w->list.v, e));
    struct corpus_match *m = &w->list.v[w->list.n];
    memset(m, 0, sizeof *m);
    w->list.n++;
    m->bytes = bytes;
    TRY(mem_dup(&m->source, sbuf_str(&w->source), w->source.n, e));
    TRY(mem_dup(&m->path, sbuf_str(&w->path), w->path.n, e));
done:
    return st;
}

static enum status walk_from(struct walk *w, size_t i, struct err *e);

// Goes on with one more component at the end of `source`, and takes it off again.
static enum status walk_into(struct walk *w, const char *name, size_t i, struct err *e) {
    enum status st = OK;
    const size_t before = w->source.n;
    if (before > 0 && w->source.s[before - 1] != '/') sbuf_putc(&w->source, '/');
    sbuf_puts(&w->source, name);
    TRY(sbuf_status(&w->source, e));
    if (w->source.n > MAX_PATH) {
        FAIL(e, E_NOINPUT, "%.200s...: a path longer than %d bytes", w->source.s, MAX_PATH);
    }
    TRY(walk_from(w, i, e));
    w->source.n = before;
    w->source.s[before] = '\0';
done:
    return st;
}

// `source` is complete: a file is a match, a directory or nothing at all is passed over. A file
// that is there and cannot be looked at is not: leaving it out would lose a document without a
// word.
static enum status finish(struct walk *w, struct err *e) {
    struct stat sb;
    if (w->source.n == 0) return OK;
    const char *path = join(w);
    if (stat(path, &sb) == 0) return S_ISREG(sb.st_mode) ? add_match(w, sb.st_size, e) : OK;
    const int why = errno;
    if ((why == ENOENT || why == ENOTDIR) && lstat(path, &sb) != 0) return OK;
    return err_errno(e, E_NOINPUT, why, "%s", path);
}

// A directory that is not a symbolic link: the only kind ** goes into, so that it always ends.
static bool is_plain_dir(struct walk *w, const char *dir, const struct dirent *entry) {
    struct stat sb;
    if (entry->d_type != DT_UNKNOWN) return entry->d_type == DT_DIR;
    sbuf_clear(&w->path);
    sbuf_printf(&w->path, "%s/%s", dir, entry->d_name);
    return lstat(sbuf_str(&w->path), &sb) == 0 && S_ISDIR(sb.st_mode);
}

// The entries of the directory `source` against component i, which has wildcards.
static enum status walk_dir(struct walk *w, size_t i, struct err *e) {
    enum status st = OK;
    char *dir = NULL;
    DIR *d = NULL;
    const bool deep = strcmp(w->part[i], "**") == 0, last = i + 1 == w->n_parts;
    const char *path = join(w);
    TRY(mem_dup(&dir, path[0] != '\0' ? path : ".", w->path.n > 0 ? w->path.n : 1, e));
    d = opendir(dir);
    if (d == NULL) {
        if (errno == ENOENT || errno == ENOTDIR) goto done; // nothing matches here
        st = err_errno(e, E_NOINPUT, errno, "%s: cannot read the directory", dir);
        goto done;
    }
    const struct dirent *entry;
    while (errno = 0, (entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        if (!matches(deep ? "*" : w->part[i], name)) continue;
        if (!deep) {
            TRY(walk_into(w, name, i + 1, e));
        } else if (is_plain_dir(w, dir, entry)) {
            TRY(walk_into(w, name, i, e));
        } else if (last) {
            TRY(walk_into(w, name, i + 1, e));
        }
    }
    if (errno != 0) st = err_errno(e, E_NOINPUT, errno, "%s: cannot read the directory", dir);
done:
    if (d != NULL) closedir(d);
    mem_free(dir);
    return st;
}

static enum status walk_from(struct walk *w, size_t i, struct err *e) {
    enum status st = OK;
    if (i == w->n_parts) return finish(w, e);
    if (!is_wild(w->part[i])) return walk_into(w, w->part[i], i + 1, e);
    if (strcmp(w->part[i], "**") == 0 && i + 1 < w->n_parts) TRY(walk_from(w, i + 1, e));
    TRY(walk_dir(w, i, e));
done:
    return st;
}

// Cuts the pattern at its slashes. Several ** in a row are one.
static enum status split(struct walk *w, const char *pattern, struct err *e) {
    enum status st = OK;
    TRY(mem_dup(&w->pattern, pattern, strlen(pattern), e));
    for (char *p = w->pattern; *p != '\0';) {
        const size_t n = strcspn(p, "/");
        char *next = p[n] == '/' ? p + n + 1 : p + n;
        p[n] = '\0';
        const bool again =
            w->n_parts > 0 && strcmp(p, "**") == 0 && strcmp(w->part[w->n_parts - 1], "**") == 0;
        if (n > 0 && !again) {
            if (w->n_parts == MAX_PARTS) FAIL(e, E_NOINPUT, "%.200s...: too many parts", pattern);
            w->part[w->n_parts++] = p;
        }
        p = next;
    }
    if (pattern[0] == '/') sbuf_putc(&w->source, '/');
done:
    return st;
}

static int by_source(const void *a, const void *b) {
    const struct corpus_match *x = a, *y = b;
    return strcmp(x->source, y->source);
}

// Sorts, drops what was found twice, and hands the rest over.
static enum status move_unique(struct corpus_list *to, struct corpus_list *from, struct err *e) {
    enum status st = OK;
    if (from->n > 1) qsort(from->v, from->n, sizeof *from->v, by_source);
    TRY(mem_grow(&to->v, &to->cap, to->n + from->n, sizeof *to->v, e));
    const size_t first = to->n;
    for (size_t i = 0; i < from->n; i++) {
        struct corpus_match *m = &from->v[i];
        if (to->n > first && strcmp(to->v[to->n - 1].source, m->source) == 0) continue;
        to->v[to->n++] = *m;
        memset(m, 0, sizeof *m);
    }
done:
    return st;
}

// A path that is there under exactly this name. *found is false when wildcards are to be tried.
static enum status literal(struct walk *w, const char *pattern, bool *found, struct err *e) {
    enum status st = OK;
    struct stat sb;
    *found = false;
    sbuf_puts(&w->source, pattern);
    TRY(sbuf_status(&w->source, e));
    const bool there = stat(join(w), &sb) == 0;
    TRY(sbuf_status(&w->path, e));
    if (!there && is_wild(pattern)) goto done;
    if (!there) {
        st = err_errno(e, E_NOINPUT, errno, "%s", sbuf_str(&w->path));
        goto done;
    }
    if (S_ISDIR(sb.st_mode)) {
        const size_t n = w->source.n;
        const bool slash = n > 0 && pattern[n - 1] == '/';
        FAIL(e, E_NOINPUT, "%s: a directory; for the files below it write %s%s**/*.txt", pattern,
             pattern, slash ? "" : "/");
    }
    if (!S_ISREG(sb.st_mode)) FAIL(e, E_NOINPUT, "%s: not a regular file", pattern);
    TRY(add_match(w, sb.st_size, e));
    *found = true;
done:
    return st;
}

enum status corpus_glob(const char *pattern, const char *base_dir, struct corpus_list *list,
                        struct err *e) {
    enum status st = OK;
    bool found = false;
    struct walk *w = NULL;
    if (pattern[0] == '\0') return err_fail(e, E_NOINPUT, "an empty path");
    TRY(mem_zalloc(&w, 1, sizeof *w, e));
    w->base = pattern[0] == '/' || base_dir == NULL || strcmp(base_dir, ".") == 0 ? "" : base_dir;
    TRY(literal(w, pattern, &found, e));
    if (!found) {
        sbuf_clear(&w->source);
        TRY(split(w, pattern, e));
        TRY(walk_from(w, 0, e));
        TRY(sbuf_status(&w->path, e));
        if (w->list.n == 0) FAIL(e, E_NOINPUT, "%s: no file matches", pattern);
    }
    TRY(move_unique(list, &w->list, e));
done:
    if (w != NULL) {
        mem_free(w->pattern);
        sbuf_fini(&w->source);
        sbuf_fini(&w->path);
        corpus_list_fini(&w->list);
        mem_free(w);
    }
    return st;
}
