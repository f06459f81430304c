// FP8 e4m3 codes with a factor for each 128x128 weights -> float32. The product is the only rounding.

constexpr int FP8_BLOCK = 128;

// Sixteen codes -> their values. A code has a sign, four bits of exponent (bias 7) and three of mantissa.
static inline F fp8_values(I codes) {
    I low = both(codes, set_int(0x7F));
    // The same fields of float32, whose bias is 127. The exponent 0 means steps of 2^-9 instead.
    F normal = from_bits(add(shift_left<20>(low), set_int((127 - 7) << 23)));
    F steps = to_float(low);
    F value = select(less(steps, set(8)), mul(steps, set(0x1p-9f)), normal);
    I sign = shift_left<24>(both(codes, set_int(0x80)));
    value = select(less(set(126), steps), from_bits(set_int(0x7FC00000)), value);
    return from_bits(either(bits(value), sign));
}

static bool decode_fp8(const uint8_t* codes, const float* factors, int64_t rows, int64_t cols, float* values) {
    const int64_t row_factors = (cols + FP8_BLOCK - 1) / FP8_BLOCK;
    I largest = set_int(0);
    for (int64_t row = 0; row < rows; ++row, codes += cols, values += cols) {
        const float* row_factor = factors + row / FP8_BLOCK * row_factors;
        int64_t col = 0;
        for (; col + LANES <= cols; col += LANES) {
            F value = mul(fp8_values(load_bytes(codes + col)), set(row_factor[col / FP8_BLOCK]));
            largest = max(largest, bits(magnitude(value)));
            store(values + col, value);
        }
        if (col < cols) {  // a last part of fewer than sixteen, in a copy
            uint8_t last_codes[LANES] = {};
            float last_values[LANES];
            for (int64_t i = col; i < cols; ++i) last_codes[i - col] = codes[i];
            F value = mul(fp8_values(load_bytes(last_codes)), set(row_factor[col / FP8_BLOCK]));
            store(last_values, value);
            largest = max(largest, bits(magnitude(value)));
            for (int64_t i = col; i < cols; ++i) values[i] = last_values[i - col];
        }
    }
    return all_finite(largest);
}
