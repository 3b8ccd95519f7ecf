/* Patterns of tokenizer.json are written for Oniguruma (Ruby syntax); this rewrites them for PCRE2.
 *
 * Only constructs that mean the same afterwards get through; any other is refused by name, because
 * a pattern that is merely close changes ids silently. Differences that matter here:
 *   \s        White_Space; PCRE2 adds U+180E
 *   \w \d \h  Unicode word, Nd, hexadecimal digit (PCRE2: \h is horizontal space)
 *   \p{Han}   the Script property; PCRE2 takes Script_Extensions
 *   \p{L}     as of Unicode 16; the installed PCRE2 may be older (tok_newer_ranges)
 *   {n,m}+    repeats the repetition; PCRE2 makes it possessive. {,m} is {0,m}
 *   (?i)      folds to several characters ("ss" is U+00DF); refused where that could happen
 */
#include "base/mem.h"
#include "base/sbuf.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_GROUPS = 32 };

struct rewrite {
    const char *s;
    size_t n, i;
    struct sbuf *out; /* borrowed */
    size_t atom;      /* where in `out` the last atom begins, for {n,m}+ */
    size_t group_at[MAX_GROUPS];
    bool group_fold[MAX_GROUPS];
    int depth;
    bool fold;      /* (?i) is on */
    char last_fold; /* last literal under (?i), lower case; 0 when the last atom was none */
    bool can_repeat;
    struct err *e;
};

static enum status refuse(const struct rewrite *w, const char *what) {
    const size_t left = w->n - w->i;
    return err_fail(w->e, E_UNSUPPORTED, "%s at \"%.*s\" in pattern \"%.200s\"", what,
                    (int)(left < 16 ? left : 16), w->s + w->i, w->s);
}

static const char SPACE[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}"
    "\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char NOT_SPACE[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-"
    "\\x{10ffff}";

static void newer(struct rewrite *w, const char *category) {
    size_t n;
    const struct tok_range *r = tok_newer_ranges(category, &n);
    for (size_t i = 0; i < n; i++) {
        sbuf_printf(w->out, "\\x{%x}-\\x{%x}", (unsigned)r[i].first, (unsigned)r[i].last);
    }
}

// Items that stand inside a class; the caller puts the brackets when there are none yet.
static void category(struct rewrite *w, const char *name) {
    sbuf_printf(w->out, "\\p{%s}", name);
    newer(w, name);
}

static void word(struct rewrite *w) {
    static const char *const parts[] = {"L", "M", "Nd", "Nl", "Pc"};
    for (size_t i = 0; i < COUNTOF(parts); i++) category(w, parts[i]);
    // Other_Alphabetic outside these, and the superscripts and fractions of Latin-1 that Oniguruma
    // counts in.
    sbuf_puts(w->out, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"
                      "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}");
}

static bool is_category(const char *name) {
    static const char *const all[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc",
                                      "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
                                      "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So",
                                      "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co", "Cn"};
    for (size_t i = 0; i < COUNTOF(all); i++) {
        if (strcmp(all[i], name) == 0) return true;
    }
    return false;
}

static const char *long_category(const char *name) {
    static const char *const names[][2] = {{"Letter", "L"}, {"Mark", "M"},        {"Number", "N"},
                                           {"Symbol", "S"}, {"Punctuation", "P"}, {"Digit", "Nd"}};
    for (size_t i = 0; i < COUNTOF(names); i++) {
        if (strcmp(names[i][0], name) == 0) return names[i][1];
    }
    return name;
}

// \p{..} and \P{..}; w->i is at the letter.
static enum status property(struct rewrite *w, bool in_class) {
    enum status st = OK;
    bool negate = w->s[w->i] == 'P';
    char text[40];
    const char *close =
        w->i + 1 < w->n && w->s[w->i + 1] == '{' ? memchr(w->s + w->i, '}', w->n - w->i) : NULL;
    const char *from = w->s + w->i + 2;
    if (close == NULL || (size_t)(close - from) >= sizeof text || close == from) {
        st = refuse(w, "property without {name}");
        goto done;
    }
    if (*from == '^') {
        negate = !negate;
        from++;
    }
    snprintf(text, sizeof text, "%.*s", (int)(close - from), from);
    const char *name = long_category(text);
    static const char *const unlike[] = {"Alnum",  "Alpha", "Blank", "Cntrl", "Graph",
                                         "Lower",  "Print", "Punct", "Space", "Upper",
                                         "XDigit", "Word",  "ASCII", "Any"};
    for (size_t i = 0; i < COUNTOF(unlike); i++) {
        if (strcasecmp(unlike[i], name) == 0) {
            st = refuse(w, "property");
            goto done;
        }
    }
    const bool cat = is_category(name);
    if (negate && in_class && cat) {
        size_t n;
        (void)tok_newer_ranges(name, &n);
        if (n > 0) {
            st = refuse(w, "negated property inside a class");
            goto done;
        }
    }
    if (!in_class) sbuf_puts(w->out, negate ? "[^" : "[");
    if (cat && !(negate && in_class)) {
        category(w, name);
    } else {
        sbuf_printf(w->out, "\\%c{%s%s}", negate && in_class ? 'P' : 'p', cat ? "" : "sc:", name);
        if (!cat && !negate) newer(w, name);
    }
    if (!in_class) sbuf_putc(w->out, ']');
    w->i = (size_t)(close - w->s) + 1;
done:
    return st;
}

// \xHH, \x{H..}, \uHHHH: w->i is at the letter.
static enum status hex_escape(struct rewrite *w) {
    const char kind = w->s[w->i];
    size_t from = w->i + 1, digits = 0, cap = kind == 'u' ? 4 : 2;
    const bool braces = kind == 'x' && from < w->n && w->s[from] == '{';
    if (braces) {
        from++;
        cap = 6;
    }
    while (from + digits < w->n && digits < cap &&
           strchr("0123456789abcdefABCDEF", w->s[from + digits])) {
        digits++;
    }
    const size_t end = from + digits + (braces ? 1 : 0);
    if (digits == 0 || end > w->n || (braces && w->s[end - 1] != '}') ||
        (kind == 'u' && digits < 4)) {
        return refuse(w, "hexadecimal escape");
    }
    // Oniguruma takes \x80 and above as bytes of UTF-8.
    if (kind == 'x' && !braces && digits == 2 && w->s[from] >= '8') return refuse(w, "byte escape");
    if (w->fold) return refuse(w, "escape under (?i)");
    sbuf_printf(w->out, "\\x{%.*s}", (int)digits, w->s + from);
    w->i = end;
    return OK;
}

// What follows a backslash; w->i is behind it.
static enum status escape(struct rewrite *w, bool in_class) {
    if (w->i >= w->n) return refuse(w, "pattern ends in a backslash");
    const char c = w->s[w->i];
    if (c == 'p' || c == 'P') return property(w, in_class);
    if (c == 'x' || c == 'u') return hex_escape(w);
    const char *open = in_class ? "" : "[", *close = in_class ? "" : "]";
    switch (c) {
    case 's': sbuf_printf(w->out, "%s%s%s", open, SPACE, close); break;
    case 'S': sbuf_printf(w->out, "%s%s%s", open, NOT_SPACE, close); break;
    case 'd':
        sbuf_puts(w->out, open);
        category(w, "Nd");
        sbuf_puts(w->out, close);
        break;
    case 'w':
        sbuf_puts(w->out, open);
        word(w);
        sbuf_puts(w->out, close);
        break;
    case 'D':
    case 'W':
        if (in_class) return refuse(w, "negated escape inside a class");
        sbuf_puts(w->out, "[^");
        if (c == 'D') category(w, "Nd");
        if (c == 'W') word(w);
        sbuf_putc(w->out, ']');
        break;
    case 'h': sbuf_printf(w->out, "%s0-9a-fA-F%s", open, close); break;
    case 'v': sbuf_puts(w->out, "\\x{b}"); break;
    case 'z': // the end of the text
        if (in_class) return refuse(w, "escape");
        sbuf_puts(w->out, "\\z");
        break;
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'a':
    case 'e': sbuf_printf(w->out, "\\%c", c); break;
    default:
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
            return refuse(w, "escape");
        }
        if ((unsigned char)c < 0x80) {
            sbuf_printf(w->out, "\\%c", c);
        } else {
            w->i--; // the character stands for itself
            uint32_t cp;
            const size_t len = utf8_decode(w->s + w->i + 1, w->n - w->i - 1, &cp);
            if (len == 0) return refuse(w, "text that is not UTF-8");
            sbuf_add(w->out, w->s + w->i + 1, len);
            w->i += len;
        }
    }
    w->i++;
    return OK;
}

// Under (?i) some pairs of letters equal one character in Oniguruma (ligatures, sharp s).
static enum status fold_literal(struct rewrite *w, char c) {
    static const char *const pairs[] = {"ss", "st", "ff", "fi", "fl"};
    const char low = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    for (size_t i = 0; i < COUNTOF(pairs); i++) {
        if (w->last_fold == pairs[i][0] && low == pairs[i][1]) {
            return refuse(w, "letters that fold to one character under (?i)");
        }
    }
    w->last_fold = low;
    return OK;
}

// [...]; w->i is behind the opening bracket.
static enum status char_class(struct rewrite *w) {
    enum status st = OK;
    sbuf_putc(w->out, '[');
    if (w->i < w->n && w->s[w->i] == '^') {
        sbuf_putc(w->out, '^');
        w->i++;
    }
    for (bool first = true;; first = false) {
        if (w->i >= w->n) {
            st = refuse(w, "class without an end");
            goto done;
        }
        const char c = w->s[w->i];
        if (c == ']' && !first) break;
        const bool both = c == '&' && w->i + 1 < w->n && w->s[w->i + 1] == '&';
        if (c == '[' || c == ']' || both || (w->fold && (unsigned char)c >= 0x80)) {
            st = refuse(w, "class");
            goto done;
        }
        w->i++;
        if (c == '\\') {
            TRY(escape(w, true));
        } else {
            sbuf_putc(w->out, c);
        }
    }
    w->i++;
    sbuf_putc(w->out, ']');
done:
    return st;
}

// ( and what follows it; w->i is behind the parenthesis.
static enum status group(struct rewrite *w) {
    static const char *const plain[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
    if (w->depth == MAX_GROUPS) return refuse(w, "groups nested too deeply");
    const char *p = w->s + w->i;
    const size_t left = w->n - w->i;
    size_t take = 0;
    bool fold = w->fold;
    if (left > 0 && *p == '?') {
        for (size_t i = 0; i < COUNTOF(plain); i++) {
            const size_t n = strlen(plain[i]);
            if (left >= n && memcmp(p, plain[i], n) == 0) take = n;
        }
        if (left >= 3 && memcmp(p, "?i:", 3) == 0) {
            take = 3;
            fold = true;
        } else if (left >= 3 && memcmp(p, "?i)", 3) == 0 && w->i == 1) {
            sbuf_puts(w->out, "(?i)"); // at the very start it covers the whole pattern
            w->fold = true;
            w->i += 3;
            return OK;
        }
        if (take == 0) return refuse(w, "group");
    }
    w->group_at[w->depth] = w->out->n;
    w->group_fold[w->depth++] = w->fold;
    w->fold = fold;
    w->last_fold = 0;
    w->can_repeat = false;
    sbuf_putc(w->out, '(');
    if (take == 0) sbuf_puts(w->out, "?:"); // captures are not used
    sbuf_add(w->out, p, take);
    w->i += take;
    return OK;
}

// Puts "(?:" before the last atom and its quantifier, ")" behind: {n,m}+ repeats the repetition.
static void wrap_atom(struct rewrite *w) {
    struct sbuf copy;
    sbuf_init(&copy);
    sbuf_puts(&copy, "(?:");
    sbuf_add(&copy, w->out->s + w->atom, w->out->n - w->atom);
    sbuf_putc(&copy, ')');
    w->out->failed |= copy.failed;
    w->out->n = w->atom;
    sbuf_add(w->out, copy.s, copy.n);
    sbuf_fini(&copy);
}

// * + ? {n,m} with ? or + behind; w->i is at it.
static enum status quantifier(struct rewrite *w) {
    if (!w->can_repeat) return refuse(w, "quantifier");
    const char c = w->s[w->i];
    bool interval = false, exact = true;
    if (c == '{') {
        size_t k = w->i + 1;
        while (k < w->n && w->s[k] >= '0' && w->s[k] <= '9') k++;
        const size_t low = k - w->i - 1;
        size_t high = 0;
        if (k < w->n && w->s[k] == ',') {
            exact = false;
            for (k++; k < w->n && w->s[k] >= '0' && w->s[k] <= '9'; k++) high++;
        }
        if (k >= w->n || w->s[k] != '}' || low + high == 0) return refuse(w, "brace");
        interval = true;
        sbuf_printf(w->out, "{%s%.*s", low == 0 ? "0" : "", (int)(k - w->i), w->s + w->i + 1);
        w->i = k + 1;
    } else {
        sbuf_putc(w->out, c);
        w->i++;
    }
    const char after = w->i < w->n ? w->s[w->i] : '\0';
    if (after == '+' && interval) {
        wrap_atom(w);
    } else if (after == '?' && interval && exact) {
        return refuse(w, "{n}?");
    } else if (after == '+' || after == '?') {
        sbuf_putc(w->out, after);
        w->i++;
    }
    // {n,m}+ leaves its + for the next round, where it repeats the wrapped atom.
    w->can_repeat = after == '+' && interval;
    w->last_fold = 0;
    return OK;
}

static enum status literal(struct rewrite *w) {
    enum status st = OK;
    const char c = w->s[w->i];
    uint32_t cp;
    const size_t len = utf8_decode(w->s + w->i, w->n - w->i, &cp);
    if (len == 0 || c == '\0') {
        st = refuse(w, "text that is not UTF-8");
        goto done;
    }
    if (w->fold && len > 1) {
        st = refuse(w, "a letter outside ASCII under (?i)");
        goto done;
    }
    if (w->fold) TRY(fold_literal(w, c));
    sbuf_add(w->out, w->s + w->i, len);
    w->i += len;
done:
    return st;
}

static enum status one(struct rewrite *w) {
    enum status st = OK;
    const char c = w->s[w->i];
    switch (c) {
    case '^':
    case '$':
    case '.': return refuse(w, "anchor or dot");
    case '*':
    case '+':
    case '?':
    case '{': return quantifier(w);
    case '|':
        sbuf_putc(w->out, c);
        w->i++;
        w->last_fold = 0;
        w->can_repeat = false;
        return OK;
    case '(': w->i++; return group(w);
    case ')':
        if (w->depth == 0) return refuse(w, "closing parenthesis");
        w->i++;
        w->atom = w->group_at[--w->depth];
        w->fold = w->group_fold[w->depth];
        sbuf_putc(w->out, c);
        w->last_fold = 0;
        w->can_repeat = true;
        return OK;
    default: break;
    }
    w->atom = w->out->n;
    w->can_repeat = true;
    if (c == '\\' || c == '[') {
        w->last_fold = 0;
        w->i++;
        TRY(c == '[' ? char_class(w) : escape(w, false));
    } else {
        TRY(literal(w));
    }
done:
    return st;
}

enum status tok_regex_rewrite(const char *pattern, size_t n, struct sbuf *out, struct err *e) {
    enum status st = OK;
    struct rewrite w = {.s = pattern, .n = n, .out = out, .e = e};
    while (w.i < w.n) TRY(one(&w));
    if (w.depth > 0) {
        st = refuse(&w, "group without an end");
        goto done;
    }
    TRY(sbuf_status(out, e));
done:
    return st;
}
