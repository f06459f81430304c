// Activations to levels of eight bits, in plain loops.

constexpr float ROUNDING = 0x1.8p23f;  // adding and subtracting it leaves the nearest integer, ties to even

static void quantize(const float* values, int64_t cols, int8_t* levels, float* scales, float* sums) {
    for (int64_t group = 0; group < cols / GROUP; ++group, levels += GROUP, ++scales, sums += 2) {
        const float* x = values + GROUP * group;
        uint32_t largest = 0;
        for (int i = 0; i < GROUP; ++i) {
            const uint32_t magnitude = float_bits(x[i]) & MAGNITUDE;  // grows with the number
            largest = magnitude > largest ? magnitude : largest;
        }
        if (largest == 0 || largest >= INFINITY_BITS) {
            set_group(levels, scales, sums, largest == 0 ? 0.0f : __builtin_nanf(""));
            continue;
        }
        const float step = step_for(float_from_bits(largest));
        float products = 0, squares = 0, totals[2] = {0, 0};
        for (int i = 0; i < GROUP; ++i) {
            const float position = x[i] / step, level = (position + ROUNDING) - ROUNDING;
            levels[i] = static_cast<int8_t>(level);
            products += level * position;
            squares += level * level;
            totals[i / (GROUP / 2)] += level;
        }
        *scales = step * (products / squares);
        for (int half = 0; half < 2; ++half) sums[half] = *scales * totals[half];
    }
}
