// Products of rows in plain loops: the standard for every other instruction set, and for machines without one.

using plain::Unpacked;
using plain::unpack;
using plain::unpack_floats;

constexpr int PARTS = 16;  // sums that are kept apart, so that they grow less and the compiler can use vectors

static inline float sum_of(const float* parts) {
    float sums[PARTS];
    __builtin_memcpy(sums, parts, sizeof sums);
    for (int width = PARTS / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
    }
    return sums[0];
}

template <class Type>
static void few_levels(const RowsCall& call) {
    for (int64_t row = 0; row < call.rows; ++row) {
        const uint8_t* block = call.weights + row * call.row_bytes;
        float parts[MOST_TOKENS][PARTS] = {};
        for (int64_t col = 0; col < call.cols; col += Type::weights, block += Type::bytes) {
            Unpacked u;
            unpack(Type(), block, u);
            for (int64_t t = 0; t < call.tokens; ++t) {
                const int8_t* levels = call.x[t].levels + col;
                const float *scales = call.x[t].scales + col / 32, *sums = call.x[t].sums + col / 16;
                for (int group = 0; group < Type::weights / 16; ++group) {
                    int32_t dot = 0;
                    for (int i = 16 * group; i < 16 * group + 16; ++i) dot += u.levels[i] * levels[i];
                    parts[t][group] += u.scales[group] * scales[group / 2] * static_cast<float>(dot);
                    parts[t][group] -= u.minima[group] * sums[group];
                }
            }
        }
        for (int64_t t = 0; t < call.tokens; ++t) call.y[t * call.y_stride + row] = sum_of(parts[t]);
    }
}

constexpr int STEP = 64;  // float weights that are unpacked at a time

template <class Type>
static void few_floats(const RowsCall& call) {
    for (int64_t row = 0; row < call.rows; ++row) {
        const uint8_t* p = call.weights + row * call.row_bytes;
        float parts[MOST_TOKENS][PARTS] = {};
        for (int64_t col = 0; col < call.cols; col += STEP) {
            const int64_t count = call.cols - col < STEP ? call.cols - col : STEP;
            float values[STEP];
            unpack_floats(Type(), p, values, count);
            p += count / Type::weights * Type::bytes;
            for (int64_t t = 0; t < call.tokens; ++t) {
                const float* x = call.x[t].values + col;
                int64_t i = 0;
                for (; i + PARTS <= count; i += PARTS) {
                    for (int k = 0; k < PARTS; ++k) parts[t][k] += values[i + k] * x[i + k];
                }
                for (int k = 0; i < count; ++i, ++k) parts[t][k] += values[i] * x[i];
            }
        }
        for (int64_t t = 0; t < call.tokens; ++t) call.y[t * call.y_stride + row] = sum_of(parts[t]);
    }
}

template <class Type>
static constexpr auto few_of() {
    if constexpr (Type::takes_floats) return &few_floats<Type>;
    else return &few_levels<Type>;
}
