// Products of levels by VNNI, whose one factor has no sign. Affine levels are that factor. With all other types it is
// the activations, plus 128; 128 times the levels' sum, which came in by that, is taken off where the sum begins.

constexpr bool WITH_BIAS = true;
constexpr int TOKEN_LEVEL_BYTES = 1;

template <bool AFFINE>
struct DotOf {
    using Levels = Words;
    static constexpr int STEP = 1;        // words at a time
    static constexpr int TOKEN_WORD = 4;  // bytes

    static Levels levels_at(const uint8_t* p) { return words_at(p); }
    static Words add(Words sum, Levels levels, const uint8_t* token) {
        const Words x = same_word(static_cast<int32_t>(load_u32(token)));
        return AFFINE ? _mm512_dpbusd_epi32(sum, levels, x) : _mm512_dpbusd_epi32(sum, x, levels);
    }
    static Words level_sum(Words sum, Words levels) {
        return _mm512_dpbusd_epi32(sum, same_word(0x01010101), levels);
    }
    static void pack(const int8_t* levels, uint8_t* packed) {  // of a group
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(levels));
        const __m256i shift = _mm256_set1_epi8(AFFINE ? 0 : -128);
        _mm256_store_si256(reinterpret_cast<__m256i*>(packed), _mm256_xor_si256(x, shift));
    }
};
