/* Pairs of bf16 in AMX tiles, for every number of rows: a block of a panel is one tile of B, its sum over
 * a block one product of tiles, and the scales go over what the tile leaves, in the order of
 * decode.h. Included by decode_avx512.c; what is not pairs runs as there.
 *
 * Up to 32 rows go together, in tiles with exactly so many rows; a row of a tile does not depend on the
 * others. Floats accumulate in tiles over the whole row, even blocks in one, odd blocks in another. */
#define AMX __attribute__((target("amx-tile,amx-bf16")))

enum { AMX_ROWS = 16, AMX_CHUNK = 2 };

// gcc's tile intrinsics do not say which memory they read: stores before must not be moved or dropped.
ALWAYS void memory_is_read(void) {
    __asm__ volatile("" ::: "memory");
}

/* Tiles 0 and 2 hold C of the first `m0` rows, 1 and 3 of the next `m1`; 4 and 5 their A, `words` wide;
 * 6 and 7 B. */
AMX static void amx_shape(int m0, int m1, int words) {
    struct {
        uint8_t palette, start, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } cfg = {.palette = 1};
    __asm__ volatile("" ::"r"(&cfg)); // its address is known outside
    for (int i = 0; i < 8; i++) {
        cfg.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? 4 * words : 64);
        cfg.rows[i] = (uint8_t)(i >= 6 ? words : i % 2 == 0 ? m0 : m1);
    }
    memory_is_read();
    _tile_loadconfig(&cfg);
}

// What a chunk of blocks needs: B, scales, and C as the tiles leave it.
struct amx_chunk {
    vi b[AMX_CHUNK][AMX_ROWS];
    vf d[AMX_CHUNK], m[AMX_CHUNK];
    vf c[AMX_CHUNK][2 * AMX_ROWS];
};

struct amx_rows {
    const struct cpu_packed *p;
    const uint32_t *x; // the first row
    int m;             // rows
    bool two;          // more than a tile of them
};

// B and the scales of the blocks at *w, which is moved behind them; *head is the group's.
ALWAYS void amx_unpack(const struct cpu_form f, struct amx_chunk *k, int n, int64_t at,
                       const unsigned char **w, struct scales *head) {
    const struct tables t = tables_of(f);
    const int pairs = cpu_plane_block(f.plane) / 2;
    const size_t bytes = (size_t)cpu_form_block(f) * VL;
    const size_t skip = bytes - (size_t)cpu_plane_words(f.plane) * VL * 4;
    for (int i = 0; i < n; i++) {
        if ((at + i) % cpu_form_group(f) == 0) {
            *head = head_of(f, *w);
            *w += cpu_form_head(f) * VL;
        }
        const struct scales s = scales_of(f, head, *w);
        for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(*w + AHEAD + line);
        k->d[i] = s.d;
        k->m[i] = s.m;
        UNROLL_STEPS
        for (int j = 0; j < pairs; j++) k->b[i][j] = step_pairs(f, *w + skip, j, &t);
        *w += bytes;
    }
}

// C of the n = 1 or 2 blocks of a chunk, whose x begins at `x` and is `words` wide; the second block has
// tiles of its own.
AMX ALWAYS void amx_multiply(const bool two, const bool both, struct amx_chunk *k,
                             const uint32_t *x, int words, int64_t ld) {
    const uint32_t *low = x + AMX_ROWS * ld;
    _tile_zero(0);
    _tile_loadd(6, k->b[0], 64);
    _tile_loadd(4, x, ld * 4);
    if (both) _tile_zero(2);
    if (both) _tile_loadd(7, k->b[1], 64);
    _tile_dpbf16ps(0, 4, 6);
    if (two) {
        _tile_zero(1);
        _tile_loadd(5, low, ld * 4);
        _tile_dpbf16ps(1, 5, 6);
    }
    if (both) {
        if (two) {
            _tile_loadd(4, x + words, ld * 4);
            _tile_dpbf16ps(2, 4, 7);
            _tile_zero(3);
            _tile_loadd(5, low + words, ld * 4);
            _tile_dpbf16ps(3, 5, 7);
        } else {
            _tile_loadd(5, x + words, ld * 4);
            _tile_dpbf16ps(2, 5, 7);
        }
    }
    _tile_stored(0, k->c[0], 64);
    if (two) _tile_stored(1, k->c[0] + AMX_ROWS, 64);
    if (both) _tile_stored(2, k->c[1], 64);
    if (both && two) _tile_stored(3, k->c[1] + AMX_ROWS, 64);
}

// Blocks of chunk c of n.
ALWAYS int amx_count(int64_t n, int64_t c) {
    return (int)(n - c * AMX_CHUNK < AMX_CHUNK ? n - c * AMX_CHUNK : AMX_CHUNK);
}

// tot += scaled sums of the n blocks from `at` on.
ALWAYS void amx_scale(const struct cpu_form f, const struct amx_rows *r, const struct amx_chunk *k,
                      int n, int64_t at, vf *tot) {
    const uint32_t *sum = r->x + r->p->sum + at;
    for (int row = 0; row < r->m; row++, sum += r->p->ld) {
        vf t = tot[row];
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            t = v_fma(k->d[i], k->c[i][row], t);
            if (f.min) t = v_fma(k->m[i], v_set1(word_float(sum[i])), t);
        }
        tot[row] = t;
    }
}

/* Three chunks are at work: while tiles multiply one, the next is unpacked and the one before is scaled,
 * because a tile waits long for what was stored just before it, and the other way round. */
AMX ALWAYS void amx_scaled(const struct cpu_form f, const struct amx_rows *r,
                           const unsigned char *w, vf *tot) {
    const int words = cpu_plane_block(f.plane) / 2;
    const int64_t n = r->p->n_block, chunks = (n + AMX_CHUNK - 1) / AMX_CHUNK;
    struct scales head = {v_set1(0.0f), v_set1(0.0f)};
    struct amx_chunk k[3];
    for (int64_t c = 0; c < chunks + 2; c++) {
        if (c < chunks) amx_unpack(f, &k[c % 3], amx_count(n, c), c * AMX_CHUNK, &w, &head);
        memory_is_read();
        if (c >= 1 && c <= chunks) {
            struct amx_chunk *now = &k[(c - 1) % 3];
            const uint32_t *x = r->x + (c - 1) * AMX_CHUNK * words;
            const bool both = amx_count(n, c - 1) == AMX_CHUNK;
            if (r->two && both)
                amx_multiply(true, true, now, x, words, r->p->ld);
            else if (r->two)
                amx_multiply(true, false, now, x, words, r->p->ld);
            else if (both)
                amx_multiply(false, true, now, x, words, r->p->ld);
            else
                amx_multiply(false, false, now, x, words, r->p->ld);
        }
        memory_is_read();
        if (c >= 2) amx_scale(f, r, &k[(c - 2) % 3], amx_count(n, c - 2), (c - 2) * AMX_CHUNK, tot);
    }
}

AMX ALWAYS void amx_floats_body(const bool two, const struct amx_rows *r, const unsigned char *w,
                                vf c[4][AMX_ROWS]) {
    const int64_t ld = r->p->ld, n = r->p->n_block;
    const uint32_t *x = r->x;
    _tile_zero(0);
    _tile_zero(2);
    if (two) _tile_zero(1);
    if (two) _tile_zero(3);
    for (int64_t i = 0; i < n; i += 2, w += 2 * VL * 64, x += 32) {
        _tile_loadd(6, w, 64);
        _tile_loadd(4, x, ld * 4);
        _tile_dpbf16ps(0, 4, 6);
        if (two) _tile_loadd(5, x + AMX_ROWS * ld, ld * 4);
        if (two) _tile_dpbf16ps(1, 5, 6);
        if (i + 1 == n) break;
        _tile_loadd(6, w + VL * 64, 64);
        _tile_loadd(4, x + 16, ld * 4);
        _tile_dpbf16ps(2, 4, 6);
        if (two) _tile_loadd(5, x + 16 + AMX_ROWS * ld, ld * 4);
        if (two) _tile_dpbf16ps(3, 5, 6);
    }
    _tile_stored(0, c[0], 64);
    _tile_stored(2, c[2], 64);
    if (two) _tile_stored(1, c[1], 64);
    if (two) _tile_stored(3, c[3], 64);
    memory_is_read();
}

AMX static void amx_floats(const struct amx_rows *r, const unsigned char *w, vf *tot) {
    vf c[4][AMX_ROWS];
    if (r->two)
        amx_floats_body(true, r, w, c);
    else
        amx_floats_body(false, r, w, c);
    for (int i = 0; i < r->m; i++)
        tot[i] = tot[i] + (c[i / AMX_ROWS][i % AMX_ROWS] + c[2 + i / AMX_ROWS][i % AMX_ROWS]);
}

#define AMX_PANEL(name, type, mode)                                                                \
    AMX static void amx_##name(const struct amx_rows *r, const unsigned char *w, vf *tot) {        \
        amx_scaled(cpu_form_of(type), r, w, tot);                                                  \
    }
QUANTIZED(AMX_PANEL, MODE_PAIRS, pairs)

typedef void amx_panel_fn(const struct amx_rows *r, const unsigned char *w, vf *tot);

static amx_panel_fn *amx_panel_for(enum dtype type) {
    static amx_panel_fn *const table[DT_COUNT] = {
#define AMX_ENTRY(name, type, mode) [type] = amx_##name,
        [DT_BF16] = amx_floats, QUANTIZED(AMX_ENTRY, MODE_PAIRS, pairs)};
    return table[type];
}

// Rows of x from `row` on, all panels.
AMX static void amx_run(const struct cpu_panels *p, int64_t row, int m) {
    amx_panel_fn *run = amx_panel_for(p->x->type);
    const struct amx_rows r = {p->x, p->x->words + row * p->x->ld, m, m > AMX_ROWS};
    amx_shape(r.two ? AMX_ROWS : m, r.two ? m - AMX_ROWS : m,
              cpu_plane_block(cpu_form_of(p->x->type).plane) / 2);
    for (int64_t i = 0; i < p->n_panel; i++) {
        const int64_t col = i * VL, n_col = p->n_col - col < VL ? p->n_col - col : VL;
        float *c = p->c + row * p->ldc + col;
        vf tot[2 * AMX_ROWS];
        for (int k = 0; k < m; k++) tot[k] = p->bias != NULL ? v_load(p->bias + col) : v_set1(0.0f);
        run(&r, p->w + (size_t)i * p->panel_bytes, tot);
        if (n_col == VL)
            for (int k = 0; k < m; k++) v_store(c + k * p->ldc, tot[k]);
        else
            copy_columns(c, p->ldc, (const float *)tot, VL, m, n_col);
    }
}

AMX static void amx_panels(const struct cpu_panels *p) {
    if (p->x->mode != MODE_PAIRS) {
        panels(p);
        return;
    }
    enum { MOST = 2 * AMX_ROWS, FEW = 8 }; // panels that stay in L1 and L2 for the next rows
    for (int64_t i = 0; i < p->n_panel; i += FEW) {
        struct cpu_panels q = *p;
        q.w += (size_t)i * p->panel_bytes;
        q.n_panel = p->n_panel - i < FEW ? p->n_panel - i : FEW;
        q.n_col = p->n_col - i * VL < FEW * VL ? p->n_col - i * VL : FEW * VL;
        q.bias = p->bias != NULL ? p->bias + i * VL : NULL;
        q.c += i * VL;
        for (int64_t r = 0; r < p->n_row; r += MOST)
            amx_run(&q, r, (int)(p->n_row - r < MOST ? p->n_row - r : MOST));
    }
    _tile_release();
}
