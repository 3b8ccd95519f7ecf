/* The golden cases of llama.cpp: a folder of ggml-vocab-NAME.gguf with NAME.gguf.inp (texts) and
 * NAME.gguf.out (a line of ids each), named by BASIN_GGML_VOCABS; tools/get-ggml-vocabs fetches it.
 * Skipped (77) without it. A vocabulary of a kind that is not supported is counted, not failed. */
#include "base/mem.h"
#include "base/sbuf.h"
#include "core/tok.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char SEPARATOR[] = "\n__ggml_vocab_test__\n";
static int passed, failed, unsupported;

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (f == NULL) return NULL;
    char *s = malloc(1 << 20);
    const size_t n = s != NULL ? fread(s, 1, (1 << 20) - 1, f) : 0;
    if (s != NULL) s[n] = '\0';
    fclose(f);
    return s;
}

// Whether the text in chunks of `chunk` bytes gives the ids of one line.
static bool same(struct tok_stream *s, const char *text, size_t n, size_t chunk, const char *line) {
    static int32_t got[1 << 16];
    struct err e = {0};
    size_t n_got = 0;
    tok_stream_reset(s);
    for (size_t i = 0; i < n; i += chunk) {
        if (tok_feed(s, text + i, n - i < chunk ? n - i : chunk, &e) != OK) return false;
    }
    if (tok_finish(s, &e) != OK) return false;
    n_got = tok_take(s, got, NULL, COUNTOF(got));
    char *end;
    for (size_t i = 0; i < n_got; i++, line = end) {
        if (strtol(line, &end, 10) != got[i] || end == line) return false;
    }
    while (*line == ' ') line++;
    return *line == '\n' || *line == '\0';
}

static int run_cases(struct tok_stream *s, char *texts, const char *lines, int *n) {
    int wrong = 0;
    for (char *text = texts; text != NULL && lines != NULL && *lines != '\0'; (*n)++) {
        char *next = strstr(text, SEPARATOR);
        const size_t len = next != NULL ? (size_t)(next - text) : strlen(text);
        static const size_t chunks[] = {1 << 20, 1, 3};
        for (size_t c = 0; c < COUNTOF(chunks); c++) {
            if (same(s, text, len, chunks[c], lines)) continue;
            printf("  case %d (chunks of %zu): \"%.*s\"\n", *n, chunks[c], (int)len, text);
            wrong++;
            break;
        }
        text = next != NULL ? next + sizeof SEPARATOR - 1 : NULL;
        lines = strchr(lines, '\n');
        if (lines != NULL) lines++;
    }
    return wrong;
}

static void run_vocab(const char *path) {
    char name[600];
    struct err e = {0};
    struct tok *t = NULL;
    struct tok_stream *s = NULL;
    snprintf(name, sizeof name, "%s.inp", path);
    char *texts = read_file(name);
    snprintf(name, sizeof name, "%s.out", path);
    char *lines = read_file(name);
    int n = 0, wrong = 0;
    const enum status st = tok_open(&t, path, &e);
    if (st == E_UNSUPPORTED) {
        printf("unsupported: %s\n", e.msg);
        unsupported++;
    } else if (st != OK || tok_stream_open(&s, t, &e) != OK) {
        printf("FAIL: %s\n", e.msg);
        failed++;
    } else {
        if (texts != NULL && lines != NULL) wrong = run_cases(s, texts, lines, &n);
        printf("%s: %s: %d of %d cases\n", wrong > 0 ? "FAIL" : "ok", path, n - wrong, n);
        failed += wrong > 0;
        passed += wrong == 0;
    }
    free(texts);
    free(lines);
    tok_stream_close(s);
    tok_close(t);
}

int main(void) {
    const char *dir = getenv("BASIN_GGML_VOCABS");
    DIR *d = dir != NULL ? opendir(dir) : NULL;
    if (d == NULL) {
        printf("skipped: BASIN_GGML_VOCABS names no folder (see tools/get-ggml-vocabs)\n");
        return dir != NULL ? 1 : 77;
    }
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        const size_t n = strlen(f->d_name);
        char path[512];
        if (n < 5 || strcmp(f->d_name + n - 5, ".gguf") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        run_vocab(path);
    }
    closedir(d);
    printf("%d passed, %d failed, %d of kinds that are not supported\n", passed, failed,
           unsupported);
    return failed > 0 || passed == 0;
}
