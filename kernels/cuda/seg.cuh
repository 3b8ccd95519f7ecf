/* A piece of attention's work on the device: which rows it has, which tiles of keys they meet, and where the
 * keys lie. The rules are those of kernels/dev.h; sink tiles come first, then window tiles that are cut at
 * absolute multiples of CUDA_KEYS. */
#ifndef BASIN_KERNELS_CUDA_SEG_CUH
#define BASIN_KERNELS_CUDA_SEG_CUH

#include "kernels/cuda/intrin.cuh"

CUDA_DEVICE int64_t seg_low(const struct dev_seg &s, int64_t r) {
    return s.low + (s.moves ? r : 0);
}
CUDA_DEVICE int64_t seg_first_win(const struct dev_seg &s, int64_t r) {
    const int64_t low = seg_low(s, r);
    return low > s.n_sink ? low : s.n_sink;
}
CUDA_DEVICE int64_t seg_query_pos(const struct dev_seg &s, int64_t r) {
    const int64_t over = seg_low(s, r) - s.n_sink;
    return s.pos + r - (over > 0 ? over : 0);
}
CUDA_DEVICE int64_t seg_key_row(const struct dev_seg &s, int64_t j) {
    if (j < s.n_sink) return s.sink_row + j;
    return j < s.pos ? s.old_row + (j - s.old_pos) : s.own_row + (j - s.pos);
}

// The rows of an item: (token, head of the group) pairs first..first+n-1 of its segment.
struct piece {
    struct dev_seg s;
    int64_t first;
    int n, group;
    int64_t tok0, tok1; // the first and the last token, from the segment's begin
    int n_sink_tile, n_tile;
    int64_t win_first, win0; // lowest window key; where the first window tile begins
};

CUDA_DEVICE struct piece piece_at(const struct dev_seg &s, int group, int64_t first, int rows) {
    struct piece p;
    p.s = s;
    p.first = first;
    p.group = group;
    const int64_t left = (int64_t)p.s.n_row * group - p.first;
    p.n = (int)(left < rows ? left : rows);
    p.tok0 = p.first / group;
    p.tok1 = (p.first + p.n - 1) / group;
    const int64_t end = p.s.pos + p.tok1 + 1, sinks = p.s.n_sink < end ? p.s.n_sink : end;
    p.n_sink_tile = (int)((sinks + CUDA_KEYS - 1) / CUDA_KEYS);
    p.win_first = seg_first_win(p.s, p.tok0);
    p.win0 = p.win_first / CUDA_KEYS * CUDA_KEYS;
    p.n_tile =
        p.n_sink_tile + (end > p.win_first ? (int)((end - p.win0 + CUDA_KEYS - 1) / CUDA_KEYS) : 0);
    return p;
}

CUDA_DEVICE struct piece piece_of(const struct cuda_attend &a, int64_t i, int rows) {
    const struct cuda_item item = a.item[i];
    return piece_at(a.seg[item.seg], a.group, item.first, rows);
}

// A tile: the position where it begins, and which of its keys rows of the piece see at all.
struct tile {
    bool sink;
    int64_t begin;
    int lo, hi; // of its CUDA_KEYS keys
};

CUDA_DEVICE int clamp_key(int64_t k) {
    return k < 0 ? 0 : k > CUDA_KEYS ? CUDA_KEYS : (int)k;
}

// What tokens r0..r1 (r0 <= r1) of the segment see of a tile, as a whole.
CUDA_DEVICE void tile_view(const struct piece &p, struct tile *t, int64_t r0, int64_t r1) {
    const int64_t end = p.s.pos + r1 + 1;
    const int64_t hi = t->sink && p.s.n_sink < end ? p.s.n_sink : end;
    t->lo = t->sink ? 0 : clamp_key(seg_first_win(p.s, r0) - t->begin);
    t->hi = clamp_key(hi - t->begin);
}

CUDA_DEVICE struct tile tile_of(const struct piece &p, int i) {
    struct tile t;
    t.sink = i < p.n_sink_tile;
    t.begin = t.sink ? (int64_t)i * CUDA_KEYS : p.win0 + (int64_t)(i - p.n_sink_tile) * CUDA_KEYS;
    tile_view(p, &t, p.tok0, p.tok1);
    return t;
}

// What one row asks of a tile: visible are keys lo..hi-1; `dist` is the distance to key 0.
struct view {
    int lo, hi;
    float dist;
};

CUDA_DEVICE struct view view_of(const struct piece &p, const struct tile &t, int64_t r) {
    struct tile own = t;
    tile_view(p, &own, r, r);
    const int64_t at = t.sink ? seg_query_pos(p.s, r) : p.s.pos + r;
    const struct view v = {own.lo, own.hi, (float)(at - t.begin)};
    return v;
}

// Scores as the softmax sees them: `x` is scaled and capped; a key that is not seen gets SEG_UNSEEN, which
// is finite.
#define SEG_UNSEEN (-1.0e30f)
CUDA_DEVICE bool key_seen(const struct view &v, int key) {
    return key >= v.lo && key < v.hi;
}
CUDA_DEVICE float seen_score(const struct cuda_attend &a, const struct view &v, float slope,
                             int key, float x) {
    if (a.slopes != NULL) x -= slope * (v.dist - (float)key);
    return key_seen(v, key) ? x : SEG_UNSEEN;
}

#endif
