// The block types that are multiplied, and how the smaller parts of a block are read.
//
// This and the other headers of kernels go into a namespace without linkage (see variant_body.h for the reason).

template <int TYPE, int WEIGHTS, int BYTES, bool FLOATS>
struct BlockType {
    static constexpr int type = TYPE;        // k2quant_type
    static constexpr int weights = WEIGHTS;  // of a block
    static constexpr int bytes = BYTES;
    static constexpr bool takes_floats = FLOATS;
};

struct Q4K : BlockType<K2QUANT_Q4_K, 256, 144, false> {};
struct Q5K : BlockType<K2QUANT_Q5_K, 256, 176, false> {};
struct Q6K : BlockType<K2QUANT_Q6_K, 256, 210, false> {};
struct IQ4XS : BlockType<K2QUANT_IQ4_XS, 256, 136, false> {};
struct Q80 : BlockType<K2QUANT_Q8_0, 32, 34, false> {};
struct Q40 : BlockType<K2QUANT_Q4_0, 32, 18, false> {};
struct Q50 : BlockType<K2QUANT_Q5_0, 32, 22, false> {};
struct F32 : BlockType<K2QUANT_F32, 1, 4, true> {};
struct F16 : BlockType<K2QUANT_F16, 1, 2, true> {};
struct BF16 : BlockType<K2QUANT_BF16, 1, 2, true> {};
struct NF4 : BlockType<K2QUANT_NF4, 64, 36, true> {};

alignas(64) static const float NF4_VALUES[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
alignas(16) static const int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                  1,    13,   25,  38,  53,  69,  89,  113};

static inline uint16_t load_u16(const uint8_t* p) {
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t load_u32(const uint8_t* p) {
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t load_u64(const uint8_t* p) {
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline float load_float(const uint8_t* p) {
    float v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

// The 12 bytes of scales and minima of Q4_K and Q5_K -> eight scales and eight minima, a byte each, 0..63.
static inline void unpack_scales(const uint8_t* packed, uint64_t& scales, uint64_t& minima) {
    const uint32_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
    const uint32_t six = 0x3F3F3F3Fu, four = 0x0F0F0F0Fu, two = 0x03030303u;
    scales = (a & six) | static_cast<uint64_t>((c & four) | ((a >> 6) & two) << 4) << 32;
    minima = (b & six) | static_cast<uint64_t>(((c >> 4) & four) | ((b >> 6) & two) << 4) << 32;
}

// IQ4_XS's eight scales, a byte each, 0..63; 32 is to be subtracted. `packed` is what follows d: 2 high, then 4 low bits.
static inline uint64_t unpack_iq4_scales(const uint8_t* packed) {
    const uint64_t high = load_u16(packed), low = load_u32(packed + 2);
    uint64_t scales = 0;
    for (int j = 0; j < 8; ++j) {
        scales |= ((low >> (4 * j) & 15) | (high >> (2 * j) & 3) << 4) << (8 * j);
    }
    return scales;
}
