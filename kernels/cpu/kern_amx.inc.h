/* Products of bf16 pairs in AMX tiles: 32 x 32 of C in four tiles of 16 x 16, a step of 16 pairs of
 * k at a time. Included by kern_avx512.c: everything that is not a product is the same there.
 *
 * A slices are [steps / 16][m][16] words, so that a tile of A is a contiguous KiB; B is as ever,
 * its steps a multiple of 16 (zeros behind the end add nothing). An element of C is one chain in
 * ascending k here, too; the hardware's order within a step is fixed. */
#define AMX __attribute__((target("amx-tile,amx-bf16")))

enum { AMX_STEP = 16, AMX_ROWS = 16 };

// The operating system must allow tile registers first; asking again is harmless.
// gcc's tile intrinsics do not say which memory they read: stores before must not be moved or
// dropped.
ALWAYS void memory_is_read(void) {
    __asm__ volatile("" ::: "memory");
}

AMX static void amx_begin(void) {
    struct {
        uint8_t palette, start, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } cfg = {.palette = 1};
    __asm__ volatile("" ::"r"(&cfg)); // its address is known outside
    for (int i = 0; i < 8; i++) {
        cfg.row_bytes[i] = AMX_STEP * 4;
        cfg.rows[i] = AMX_ROWS;
    }
    memory_is_read();
    _tile_loadconfig(&cfg);
}

AMX static void amx_end(void) {
    _tile_release();
}

static int amx_tile_rows(int m) {
    return m <= AMX_ROWS ? AMX_ROWS : 2 * AMX_ROWS;
}

static void amx_pack_a(uint32_t *dst, int m, const uint32_t *src, int64_t lds, int n_i,
                       int64_t n_k) {
    for (int i = 0; i < m; i++)
        for (int64_t k = 0; k < n_k; k += AMX_STEP) {
            uint32_t *to = dst + k * m + i * AMX_STEP;
            _mm512_storeu_si512(to, i < n_i ? _mm512_loadu_si512(src + i * lds + k)
                                            : _mm512_setzero_si512());
        }
}

static void amx_pack_at(uint32_t *dst, int m, const uint32_t *src, int64_t lds, int n_i,
                        int64_t n_k) {
    for (int i = 0; i < m; i += AMX_ROWS)
        for (int64_t k = 0; k < n_k; k += AMX_STEP) {
            const int rows = n_i - i < AMX_ROWS ? n_i - i : AMX_ROWS;
            uint32_t *to = dst + k * m + i * AMX_STEP;
            if (rows < AMX_ROWS) memset(to, 0, AMX_ROWS * AMX_STEP * sizeof *to);
            if (rows <= 0) continue;
            transpose16(to, AMX_STEP, AMX_STEP, src + k * lds + i, lds, AMX_STEP, rows);
        }
}

/* Tiles 0..3 hold C: 0 1 the upper rows, 2 3 the lower ones. */
AMX ALWAYS void amx_steps(const bool both, int m, int64_t n, const uint32_t *a, const uint32_t *b) {
    for (int64_t k = 0; k < n; k++) {
        const uint32_t *at = a + k * AMX_STEP * m;
        _tile_loadd(6, b + k * AMX_STEP * NR, NR * 4);
        _tile_loadd(7, b + k * AMX_STEP * NR + VL, NR * 4);
        _tile_loadd(4, at, AMX_STEP * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (!both) continue;
        _tile_loadd(5, at + AMX_ROWS * AMX_STEP, AMX_STEP * 4);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// C to start from; `first` with a stride of 0 is the same row sixteen times.
AMX ALWAYS void amx_first(const bool both, const float *c, int64_t ldc, const float *first) {
    const float *from = first != NULL ? first : c;
    const int64_t ld = first != NULL ? 0 : ldc;
    if (first == cpu_zeros) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, from, ld * 4);
    _tile_loadd(1, from + VL, ld * 4);
    if (!both) return;
    _tile_loadd(2, from + AMX_ROWS * ld, ld * 4);
    _tile_loadd(3, from + AMX_ROWS * ld + VL, ld * 4);
}

AMX ALWAYS void amx_store(const bool both, float *c, int64_t ldc) {
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + VL, ldc * 4);
    if (!both) return;
    _tile_stored(2, c + AMX_ROWS * ldc, ldc * 4);
    _tile_stored(3, c + AMX_ROWS * ldc + VL, ldc * 4);
}

AMX ALWAYS void amx_tile_body(const bool both, int m, int64_t steps, const uint32_t *a,
                              const uint32_t *b, float *c, int64_t ldc, const float *first) {
    memory_is_read();
    amx_first(both, c, ldc, first);
    amx_steps(both, m, steps / AMX_STEP, a, b);
    amx_store(both, c, ldc);
}

AMX static void amx_tile(enum cpu_word word, int m, int64_t steps, const void *a, const void *b,
                         float *c, int64_t ldc, const float *first) {
    (void)word; // WORD_PAIRS always
    if (m == AMX_ROWS)
        amx_tile_body(false, m, steps, a, b, c, ldc, first);
    else
        amx_tile_body(true, m, steps, a, b, c, ldc, first);
}

AMX static double amx_peak(enum cpu_word word, int64_t n) {
    (void)word;
    amx_begin();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t i = 0; i < n; i++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    amx_end();
    return (double)n * 4 * AMX_ROWS * VL * AMX_STEP * 4;
}
