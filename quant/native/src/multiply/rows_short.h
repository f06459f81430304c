// Rows of 32, 64 or 128 columns: as many as make up 256 weights are unpacked together, against activations that are
// repeated as often. A row by itself would be filled up with zeros, and cost as much as a row of 256.

// One where a lane of the products, or of the offsets, belongs to the row.
struct RowLanes {
    float products[WIDE / 32][LANES];
    float offsets[WIDE / 32][LANES];
};

static inline void fill_lanes(int64_t cols, RowLanes& lanes) {
    __builtin_memset(&lanes, 0, sizeof lanes);
    const int rows = WIDE / static_cast<int>(cols), offset_lanes = LANES / rows;
    for (int row = 0; row < rows; ++row) {
        for (int i = 0; i < offset_lanes; ++i) lanes.offsets[row][row * offset_lanes + i] = 1;
        // A register of products has 64 columns: one row or more registers a row, or two rows in one.
        const int first = cols == 32 ? row % 2 * LANES / 2 : 0, count = cols == 32 ? LANES / 2 : LANES;
        for (int i = 0; i < count; ++i) lanes.products[row][first + i] = 1;
    }
}

static inline void fill_repeated(const RowsCall& call, Rest& repeated) {
    for (int64_t t = 0; t < call.tokens; ++t) {
        const Activations& x = call.x[t];
        for (int64_t col = 0; col < WIDE; col += call.cols) {
            __builtin_memcpy(repeated.levels[t] + col, x.levels, static_cast<size_t>(call.cols));
            __builtin_memcpy(repeated.scales[t] + col / 32, x.scales, static_cast<size_t>(call.cols) / 32 * sizeof(float));
            __builtin_memcpy(repeated.sums[t] + col / 16, x.sums, static_cast<size_t>(call.cols) / 16 * sizeof(float));
        }
        repeated.x[t] = {nullptr, repeated.levels[t], repeated.scales[t], repeated.sums[t]};
    }
}

// COLS: of a row. Whole groups of rows; returns how many rows that were.
template <class Type, int COLS>
static int64_t multiply_groups(const RowsCall& call) {
    constexpr int ROWS = WIDE / COLS, BYTES = WIDE / Type::weights * Type::bytes;
    const int64_t whole = call.rows / ROWS * ROWS;
    if (whole == 0) return 0;
    Rest repeated;
    fill_repeated(call, repeated);
    RowLanes lanes;
    fill_lanes(COLS, lanes);
    const uint8_t* block = call.weights;
    for (int64_t row = 0; row < whole; row += ROWS, block += BYTES) {
        ask_ahead<BYTES>(block);
        Unpacked u;
        unpack<Type>(block, u);
        for (int64_t t = 0; t < call.tokens; ++t) {
            const Activations& x = repeated.x[t];
            const Floats factors = mul(u.scales, load_eight(x.scales));
            const Floats products[4] = {
                scaled_dot<Type, 0>(u, x.levels, factors, zero()), scaled_dot<Type, 1>(u, x.levels, factors, zero()),
                scaled_dot<Type, 2>(u, x.levels, factors, zero()), scaled_dot<Type, 3>(u, x.levels, factors, zero())};
            const Floats offsets = mul(u.offsets, load(x.sums));
            float* y = call.y + t * call.y_stride + row;
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                Floats total = COLS == 128  ? add(products[2 * r % 4], products[(2 * r + 1) % 4])
                               : COLS == 64 ? products[r % 4]
                                            : mul(products[r / 2], load(lanes.products[r]));
                if (Form<Type>::OFFSETS) total = mul_subtract_from(offsets, load(lanes.offsets[r]), total);
                y[r] = sum(total);
            }
        }
    }
    return whole;
}

template <class Type>
static int64_t multiply_short_rows(const RowsCall& call) {
    switch (call.cols) {
        case 32: return multiply_groups<Type, 32>(call);
        case 64: return multiply_groups<Type, 64>(call);
        case 128: return multiply_groups<Type, 128>(call);
        default: return 0;
    }
}

// The tokens in parts for which registers reach: the second part finds the row in the nearest cache.
template <class Type>
static void few_levels(const RowsCall& call) {
    Rest rest;
    const int64_t wide_cols = call.cols / WIDE * WIDE;
    if (Type::weights < WIDE && wide_cols < call.cols) fill_rest(call, wide_cols, rest);
    int64_t row = 0;
    if constexpr (Type::weights == 32) row = multiply_short_rows<Type>(call);
    for (; row < call.rows; ++row) {
        int64_t first = 0, left = call.tokens;
        if (TOKENS_AT_ONCE == 8 && left == 8) {
            multiply_row<Type, TOKENS_AT_ONCE>(call, row, 0, rest);
            continue;
        }
        for (; left >= 4; first += 4, left -= 4) multiply_row<Type, 4>(call, row, first, rest);
        switch (left) {
            case 3: multiply_row<Type, 3>(call, row, first, rest); break;
            case 2: multiply_row<Type, 2>(call, row, first, rest); break;
            case 1: multiply_row<Type, 1>(call, row, first, rest); break;
            default: break;
        }
    }
}
