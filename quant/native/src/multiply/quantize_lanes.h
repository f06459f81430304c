// Activations to levels of eight bits, on the lanes of lanes_*.h: a group is two times sixteen.

static void quantize(const float* values, int64_t cols, int8_t* levels, float* scales, float* sums) {
    for (int64_t group = 0; group < cols / GROUP; ++group, levels += GROUP, ++scales, sums += 2) {
        const Floats first = load(values + GROUP * group), second = load(values + GROUP * group + GROUP / 2);
        const uint32_t largest = largest_magnitude(first, second);
        if (largest == 0 || largest >= INFINITY_BITS) {
            set_group(levels, scales, sums, largest == 0 ? 0.0f : __builtin_nanf(""));
            continue;
        }
        const float step = step_for(float_from_bits(largest));
        const bool small = float_from_bits(largest) < SMALL;
        const Floats per_step = all(small ? step : 1.0f / step);
        const Floats first_at = small ? div(first, per_step) : mul(first, per_step);
        const Floats second_at = small ? div(second, per_step) : mul(second, per_step);
        const Floats first_level = nearest(first_at), second_level = nearest(second_at);
        store_levels(levels, first_level);
        store_levels(levels + GROUP / 2, second_level);
        const float products = sum(mul_add(first_level, first_at, mul(second_level, second_at)));
        const float squares = sum(mul_add(first_level, first_level, mul(second_level, second_level)));
        *scales = step * (products / squares);
        sums[0] = *scales * sum(first_level);
        sums[1] = *scales * sum(second_level);
    }
}
