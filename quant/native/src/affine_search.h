// Step 1 of encode_affine.h: the best line for each sub-block.

constexpr int GRID = 4;                 // tried ends of the range, on each side
constexpr float ENDS[GRID] = {-0.15f, 0.4f, -0.7f, 0.95f};  // in steps of levels inwards, the mildest first
constexpr float SMALLEST_SPREAD = 1e-5f;  // of levels, relative: below, a line's slope is not determined

// Lane j of row i is weight i of sub-block j. `x` counts from `lowest` of its lane, which is at most 0.
struct Columns {
    alignas(64) float x[SUB][LANES];
    alignas(64) float w[SUB][LANES];
    alignas(64) float magnitudes[LANES];
    F lowest, range;
    F sum_w, sum_wx;
};

// Least squares: what a set of levels says about the line.
template <bool W>
struct LevelSums {
    F q, qq, qx;

    inline void clear() { q = qq = qx = set(0); }
    inline void take(F level, F x, F w) {
        F weighted = W ? mul(w, level) : level;
        q = add(q, weighted);
        qq = add(qq, mul(weighted, level));
        qx = add(qx, mul(weighted, x));
    }
};

// x = scale * level + base. `error` lacks a part that all lines of the lane have in common.
struct Line {
    F scale, base, error;
};

struct Sources {
    const float* x[2];
    const float* w[2];
};

template <bool W>
static inline void gather(const Sources& from, Columns& c) {
    for (int j = 0; j < LANES; ++j) {
        const float* x = from.x[j / 8] + SUB * (j % 8);
        for (int i = 0; i < SUB; ++i) c.x[i][j] = x[i];
        if (!W) continue;
        const float* w = from.w[j / 8] + SUB * (j % 8);
        for (int i = 0; i < SUB; ++i) c.w[i][j] = w[i];
    }
    F lowest = set(0), highest = load(c.x[0]);
    I largest = set_int(0);
    for (int i = 0; i < SUB; ++i) {
        F x = load(c.x[i]);
        lowest = min(x, lowest);
        highest = max(x, highest);
        largest = max(largest, bits(magnitude(x)));
    }
    store(c.magnitudes, from_bits(largest));
    c.lowest = lowest;
    c.range = sub(highest, lowest);
    c.sum_w = set(W ? 0 : SUB);
    c.sum_wx = set(0);
    for (int i = 0; i < SUB; ++i) {
        F x = sub(load(c.x[i]), lowest), w = W ? load(c.w[i]) : set(1);
        store(c.x[i], x);
        if (W) c.sum_w = add(c.sum_w, w);
        c.sum_wx = add(c.sum_wx, W ? mul(w, x) : x);
    }
}

// Keep the line that fits the levels best, if it is better than `best`. A base above zero cannot be stored: the
// minimum is not negative. The line then starts at zero.
template <bool W>
static inline void keep_better(const Columns& c, const LevelSums<W>& sums, Line& best) {
    F ceiling = negative(c.lowest);
    F spread = sub(mul(c.sum_w, sums.qq), mul(sums.q, sums.q));
    F scale = div(sub(mul(c.sum_w, sums.qx), mul(sums.q, c.sum_wx)), spread);
    F base = div(sub(c.sum_wx, mul(scale, sums.q)), c.sum_w);
    F from_zero = div(sub(sums.qx, mul(ceiling, sums.q)), sums.qq);
    scale = select(less(ceiling, base), from_zero, scale);
    base = min(base, ceiling);
    F linear = sub(add(mul(scale, sums.qq), mul(add(base, base), sums.q)), add(sums.qx, sums.qx));
    F constant = sub(mul(base, c.sum_w), add(c.sum_wx, c.sum_wx));
    F error = add(mul(scale, linear), mul(base, constant));
    error = select(less(mul(mul(c.sum_w, sums.qq), set(SMALLEST_SPREAD)), spread), error, set(ERROR_LIMIT));
    error = select(less(set(0), scale), error, set(ERROR_LIMIT));
    M better = less(error, min(mul(best.error, set(CLEARLY)), best.error));
    best.scale = select(better, scale, best.scale);
    best.base = select(better, base, best.base);
    best.error = select(better, error, best.error);
}

template <class Type, bool W>
static inline Line best_line(const Columns& c) {
    const F lowest_level = set(ROUND), highest_level = set(ROUND + Type::top);
    Line best = {mul(c.range, set(1.0f / Type::top)), set(0), set(ERROR_LIMIT)};
    for (int a = 0; a < GRID; ++a) {
        F start = mul(c.range, set(ENDS[a] / Type::top)), per_x[GRID];
        LevelSums<W> sums[GRID];
        for (int b = 0; b < GRID; ++b) {
            const float steps = Type::top - ENDS[a] - ENDS[b];
            per_x[b] = div(set(Type::top), mul(c.range, set(steps / Type::top)));
            sums[b].clear();
        }
        for (int i = 0; i < SUB; ++i) {
            F x = load(c.x[i]), w = W ? load(c.w[i]) : x, y = sub(x, start);
#pragma GCC unroll 4
            for (int b = 0; b < GRID; ++b) sums[b].take(nearest(mul(y, per_x[b]), lowest_level, highest_level), x, w);
        }
        for (int b = 0; b < GRID; ++b) keep_better(c, sums[b], best);
    }
    LevelSums<W> sums;
    sums.clear();
    F per_x = one_over(best.scale);
    for (int i = 0; i < SUB; ++i) {
        F x = load(c.x[i]), w = W ? load(c.w[i]) : x;
        sums.take(nearest(mul(sub(x, best.base), per_x), lowest_level, highest_level), x, w);
    }
    keep_better(c, sums, best);
    return best;
}
