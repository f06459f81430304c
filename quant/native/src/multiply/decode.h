// A row's weights as float32: the same bytes for every instruction set.

template <class Type>
static void decode_row(const uint8_t* row, int64_t cols, float* values) {
    if constexpr (!Type::takes_floats) {
        for (int64_t col = 0; col < cols; col += Type::weights, row += Type::bytes) {
            plain::Unpacked u;
            plain::unpack(Type(), row, u);
            for (int group = 0; group < Type::weights / 16; ++group) {
                float* out = values + col + 16 * group;
                for (int i = 0; i < 16; ++i) {
                    out[i] = u.scales[group] * static_cast<float>(u.levels[16 * group + i]) - u.minima[group];
                }
            }
        }
    } else if constexpr (Type::weights == 1) {
        plain::unpack_floats(Type(), row, values, cols);
    } else {
        for (int64_t col = 0; col < cols; col += Type::weights, row += Type::bytes) {
            plain::unpack_floats(Type(), row, values + col, Type::weights);
        }
    }
}
