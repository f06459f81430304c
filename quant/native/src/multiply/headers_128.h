// What is done in shorter registers: scales at the heads of blocks, and the largest of some numbers.

static inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

// The 12 bytes of scales and minima after d and dmin -> eight scales, then eight minima, 0..63.
static inline __m128i affine_bytes(__m128i header) {
    const __m128i low = _mm_shuffle_epi8(header, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    const __m128i low_mask = _mm_setr_epi32(0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F);
    const __m128i moved = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4)), low_mask);
    const __m128i high = _mm_shuffle_epi8(header, _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
    return _mm_or_si128(moved, _mm_and_si128(_mm_srli_epi16(high, 2), _mm_set1_epi8(0x30)));
}

// IQ4_XS's eight scales after d, 0..63: two high bits of each in 16 bits, then four low ones in 32.
static inline __m128i iq4_bytes(const uint8_t* packed) {
    const uint64_t low = load_u32(packed + 2), high = load_u16(packed);
    const uint64_t spread = (low & 0x0F0F0F0F) | (low & 0xF0F0F0F0) << 28;
    // -> bytes of the even scales, then those of the odd ones
    const __m128i nibbles = _mm_cvtsi64_si128(static_cast<int64_t>(spread));
    const __m128i in_order = _mm_unpacklo_epi8(nibbles, _mm_srli_si128(nibbles, 4));
    const __m128i from = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m128i bytes = _mm_shuffle_epi8(_mm_cvtsi32_si128(static_cast<int>(high)), from);
    // Multiplying moves bits 2j and 2j + 1 of a byte to the same place: bits 6 and 7 of the lower byte of a word.
    const __m128i words = _mm_mullo_epi16(_mm_cvtepu8_epi16(bytes), _mm_setr_epi16(64, 16, 4, 1, 64, 16, 4, 1));
    const __m128i two = _mm_and_si128(_mm_srli_epi16(words, 2), _mm_set1_epi16(0x30));
    return _mm_or_si128(in_order, _mm_packus_epi16(two, two));
}

// Eight halves that lie `stride` bytes apart.
static inline __m128i eight_apart(const uint8_t* p, int stride) {
    uint64_t words[2];
    for (int i = 0; i < 2; ++i) {
        const uint8_t* q = p + 4 * i * stride;
        words[i] = load_u16(q) | static_cast<uint64_t>(load_u16(q + stride)) << 16 |
                   static_cast<uint64_t>(load_u16(q + 2 * stride)) << 32 |
                   static_cast<uint64_t>(load_u16(q + 3 * stride)) << 48;
    }
    return _mm_set_epi64x(static_cast<int64_t>(words[1]), static_cast<int64_t>(words[0]));
}

static inline __m128 one_half(const uint8_t* p) { return _mm_cvtph_ps(_mm_cvtsi32_si128(load_u16(p))); }

static inline uint32_t largest_of_eight(__m256i v) {
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xB1))));
}
