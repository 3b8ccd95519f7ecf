#include "cmd/cmd.h"
#include "cmd/env.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "io/json.h"
#include "kernels/dev.h"

#include <lz4.h>
#include <pcre2.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

static void put_cuda(struct sbuf *b) {
    const int n = dev_cuda_count();
    struct dev *d = NULL;
    const struct dev_config config = {.n_thread = 1, .isa = CPU_PORTABLE, .compute = DT_F32};
    if (n > 0) {
        sbuf_printf(b, "cuda       yes, %d GPU%s\n", n, n == 1 ? "" : "s");
        return;
    }
    // No GPU in sight: was the program built to see one?
    const enum status st = dev_open_cuda(&d, 0, &config, NULL);
    dev_close(d);
    sbuf_puts(b,
              st == E_UNSUPPORTED ? "cuda       no (built without)\n" : "cuda       yes, no GPU\n");
}

static void put_libraries(struct sbuf *b) {
    char pcre[64] = "?";
    const unsigned xxh = XXH_versionNumber();
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) < (int)sizeof pcre) {
        pcre2_config(PCRE2_CONFIG_VERSION, pcre);
    }
    pcre[strcspn(pcre, " ")] = '\0';
    sbuf_printf(
        b,
        "libraries  jansson %s, lz4 %s, zlib %s, zstd %s, xxhash %u.%u.%u, pcre2 %s, utf8proc %s\n",
        json_library(), LZ4_versionString(), zlibVersion(), ZSTD_versionString(), xxh / 10000,
        xxh / 100 % 100, xxh % 100, pcre, utf8proc_version());
}

int cmd_version_print(void) {
    struct cmd_env env;
    struct err e = {.code = OK};
    enum cpu_isa isa = CPU_PORTABLE;
    int threads = 1;
    char model[128];
    struct sbuf b;
    cmd_env_read(&env);
    if (cpu_isa_parse(&isa, env.cpu, &e) != OK || cmd_env_threads(&env, 0, &threads, &e) != OK) {
        return cmd_fail(&e, CMD_FROM_OPTIONS);
    }
    cpu_model(model, sizeof model);
    sbuf_init(&b);
    sbuf_printf(&b, "basin %s\ncompiler   %s\ncpu        %s\nfeatures   found:", BASIN_VERSION,
                COMPILER, model);
    for (int i = CPU_PORTABLE; i <= (int)cpu_isa_best(); i++) {
        sbuf_printf(&b, " %s", cpu_isa_name((enum cpu_isa)i));
    }
    sbuf_printf(&b, "; in use: %s%s\nthreads    %d\n", cpu_isa_name(isa),
                env.cpu != NULL ? " (BASIN_CPU)" : "", threads);
    put_cuda(&b);
    put_libraries(&b);
    return cmd_out_text(&b);
}
