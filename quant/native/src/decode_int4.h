// Packed INT4 with a scale for each 32 weights -> float32.

constexpr int INT4_GROUP = 32;

static bool decode_int4(const uint8_t* words, const float* scales, int64_t rows, int64_t cols, float* values) {
    I largest = set_int(0);
    const int64_t groups = rows * (cols / INT4_GROUP);
    for (int64_t group = 0; group < groups; ++group, words += INT4_GROUP / 2, values += INT4_GROUP) {
        F scale = set(scales[group]);
        for (int half = 0; half < 2; ++half) {
            I nibbles = load_nibbles(words + 8 * half);
            F value = mul(to_float(add(nibbles, set_int(-8))), scale);
            largest = max(largest, bits(magnitude(value)));
            store(values + LANES * half, value);
        }
    }
    return all_finite(largest);
}
