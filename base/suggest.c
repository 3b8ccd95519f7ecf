#include "base/suggest.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

enum { MAX_WORD = 64 };

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

size_t suggest_distance(const char *a, const char *b) {
    const size_t n = strlen(a), m = strlen(b);
    if (n > MAX_WORD || m > MAX_WORD) return SIZE_MAX;
    // Row i of the table needs rows i-1 and, for a swap, i-2.
    size_t rows[3][MAX_WORD + 1];
    for (size_t j = 0; j <= m; j++) rows[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *row = rows[i % 3];
        const size_t *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const char x = lower(a[i - 1]), y = lower(b[j - 1]);
            row[j] = least(least(up[j], row[j - 1]) + 1, up[j - 1] + (x != y));
            const bool swapped =
                i > 1 && j > 1 && x == lower(b[j - 2]) && lower(a[i - 2]) == y && x != y;
            if (swapped) row[j] = least(row[j], up2[j - 2] + 1);
        }
    }
    return rows[n % 3][m];
}

const char *suggest_closest(const char *word, const char *const *list) {
    const size_t n = strlen(word);
    const char *best = NULL, *longer = NULL;
    size_t best_distance = SIZE_MAX, n_longer = 0;
    for (; *list != NULL; list++) {
        const size_t m = strlen(*list), longest = m > n ? m : n;
        const size_t d = suggest_distance(word, *list);
        // A word that keeps none of its own bytes was not mistyped.
        if (d < best_distance && d <= (longest + 2) / 3 && d < n) {
            best = *list;
            best_distance = d;
        }
        if (n >= 3 && m > n && strncasecmp(word, *list, n) == 0) {
            longer = *list;
            n_longer++;
        }
    }
    return best != NULL ? best : n_longer == 1 ? longer : NULL;
}
