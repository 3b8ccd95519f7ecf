/* Patterns for PCRE2: compiling, and where a match of one can begin. */
#include "base/mem.h"
#include "base/sbuf.h"
#include "core/tok_impl.h"

static void *pcre_alloc(size_t n, void *unused) {
    (void)unused;
    void *p = NULL;
    return mem_zalloc(&p, n, 1, NULL) == OK ? p : NULL;
}

static void pcre_release(void *p, void *unused) {
    (void)unused;
    mem_free(p);
}

pcre2_general_context *tok_pcre_memory(void) {
    return pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
}

static enum status compile(struct tok_regex *r, const char *s, size_t n, uint32_t options,
                           struct err *e) {
    enum status st = OK;
    pcre2_compile_context *cc = NULL;
    pcre2_general_context *gc = tok_pcre_memory();
    if (gc != NULL) cc = pcre2_compile_context_create(gc);
    if (cc == NULL) FAIL(e, E_NOMEM, "out of memory (pattern)");
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE at;
    r->code = pcre2_compile((PCRE2_SPTR)s, n, options, &code, &at, cc);
    if (r->code == NULL) {
        if (code == PCRE2_ERROR_HEAP_FAILED || code == 121) FAIL(e, E_NOMEM, "out of memory");
        char why[120];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        FAIL(e, E_FORMAT, "%s (at %zu of \"%.200s\")", why, (size_t)at, s);
    }
    // Without JIT the interpreter gives the same matches, only slower.
    r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD) == 0;
    uint32_t back = 0;
    pcre2_pattern_info(r->code, PCRE2_INFO_MAXLOOKBEHIND, &back);
    r->look_behind = back;
done:
    pcre2_compile_context_free(cc);
    pcre2_general_context_free(gc);
    return st;
}

// A pattern over ByteLevel's characters runs on the bytes themselves when it can only name
// printable ASCII, which stands for itself: literals and plain classes, nothing negated.
static bool plain_ascii(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (s[i] <= ' ' || s[i] > '~' || s[i] == '\\' || s[i] == '^' || s[i] == '(') return false;
    }
    return true;
}

enum status tok_regex_init(struct tok_regex *r, const char *pattern, size_t n, bool is_literal,
                           bool bytes, struct err *e) {
    enum status st = OK;
    struct sbuf out;
    sbuf_init(&out);
    if (bytes && !plain_ascii(pattern, n)) {
        FAIL(e, E_UNSUPPORTED, "a Split behind ByteLevel with pattern \"%.200s\"", pattern);
    }
    if (is_literal) {
        TRY(compile(r, pattern, n, PCRE2_LITERAL | (bytes ? 0 : PCRE2_UTF), e));
        goto done;
    }
    TRY(tok_regex_rewrite(pattern, n, &out, e));
    TRY(compile(r, sbuf_str(&out), out.n, bytes ? 0 : PCRE2_UTF | PCRE2_UCP, e));
done:
    sbuf_fini(&out);
    return st;
}

void tok_regex_fini(struct tok_regex *r) {
    pcre2_code_free(r->code);
    r->code = NULL;
    mem_free(r->begins);
    r->begins = NULL;
}

/* ---- where a match can begin: asked once, for every two ASCII characters, so that words in which none
 * can need no matching at all ---- */

// Whether a match can begin at text[at], for some text behind text[0, n). The pattern is asked
// itself: a partial match says so.
static bool can_begin(const struct tok_regex *r, const char *text, size_t at, size_t n,
                      pcre2_match_data *data) {
    const int rc =
        pcre2_match(r->code, (PCRE2_SPTR)text, n, at,
                    PCRE2_ANCHORED | PCRE2_PARTIAL_HARD | PCRE2_NO_UTF_CHECK, data, NULL);
    return rc != PCRE2_ERROR_NOMATCH;
}

// With anything ASCII before it that the pattern may look back at.
static bool can_begin_with(const struct tok_regex *r, const char *pair, size_t n,
                           pcre2_match_data *data) {
    if (can_begin(r, pair, 0, n, data)) return true;
    for (int c = 0; c < 128 && r->look_behind > 0; c++) {
        const char text[3] = {(char)c, pair[0], n > 1 ? pair[1] : '\0'};
        if (can_begin(r, text, 1, n + 1, data)) return true;
    }
    return false;
}

enum status tok_regex_find_begins(struct tok_regex *r, struct err *e) {
    enum status st = OK;
    pcre2_match_data *data = NULL;
    pcre2_general_context *gc = tok_pcre_memory();
    if (gc != NULL) data = pcre2_match_data_create(1, gc);
    if (data == NULL) FAIL(e, E_NOMEM, "out of memory (pattern)");
    TRY(mem_zalloc(&r->begins, 128, sizeof *r->begins, e));
    for (int a = 0; a < 128; a++) {
        const bool any = r->look_behind > 1;
        char pair[2] = {(char)a, '\0'};
        r->begins[a].alone = any || can_begin_with(r, pair, 1, data);
        for (int b = 0; b < 128 && r->begins[a].alone; b++) {
            pair[1] = (char)b;
            r->begins[a].before[b] = any || can_begin_with(r, pair, 2, data);
        }
    }
done:
    pcre2_match_data_free(data);
    pcre2_general_context_free(gc);
    return st;
}
