// Step 2 of encode_affine.h: d, dmin and the 6-bit scales and minima of two super-blocks.

constexpr int ROUNDS = 2;
constexpr int MAX_SCALE = 63;

// What a super-block's header says, for both of them.
struct Header {
    uint16_t d[2], dmin[2];
    F step, minimum_step;    // values of d and dmin, each in its eight lanes
    F scale, minimum;        // 0..63
};

static inline void set_steps(Header& header) {
    alignas(64) float step[LANES], minimum_step[LANES];
    for (int j = 0; j < LANES; ++j) {
        step[j] = half_value(header.d[j / 8]);
        minimum_step[j] = half_value(header.dmin[j / 8]);
    }
    header.step = load(step);
    header.minimum_step = load(minimum_step);
}

// Of the eight lanes of one super-block.
static inline double sum_half(const float* lanes, int half) { return sum_lanes(lanes, 8 * half, 8 * half + 8); }

static inline Header nearest_header(const Line& line, F lowest) {
    alignas(64) float scales[LANES], minima[LANES];
    F minimum = negative(add(line.base, lowest));
    store(scales, line.scale);
    store(minima, minimum);
    Header header;
    for (int half = 0; half < 2; ++half) {
        float largest_minimum = largest_lane(minima, 8 * half, 8 * half + 8);
        header.dmin[half] = half_scale(largest_minimum, MAX_SCALE);
        header.d[half] = half_scale(largest_lane(scales, 8 * half, 8 * half + 8), MAX_SCALE);
        if (header.d[half] == 0) {  // all sub-blocks are constant: the levels make up for dmin's rounding
            header.d[half] = half_from_float(largest_minimum * 0x1p-12f);
            if (header.d[half] == 0) header.d[half] = 1;
        }
    }
    set_steps(header);
    // A scale of 0 has no use: one of 1 with all levels 0 gives the same values.
    header.scale = nearest_between(div(line.scale, header.step), 1, MAX_SCALE);
    header.minimum = nearest_between(mul(minimum, one_over_positive(header.minimum_step)), 0, MAX_SCALE);
    return header;
}

// Move scale and minimum by at most one to where the error is smallest.
template <class Type, bool W>
static inline void move_to_best(const Columns& c, Header& header) {
    constexpr int TRIES = 3;
    const F lowest_level = set(ROUND), highest_level = set(ROUND + Type::top);
    F least = set(ERROR_LIMIT), best_scale = header.scale, best_minimum = header.minimum;
    F minimum[TRIES], shift[TRIES];
    for (int k = 0; k < TRIES; ++k) {
        minimum[k] = clamp(add(header.minimum, set(static_cast<float>(k - 1))), set(0), set(MAX_SCALE));
        shift[k] = add(c.lowest, mul(header.minimum_step, minimum[k]));
    }
    for (int move = -1; move <= 1; ++move) {
        F scale = clamp(add(header.scale, set(static_cast<float>(move))), set(1), set(MAX_SCALE));
        F step = mul(header.step, scale), per_x = one_over(step), error[TRIES];
        for (int k = 0; k < TRIES; ++k) error[k] = set(0);
        for (int i = 0; i < SUB; ++i) {
            F x = load(c.x[i]), w = W ? load(c.w[i]) : x;
#pragma GCC unroll 3
            for (int k = 0; k < TRIES; ++k) {
                F position = mul(add(x, shift[k]), per_x);
                F off = sub(position, nearest(position, lowest_level, highest_level));
                error[k] = add(error[k], mul(W ? mul(w, off) : off, off));
            }
        }
        for (int k = 0; k < TRIES; ++k) {
            F squared = mul(mul(step, step), error[k]);
            M better = less(squared, least);
            least = select(better, squared, least);
            best_scale = select(better, scale, best_scale);
            best_minimum = select(better, minimum[k], best_minimum);
        }
    }
    header.scale = best_scale;
    header.minimum = best_minimum;
}

// The steps d and dmin that fit the levels which the header leads to: least squares over a super-block at a time, kept
// where the error becomes smaller. It helps where rounding d to half precision costs more than rounding to levels.
template <class Type, bool W>
static inline void refit_steps(const Columns& c, Header& header) {
    const F lowest_level = set(ROUND), highest_level = set(ROUND + Type::top);
    LevelSums<W> sums;
    sums.clear();
    F shift = add(c.lowest, mul(header.minimum_step, header.minimum)), step = mul(header.step, header.scale);
    F per_x = one_over(step), before = set(0);
    for (int i = 0; i < SUB; ++i) {
        F x = load(c.x[i]), w = W ? load(c.w[i]) : x, position = mul(add(x, shift), per_x);
        F level = nearest(position, lowest_level, highest_level), off = sub(position, level);
        sums.take(level, x, w);
        before = add(before, mul(W ? mul(w, off) : off, off));
    }
    before = mul(mul(step, step), before);
    Header fitted = header;
    // Least squares for x = d * (scale * level) + dmin * (-minimum).
    F sum_x = add(c.sum_wx, mul(c.lowest, c.sum_w));
    alignas(64) float level_level[LANES], level_minimum[LANES], minimum_minimum[LANES], level_x[LANES], minimum_x[LANES];
    store(level_level, mul(mul(header.scale, header.scale), sums.qq));
    store(level_minimum, mul(mul(header.scale, header.minimum), negative(sums.q)));
    store(minimum_minimum, mul(mul(header.minimum, header.minimum), c.sum_w));
    store(level_x, mul(header.scale, add(sums.qx, mul(c.lowest, sums.q))));
    store(minimum_x, mul(header.minimum, negative(sum_x)));
    for (int half = 0; half < 2; ++half) {
        const double ll = sum_half(level_level, half), lm = sum_half(level_minimum, half);
        const double mm = sum_half(minimum_minimum, half), lx = sum_half(level_x, half), mx = sum_half(minimum_x, half);
        const double spread = ll * mm - lm * lm;
        double d = 0, dmin = 0;
        if (spread > 1e-6 * ll * mm) {
            d = (lx * mm - mx * lm) / spread;
            dmin = (mx * ll - lx * lm) / spread;
        } else if (ll > 0 && mm == 0) {
            d = lx / ll;
        }
        if (d > 0 && d < HALF_MAX) fitted.d[half] = half_from_float(static_cast<float>(d));
        if (dmin > 0 && dmin < HALF_MAX) fitted.dmin[half] = half_from_float(static_cast<float>(dmin));
        if (fitted.d[half] == 0) fitted.d[half] = header.d[half];
    }
    set_steps(fitted);
    shift = add(c.lowest, mul(fitted.minimum_step, fitted.minimum));
    step = mul(fitted.step, fitted.scale);
    per_x = one_over(step);
    F after = set(0);
    for (int i = 0; i < SUB; ++i) {
        F x = load(c.x[i]), position = mul(add(x, shift), per_x);
        F off = sub(position, nearest(position, lowest_level, highest_level));
        after = add(after, mul(W ? mul(load(c.w[i]), off) : off, off));
    }
    alignas(64) float change[LANES];
    store(change, sub(mul(mul(step, step), after), before));
    for (int half = 0; half < 2; ++half) {
        if (sum_half(change, half) < 0) {
            header.d[half] = fitted.d[half];
            header.dmin[half] = fitted.dmin[half];
        }
    }
    set_steps(header);
}
