// What quantizing activations needs everywhere: see quantize_portable.h and quantize_lanes.h.
//
// A group's levels are the multiples nearest to its values of a 127th of the largest. Its scale is then the one that fits
// these levels best, by least squares: values = scale * levels. That takes some 2 % of the error off.

constexpr int GROUP = k2quant::SCALE_GROUP;
constexpr int LARGEST_LEVEL = 127;
constexpr uint32_t MAGNITUDE = 0x7FFFFFFFu, INFINITY_BITS = 0x7F800000u;
constexpr float SMALL = 0x1p-100f;  // below, the inverse of a step may not be finite

// The step between levels for a group whose largest magnitude is `largest`. Where floats are so coarse that levels would
// pass 127, the next above.
static inline float step_for(float largest) {
    const float step = largest / LARGEST_LEVEL;
    return step * (LARGEST_LEVEL + 0.5f) < largest ? float_from_bits(float_bits(step) + 1) : step;
}

// A group without any number but zero, or with one that is none.
static inline void set_group(int8_t* levels, float* scale, float* sums, float value) {
    __builtin_memset(levels, 0, GROUP);
    *scale = sums[0] = sums[1] = value;
}
