#include "tests/support_tree.h"

#include "io/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

void tree_make(char path[TREE_PATH]) {
    const char *base = getenv("TMPDIR");
    if (base == NULL || *base == '\0') base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, TREE_PATH, "%s/basin-test-XXXXXX", base);
    assert_non_null(mkdtemp(path));
}

void tree_remove(const char *path) {
    assert_int_equal(file_remove_tree(path, NULL), OK);
}

void tree_write(const char *dir, const char *name, const void *bytes, size_t n) {
    char path[TREE_PATH * 2];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (n > 0) assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

bool tree_read(const char *dir, const char *name, struct sbuf *out) {
    char path[TREE_PATH * 2];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    sbuf_clear(out);
    return file_read_all(path, SIZE_MAX, out, NULL) == OK;
}

void tree_copy(const char *from, const char *to) {
    DIR *d = opendir(from);
    const struct dirent *entry;
    struct sbuf bytes;
    assert_non_null(d);
    assert_int_equal(mkdir(to, 0777), 0);
    sbuf_init(&bytes);
    while ((entry = readdir(d)) != NULL) {
        char a[TREE_PATH * 2], b[TREE_PATH * 2];
        struct stat sb;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(a, sizeof a, "%s/%s", from, entry->d_name);
        snprintf(b, sizeof b, "%s/%s", to, entry->d_name);
        assert_int_equal(stat(a, &sb), 0);
        if (S_ISDIR(sb.st_mode)) {
            tree_copy(a, b);
        } else {
            assert_true(tree_read(from, entry->d_name, &bytes));
            tree_write(to, entry->d_name, bytes.s, bytes.n);
        }
    }
    closedir(d);
    sbuf_fini(&bytes);
}
