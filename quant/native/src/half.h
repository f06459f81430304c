// Half precision, in integers: the same on every machine, and no instruction that a variant might lack.

static inline uint32_t float_bits(float v) {
    uint32_t bits;
    __builtin_memcpy(&bits, &v, sizeof bits);
    return bits;
}

static inline float float_from_bits(uint32_t bits) {
    float v;
    __builtin_memcpy(&v, &bits, sizeof v);
    return v;
}

// 0 <= v <= 65504 -> the nearest half, ties to even.
static inline uint16_t half_from_float(float v) {
    if (v < 0x1p-14f) {  // steps of 2^-24: adding 2^23 leaves their number in the lowest bits
        return static_cast<uint16_t>(float_bits(v * 0x1p24f + 0x1p23f) & 0x7FFF);
    }
    uint32_t bits = float_bits(v);
    bits += 0x0FFF + ((bits >> 13) & 1);
    return static_cast<uint16_t>((bits >> 13) - ((127 - 15) << 10));
}

// The value of a half that is not negative and finite.
static inline float half_value(uint16_t half) {
    if (half < 0x0400) return static_cast<float>(half) * 0x1p-24f;
    return float_from_bits((static_cast<uint32_t>(half) << 13) + ((127u - 15u) << 23));
}

// The value of any half, infinity and NaN included.
static inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7FFF;
    if (magnitude < 0x0400) return float_from_bits(float_bits(static_cast<float>(magnitude) * 0x1p-24f) | sign);
    const uint32_t rebias = (127u - 15u) << 23;
    return float_from_bits(((magnitude << 13) + rebias + (magnitude >= 0x7C00 ? rebias : 0)) | sign);
}

// The half for a scale whose multiples 0..steps shall reach `largest`: the nearest one, or the next above it where
// halves are so coarse that the nearest would end half a step short.
static inline uint16_t half_scale(float largest, int steps) {
    uint16_t half = half_from_float(largest / static_cast<float>(steps));
    if (half_value(half) * (static_cast<float>(steps) + 0.5f) < largest) ++half;
    return half;
}

static inline void store_half(uint8_t* p, uint16_t half) {
    p[0] = static_cast<uint8_t>(half & 255);
    p[1] = static_cast<uint8_t>(half >> 8);
}
