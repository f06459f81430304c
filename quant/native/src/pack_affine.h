// The bytes of a Q4_K or Q5_K super-block: d and dmin, 12 bytes of scales and minima, for Q5_K 32 bytes of fifth bits, and
// 128 bytes of four-bit levels.

struct Q4K {
    static constexpr int top = 15;
    static constexpr int bytes = 144;
};
struct Q5K {
    static constexpr int top = 31;
    static constexpr int bytes = 176;
};

constexpr int SUB = 32;                 // weights of a sub-block

// The 12 bytes of scales and minima: six bits of the first four in bytes 0-3 and 4-7, whose upper two bits and bytes
// 8-11 take the others.
static inline void pack_scales(const uint8_t* scales, const uint8_t* minima, uint8_t* out) {
    for (int j = 0; j < 4; ++j) {
        out[j] = static_cast<uint8_t>(scales[j] | (scales[j + 4] >> 4) << 6);
        out[j + 4] = static_cast<uint8_t>(minima[j] | (minima[j + 4] >> 4) << 6);
        out[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | (minima[j + 4] & 15) << 4);
    }
}

template <class Type>
static inline void pack_levels(const uint8_t* levels, uint8_t* out) {
    if (Type::top > 15) {  // the fifth bits come first: byte l has those of weight l of all sub-blocks
        for (int l = 0; l < SUB; ++l) {
            unsigned fifths = 0;
            for (int j = 0; j < BLOCK / SUB; ++j) fifths |= static_cast<unsigned>(levels[SUB * j + l] >> 4) << j;
            out[l] = static_cast<uint8_t>(fifths);
        }
        out += SUB;
    }
    for (int pair = 0; pair < BLOCK / (2 * SUB); ++pair) {
        const uint8_t* low = levels + 2 * SUB * pair;
        for (int l = 0; l < SUB; ++l) {
            out[SUB * pair + l] = static_cast<uint8_t>((low[l] & 15) | (low[l + SUB] & 15) << 4);
        }
    }
}
