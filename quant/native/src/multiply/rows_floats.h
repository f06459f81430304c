// Products of rows whose weights are numbers, or become some by a table, on the lanes of lanes_*.h.

// Rows at a time, since activations take as much room in the nearest cache as it has: they are loaded once for all.
constexpr int FLOAT_ROWS = 4;
constexpr int64_t AHEAD = 512;  // bytes that are asked for before they are needed

static inline Floats weights_at(F32, const uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
static inline Floats weights_at(F16, const uint8_t* p) { return load_f16(p); }
static inline Floats weights_at(BF16, const uint8_t* p) { return load_bf16(p); }

// Activations after the last whole step, filled up with zeros.
struct FloatRest {
    float values[MOST_TOKENS][LANES];
};

template <class Type, int ROWS, int T>
static inline void some_float_rows(const RowsCall& call, int64_t row, int64_t first, const FloatRest& rest) {
    const int64_t whole = call.cols / LANES * LANES;
    const uint8_t* p = call.weights + row * call.row_bytes;
    const Activations* x = call.x + first;
    Floats total[ROWS][T];
    for (int r = 0; r < ROWS; ++r) {
        for (int t = 0; t < T; ++t) total[r][t] = zero();
    }
    const int64_t next_rows = (ROWS - 1) * call.row_bytes;
    int64_t left = call.row_bytes;
    constexpr int BYTES = LANES * Type::bytes;
    for (int64_t col = 0; col < whole; col += LANES, p += BYTES, left -= BYTES) {
        const uint8_t* ahead = p + AHEAD + (left > AHEAD ? 0 : next_rows);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            __builtin_prefetch(ahead + r * call.row_bytes);
            const Floats weights = weights_at(Type(), p + r * call.row_bytes);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) total[r][t] = mul_add(weights, load(x[t].values + col), total[r][t]);
        }
    }
    if (whole < call.cols) {
        uint8_t copy[BYTES] = {};
        for (int r = 0; r < ROWS; ++r) {
            __builtin_memcpy(copy, p + r * call.row_bytes, static_cast<size_t>(call.cols - whole) * Type::bytes);
            const Floats weights = weights_at(Type(), copy);
            for (int t = 0; t < T; ++t) total[r][t] = mul_add(weights, load(rest.values[first + t]), total[r][t]);
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int t = 0; t < T; ++t) call.y[(first + t) * call.y_stride + row + r] = sum(total[r][t]);
    }
}

// NF4: weights 0, 2 .. of 32 are in the high nibbles, weights 1, 3 .. in the low ones.
template <int ROWS, int T>
static inline void some_nf4_rows(const RowsCall& call, int64_t row, int64_t first) {
    const uint8_t* block = call.weights + row * call.row_bytes;
    const Activations* x = call.x + first;
    Floats total[ROWS][T];
    for (int r = 0; r < ROWS; ++r) {
        for (int t = 0; t < T; ++t) total[r][t] = zero();
    }
    const int64_t next_rows = (ROWS - 1) * call.row_bytes;
    int64_t left = call.row_bytes;
    for (int64_t col = 0; col < call.cols; col += NF4::weights, block += NF4::bytes, left -= NF4::bytes) {
        const uint8_t* ahead = block + AHEAD + (left > AHEAD ? 0 : next_rows);
        Parted values[2][T];
        for (int t = 0; t < T; ++t) {
            values[0][t] = part(x[t].values + col);
            values[1][t] = part(x[t].values + col + 32);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            __builtin_prefetch(ahead + r * call.row_bytes);
            const uint8_t* p = block + r * call.row_bytes;
            const Parted a = part_values(p + 4, NF4_VALUES), b = part_values(p + 20, NF4_VALUES);
            const Floats factor = all(load_float(p));
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) {
                const Floats one = mul_add(a.second, values[0][t].second, mul(a.first, values[0][t].first));
                const Floats both =
                    mul_add(b.second, values[1][t].second, mul_add(b.first, values[1][t].first, one));
                total[r][t] = mul_add(factor, both, total[r][t]);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int t = 0; t < T; ++t) call.y[(first + t) * call.y_stride + row + r] = sum(total[r][t]);
    }
}

template <class Type, int ROWS, int T>
static inline void float_rows(const RowsCall& call, int64_t row, int64_t first, const FloatRest& rest) {
    if constexpr (Type::type == NF4::type) some_nf4_rows<ROWS, T>(call, row, first);
    else some_float_rows<Type, ROWS, T>(call, row, first, rest);
}

template <class Type, int T>
static inline void float_rows_of(const RowsCall& call, int64_t first, const FloatRest& rest) {
    constexpr int ROWS = T == 1 ? FLOAT_ROWS : FLOAT_ROWS / 2;
    int64_t row = 0;
    for (; row + ROWS <= call.rows; row += ROWS) float_rows<Type, ROWS, T>(call, row, first, rest);
    for (; row < call.rows; ++row) float_rows<Type, 1, T>(call, row, first, rest);
}

template <class Type>
static void few_floats(const RowsCall& call) {
    FloatRest rest = {};
    const int64_t whole = call.cols / LANES * LANES;
    for (int64_t t = 0; t < call.tokens; ++t) {
        __builtin_memcpy(rest.values[t], call.x[t].values + whole, static_cast<size_t>(call.cols - whole) * sizeof(float));
    }
    int64_t first = 0;
    for (; first + 4 <= call.tokens; first += 4) float_rows_of<Type, 4>(call, first, rest);
    switch (call.tokens - first) {
        case 3: return float_rows_of<Type, 3>(call, first, rest);
        case 2: return float_rows_of<Type, 2>(call, first, rest);
        case 1: return float_rows_of<Type, 1>(call, first, rest);
        default: return;
    }
}
