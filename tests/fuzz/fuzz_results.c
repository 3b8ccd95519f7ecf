#include "io/lz4f.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_put("results", data, n);
    for (int tail = LZ4F_WHOLE; tail <= LZ4F_TORN_OK; tail++) {
        struct lz4f_reader *r = NULL;
        struct lz4f_counts counts;
        int64_t lines = 0;
        bool end = false, whole = true;
        if (lz4f_open(&r, fuzz_path, (enum lz4f_tail)tail, NULL) == OK) {
            while (whole && !end) {
                const char *line = NULL;
                size_t len = 0;
                whole = lz4f_line(r, &line, &len, &end, NULL) == OK;
                lines += whole && !end;
            }
            // What can be read line by line is what a scan counts.
            if (whole && lz4f_scan(fuzz_path, (enum lz4f_tail)tail, &counts, NULL) == OK)
                CHECK(counts.lines <= lines);
        }
        lz4f_close(r);
    }
    return 0;
}
