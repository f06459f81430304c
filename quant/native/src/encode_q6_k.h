// Q6_K: value = d * scale * level, level -32..31, with an 8-bit signed scale for each 16 weights.
//
// Lane j has the 16 weights of sub-block j. For each:
//   1. scales: levels are taken for TRIED scales that put the weight of largest magnitude at -32 and less
//      far out, and for one that puts it at 31; each scale is refitted by least squares, and the best is kept.
//   2. d follows from the largest of them, and the 8-bit scales start at the nearest ones. In ROUNDS rounds each is
//      moved by at most REACH to where the error is smallest, then d is fitted to the levels.
// Errors are squared and weighted by the importance, if there is one. The constants are what measurement left
// (benchmarks/encode.py): scales far from the obvious one are worth their time, as 16 weights often happen to fall well.

constexpr int Q6_BYTES = 210;
constexpr int Q6_SUB = 16;
constexpr int Q6_TRIED = 16;
constexpr float Q6_START = 32.3f;  // levels that the weight of largest magnitude gets in the first try
constexpr float Q6_STEP = 0.55f;
constexpr int Q6_REACH = 2;
constexpr int Q6_ROUNDS = 2;
constexpr int Q6_LOWEST = -32, Q6_HIGHEST = 31;
constexpr int Q6_MAX_SCALE = 128;

struct Q6Columns {
    alignas(64) float x[Q6_SUB][LANES];
    alignas(64) float w[Q6_SUB][LANES];
    F outermost;       // the weight of largest magnitude
    uint32_t largest;  // magnitude of all lanes, as bits of a float
};

template <bool W>
static inline void q6_gather(const float* x, const float* w, Q6Columns& c) {
    for (int j = 0; j < LANES; ++j) {
        for (int i = 0; i < Q6_SUB; ++i) c.x[i][j] = x[Q6_SUB * j + i];
        for (int i = 0; W && i < Q6_SUB; ++i) c.w[i][j] = w[Q6_SUB * j + i];
    }
    F lowest = load(c.x[0]), highest = lowest;
    I largest = set_int(0);
    for (int i = 0; i < Q6_SUB; ++i) {
        F value = load(c.x[i]);
        lowest = min(value, lowest);
        highest = max(value, highest);
        largest = max(largest, bits(magnitude(value)));
    }
    c.outermost = select(less(highest, negative(lowest)), lowest, highest);
    alignas(64) float lanes[LANES];
    store(lanes, from_bits(largest));
    c.largest = 0;
    for (int j = 0; j < LANES; ++j) c.largest = float_bits(lanes[j]) > c.largest ? float_bits(lanes[j]) : c.largest;
}

template <bool W>
static inline F q6_best_scale(const Q6Columns& c) {
    const F lowest_level = set(ROUND + Q6_LOWEST), highest_level = set(ROUND + Q6_HIGHEST);
    F per_x[Q6_TRIED], qq[Q6_TRIED], qx[Q6_TRIED];
    for (int k = 0; k < Q6_TRIED; ++k) {
        const float level = k == Q6_TRIED - 1 ? 31.0f : -(Q6_START - Q6_STEP * static_cast<float>(k));
        per_x[k] = div(set(level), c.outermost);
        qq[k] = qx[k] = set(0);
    }
    for (int i = 0; i < Q6_SUB; ++i) {
        F x = load(c.x[i]), w = W ? load(c.w[i]) : x;
#pragma GCC unroll 16
        for (int k = 0; k < Q6_TRIED; ++k) {
            F level = nearest(mul(x, per_x[k]), lowest_level, highest_level);
            F weighted = W ? mul(w, level) : level;
            qq[k] = add(qq[k], mul(weighted, level));
            qx[k] = add(qx[k], mul(weighted, x));
        }
    }
    F most = set(0), best = set(0);
    for (int k = 0; k < Q6_TRIED; ++k) {
        F scale = div(qx[k], qq[k]), explained = mul(scale, qx[k]);
        M better = less(mul(most, set(CLEARLY)), explained);
        most = select(better, explained, most);
        best = select(better, scale, best);
    }
    return best;
}

// The half d, with its sign in the highest bit, so that the scale of largest magnitude becomes about -128.
static inline uint16_t q6_half(F scale) {
    alignas(64) float scales[LANES], magnitudes[LANES];
    store(scales, scale);
    store(magnitudes, magnitude(scale));
    const float largest = largest_lane(magnitudes, 0, LANES);
    uint16_t half = half_scale(largest, Q6_MAX_SCALE);
    if (half == 0) half = 1;
    return largest_lane(scales, 0, LANES) == largest ? static_cast<uint16_t>(half | 0x8000) : half;
}

static inline float q6_value(uint16_t half) { return half & 0x8000 ? -half_value(half & 0x7FFF) : half_value(half); }

// The 8-bit scales, -128..127 without 0: that one has no use, as levels of 0 give the same values.
template <bool W>
static inline F q6_scales(const Q6Columns& c, F start, F step) {
    const F lowest_level = set(ROUND + Q6_LOWEST), highest_level = set(ROUND + Q6_HIGHEST);
    constexpr int TRIES = 2 * Q6_REACH + 1;
    F scale[TRIES], size[TRIES], per_x[TRIES], error[TRIES];
    for (int k = 0; k < TRIES; ++k) {
        F moved = clamp(add(start, set(static_cast<float>(k - Q6_REACH))), set(-Q6_MAX_SCALE), set(Q6_MAX_SCALE - 1));
        scale[k] = select(less(magnitude(moved), set(0.5f)), set(1), moved);
        size[k] = mul(step, scale[k]);
        per_x[k] = one_over(size[k]);
        error[k] = set(0);
    }
    for (int i = 0; i < Q6_SUB; ++i) {
        F x = load(c.x[i]), w = W ? load(c.w[i]) : x;
#pragma GCC unroll 5
        for (int k = 0; k < TRIES; ++k) {
            F position = mul(x, per_x[k]);
            F off = sub(position, nearest(position, lowest_level, highest_level));
            error[k] = add(error[k], mul(W ? mul(w, off) : off, off));
        }
    }
    F least = set(ERROR_LIMIT), best = scale[0];
    for (int k = 0; k < TRIES; ++k) {
        F squared = mul(mul(size[k], size[k]), error[k]);
        M better = less(squared, least);
        least = select(better, squared, least);
        best = select(better, scale[k], best);
    }
    return best;
}

// The half d that fits the levels which `half` and the scales lead to, by least squares, if it makes the error smaller.
template <bool W>
static inline uint16_t q6_refit(const Q6Columns& c, F scale, uint16_t half) {
    const F lowest_level = set(ROUND + Q6_LOWEST), highest_level = set(ROUND + Q6_HIGHEST);
    alignas(64) float lanes[LANES];
    double level_level = 0, level_x = 0, errors[2];
    uint16_t halves[2] = {half, half};
    for (int k = 0; k < 2; ++k) {
        F step = mul(set(q6_value(halves[k])), scale), per_x = one_over(step), error = set(0), qq = set(0), qx = set(0);
        for (int i = 0; i < Q6_SUB; ++i) {
            F x = load(c.x[i]), w = W ? load(c.w[i]) : x, position = mul(x, per_x);
            F level = nearest(position, lowest_level, highest_level), off = sub(position, level);
            F weighted = W ? mul(w, level) : level;
            error = add(error, mul(W ? mul(w, off) : off, off));
            qq = add(qq, mul(weighted, level));
            qx = add(qx, mul(weighted, x));
        }
        store(lanes, mul(mul(step, step), error));
        errors[k] = sum_lanes(lanes, 0, LANES);
        if (k == 1) break;
        store(lanes, mul(mul(scale, scale), qq));
        level_level = sum_lanes(lanes, 0, LANES);
        store(lanes, mul(scale, qx));
        level_x = sum_lanes(lanes, 0, LANES);
        const double d = level_level > 0 ? level_x / level_level : 0;
        const uint16_t fitted = half_from_float(static_cast<float>(d < 0 ? -d : d));
        if (fitted == 0 || (d < 0) != (half >> 15 == 1)) return half;
        halves[1] = static_cast<uint16_t>(fitted | (half & 0x8000));
    }
    return errors[1] < errors[0] ? halves[1] : half;
}

// Levels counted from 0: four low bits of weights l, l + 32, l + 64, l + 96 of each half in two bytes, two high bits of
// all four in one.
static inline void q6_pack_levels(const uint8_t* levels, uint8_t* low, uint8_t* high) {
    for (int half = 0; half < 2; ++half, levels += 128, low += 64, high += 32) {
        for (int l = 0; l < 32; ++l) {
            unsigned a = levels[l], b = levels[l + 32], c = levels[l + 64], d = levels[l + 96];
            low[l] = static_cast<uint8_t>((a & 15) | (c & 15) << 4);
            low[l + 32] = static_cast<uint8_t>((b & 15) | (d & 15) << 4);
            high[l] = static_cast<uint8_t>(a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6);
        }
    }
}

template <bool W>
static bool encode_q6_k_block(const float* x, const float* w, uint8_t* out) {
    Q6Columns c;
    q6_gather<W>(x, w, c);
    Size size = size_of(c.largest);
    if (size != Size::fits) {
        for (int i = 0; i < Q6_BYTES; ++i) out[i] = 0;
        return size == Size::tiny;
    }
    F wanted = q6_best_scale<W>(c);
    uint16_t half = q6_half(wanted);
    F scale = nearest_between(div(wanted, set(q6_value(half))), -Q6_MAX_SCALE, Q6_MAX_SCALE - 1);
    for (int round = 0; round < Q6_ROUNDS; ++round) {
        scale = q6_scales<W>(c, scale, set(q6_value(half)));
        half = q6_refit<W>(c, scale, half);
    }
    const float d = q6_value(half);
    uint8_t levels[BLOCK];
    alignas(64) float scales[LANES];
    store(scales, scale);
    for (int j = 0; j < LANES; ++j) {
        F position = mul(load(x + Q6_SUB * j), set(1.0f / (d * scales[j])));
        store_levels(levels + Q6_SUB * j, add(nearest_between(position, Q6_LOWEST, Q6_HIGHEST), set(-Q6_LOWEST)));
    }
    q6_pack_levels(levels, out, out + 128);
    store_levels(out + 192, scale);
    store_half(out + 208, half);
    return true;
}

static bool encode_q6_k(const EncodeCall& call) {
    bool fits = true;
    for (int64_t block = 0; block < call.blocks; ++block) {
        const float* x = call.values + BLOCK * block;
        uint8_t* out = call.out + Q6_BYTES * block;
        const float* w = call.weights ? call.weights + BLOCK * (block % call.row_blocks) : nullptr;
        fits = (w ? encode_q6_k_block<true>(x, w, out) : encode_q6_k_block<false>(x, w, out)) && fits;
    }
    return fits;
}
