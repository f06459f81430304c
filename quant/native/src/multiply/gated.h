// silu(gate) * up. A plain loop, which the compiler turns into each instruction set's vectors.

// e^x: 2^n times a polynomial in the rest. Infinity and 0 beyond float's range; NaN stays NaN.
static inline float exponential(float x) {
    const float limit = 150.0f;
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const float rounded = x * 0x1.715476p0f + 0x1.8p23f, n = rounded - 0x1.8p23f;
    const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;  // n * log(2) in two parts, the first one exact
    float p = 0x1.6b7p-10f;
    p = p * r + 0x1.123cccp-7f;
    p = p * r + 0x1.555b98p-5f;
    p = p * r + 0x1.55548ep-3f;
    p = p * r + 0x1.fffff8p-2f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    // 2^n in two steps, since n may lie outside of an exponent's range.
    int32_t power;
    __builtin_memcpy(&power, &rounded, sizeof power);
    power -= 0x4B400000;
    const int32_t half = power >> 1;
    const int32_t first = (half + 127) << 23, second = (power - half + 127) << 23;
    float low, high;
    __builtin_memcpy(&low, &first, sizeof low);
    __builtin_memcpy(&high, &second, sizeof high);
    return p * low * high;
}

static void gated(float* gate, const float* up, int64_t count) {
    for (int64_t i = 0; i < count; ++i) gate[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}
