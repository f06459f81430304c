// Blocks and rows of every type as numbers, in plain loops. In a namespace of its own: instruction sets have other ways to
// unpack, for products.

namespace plain {

// A block of quantized weights: scales[i / 16] * levels[i] - minima[i / 16].
struct Unpacked {
    int8_t levels[256];
    float scales[16];
    float minima[16];
};

static inline void unpack_halves(const uint8_t* codes, int8_t* levels, int count) {  // low nibbles, then high ones
    for (int i = 0; i < count; ++i) {
        levels[i] = static_cast<int8_t>(codes[i] & 15);
        levels[count + i] = static_cast<int8_t>(codes[i] >> 4);
    }
}

static inline void unpack_affine(const uint8_t* block, Unpacked& u) {
    const float d = half_to_float(load_u16(block)), d_min = half_to_float(load_u16(block + 2));
    uint64_t scales, minima;
    unpack_scales(block + 4, scales, minima);
    for (int i = 0; i < 16; ++i) {
        u.scales[i] = d * static_cast<float>(scales >> (8 * (i / 2)) & 255);
        u.minima[i] = d_min * static_cast<float>(minima >> (8 * (i / 2)) & 255);
    }
}

static inline void unpack(Q4K, const uint8_t* block, Unpacked& u) {
    unpack_affine(block, u);
    for (int pair = 0; pair < 4; ++pair) unpack_halves(block + 16 + 32 * pair, u.levels + 64 * pair, 32);
}

static inline void unpack(Q5K, const uint8_t* block, Unpacked& u) {
    unpack_affine(block, u);
    for (int pair = 0; pair < 4; ++pair) unpack_halves(block + 48 + 32 * pair, u.levels + 64 * pair, 32);
    for (int i = 0; i < 256; ++i) {
        u.levels[i] = static_cast<int8_t>(u.levels[i] | (block[16 + i % 32] >> (i / 32) & 1) << 4);
    }
}

static inline void unpack(Q6K, const uint8_t* block, Unpacked& u) {
    const float d = half_to_float(load_u16(block + 208));
    for (int i = 0; i < 16; ++i) {
        u.scales[i] = d * static_cast<float>(static_cast<int8_t>(block[192 + i]));
        u.minima[i] = 0;
    }
    for (int half = 0; half < 2; ++half) {
        const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
        int8_t* levels = u.levels + 128 * half;
        unpack_halves(low, levels, 64);
        for (int i = 0; i < 128; ++i) {
            levels[i] = static_cast<int8_t>((levels[i] | (high[i % 32] >> (2 * (i / 32)) & 3) << 4) - 32);
        }
    }
}

static inline void unpack(IQ4XS, const uint8_t* block, Unpacked& u) {
    const float d = half_to_float(load_u16(block));
    const uint64_t scales = unpack_iq4_scales(block + 2);
    for (int i = 0; i < 16; ++i) {
        u.scales[i] = d * static_cast<float>(static_cast<int>(scales >> (8 * (i / 2)) & 255) - 32);
        u.minima[i] = 0;
    }
    for (int j = 0; j < 8; ++j) {
        unpack_halves(block + 8 + 16 * j, u.levels + 32 * j, 16);
    }
    for (int i = 0; i < 256; ++i) u.levels[i] = IQ4_VALUES[u.levels[i]];
}

static inline void set_scale(const uint8_t* half, Unpacked& u) {
    u.scales[0] = u.scales[1] = half_to_float(load_u16(half));
    u.minima[0] = u.minima[1] = 0;
}

static inline void unpack(Q80, const uint8_t* block, Unpacked& u) {
    set_scale(block, u);
    __builtin_memcpy(u.levels, block + 2, 32);
}

static inline void unpack(Q40, const uint8_t* block, Unpacked& u) {
    set_scale(block, u);
    unpack_halves(block + 2, u.levels, 16);
    for (int i = 0; i < 32; ++i) u.levels[i] = static_cast<int8_t>(u.levels[i] - 8);
}

static inline void unpack(Q50, const uint8_t* block, Unpacked& u) {
    set_scale(block, u);
    const uint32_t fifths = load_u32(block + 2);
    unpack_halves(block + 6, u.levels, 16);
    for (int i = 0; i < 32; ++i) u.levels[i] = static_cast<int8_t>((u.levels[i] | (fifths >> i & 1) << 4) - 16);
}

static inline void unpack_floats(F32, const uint8_t* p, float* values, int64_t count) {
    __builtin_memcpy(values, p, static_cast<size_t>(count) * 4);
}
static inline void unpack_floats(F16, const uint8_t* p, float* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = half_to_float(load_u16(p + 2 * i));
}
static inline void unpack_floats(BF16, const uint8_t* p, float* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = float_from_bits(static_cast<uint32_t>(load_u16(p + 2 * i)) << 16);
}
static inline void unpack_floats(NF4, const uint8_t* p, float* values, int64_t) {
    const float factor = load_float(p);
    for (int i = 0; i < 32; ++i) {
        values[2 * i] = NF4_VALUES[p[4 + i] >> 4] * factor;
        values[2 * i + 1] = NF4_VALUES[p[4 + i] & 15] * factor;
    }
}

}  // namespace plain
