/* Where a match of a pattern can begin: asked of the pattern once, for every two ASCII characters, so
 * that words in which none can need no matching at all. */
#include "base/mem.h"
#include "core/tok_impl.h"

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
