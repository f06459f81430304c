// What `many` needs of an instruction set, for sixteen rows side by side, in one AVX-512 register (F, BW, DQ, VL).

using Words = __m512i;  // 32 bits of each row: an integer, or four levels of a byte each
using Reals = __m512;

static inline Words words_at(const void* p) { return _mm512_load_si512(p); }
static inline void store_words(void* p, Words a) { _mm512_store_si512(p, a); }
static inline Words same_word(int32_t a) { return _mm512_set1_epi32(a); }
static inline Words no_words() { return _mm512_setzero_si512(); }
static inline Words both(Words a, Words b) { return _mm512_and_si512(a, b); }
static inline Words either(Words a, Words b) { return _mm512_or_si512(a, b); }
static inline Words add(Words a, Words b) { return _mm512_add_epi32(a, b); }
static inline Words sub(Words a, Words b) { return _mm512_sub_epi32(a, b); }
static inline Words times(Words a, Words b) { return _mm512_mullo_epi32(a, b); }
static inline Words sub_bytes(Words a, Words b) { return _mm512_sub_epi8(a, b); }
static inline Words left(Words a, int n) { return _mm512_slli_epi32(a, static_cast<unsigned>(n)); }
static inline Words right(Words a, int n) { return _mm512_srli_epi32(a, static_cast<unsigned>(n)); }
static inline Words right_signed(Words a, int n) { return _mm512_srai_epi32(a, static_cast<unsigned>(n)); }
static inline Words table_bytes(const int8_t* table, Words codes) {  // codes 0..15
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table))), codes);
}

// Sums of two products: of 16 bits in 32, of bytes in 16. And the even and the odd bytes of a word, with their sign,
// as 16 bits.
static inline Words multiply_pairs(Words a, Words b) { return _mm512_madd_epi16(a, b); }
static inline Words multiply_bytes(Words no_sign, Words b) { return _mm512_maddubs_epi16(no_sign, b); }
static inline Words add_halves(Words a, Words b) { return _mm512_add_epi16(a, b); }
static inline Words even_bytes(Words a) { return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8); }
static inline Words odd_bytes(Words a) { return _mm512_srai_epi16(a, 8); }

// Keeps the compiler from adding integers in another order, for which it would store them all first.
static inline Words in_this_order(Words a) {
    asm("" : "+v"(a));
    return a;
}

static inline Reals reals_at(const float* p) { return _mm512_load_ps(p); }
static inline void store_reals(float* p, Reals a) { _mm512_store_ps(p, a); }
static inline Reals same_real(float a) { return _mm512_set1_ps(a); }
static inline Reals no_reals() { return _mm512_setzero_ps(); }
static inline Reals add(Reals a, Reals b) { return _mm512_add_ps(a, b); }
static inline Reals mul(Reals a, Reals b) { return _mm512_mul_ps(a, b); }
static inline Reals fma(Reals a, Reals b, Reals sum) { return _mm512_fmadd_ps(a, b, sum); }
static inline Reals real_of(Words a) { return _mm512_cvtepi32_ps(a); }
static inline Reals real_bits(Words a) { return _mm512_castsi512_ps(a); }
static inline Reals table_reals(const float* table, Words index) {  // 0..15
    return _mm512_permutexvar_ps(index, _mm512_load_ps(table));
}
static inline Reals real_of_halves(Words a) {  // half precision in the low 16 bits
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}

// `count` of the sixteen, at any address.
static inline Reals some_reals_at(const float* p, int count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
static inline void store_some_reals(float* p, Reals a, int count) {
    if (count == 16) _mm512_storeu_ps(p, a);
    else _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), a);
}

// Sixteen rows' bytes offset..offset+15 -> words 0..3 of all rows.
static inline void transpose_16_bytes(const Rows& rows, int64_t offset, Words words[4]) {
    Words a[4], b[4];
    for (int i = 0; i < 4; ++i) {
        const auto quarter = [&](int row) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.p[row] + offset));
        };
        a[i] = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(i)), quarter(i + 4), 1);
        a[i] = _mm512_inserti32x4(_mm512_inserti32x4(a[i], quarter(i + 8), 2), quarter(i + 12), 3);
    }
    for (int i = 0; i < 4; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        words[2 * i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        words[2 * i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    }
}

// The same for 32 bytes and words 0..7.
static inline void transpose_32_bytes(const Rows& rows, int64_t offset, Words words[8]) {
    Words a[8], b[8];
    for (int i = 0; i < 8; ++i) {
        const auto half = [&](int row) {
            return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.p[row] + offset));
        };
        a[i] = _mm512_inserti64x4(_mm512_castsi256_si512(half(i)), half(i + 8), 1);
    }
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; ++j) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    }
    // a[j]: words j and j + 4 of rows 0..3 and 8..11; a[j + 4]: those of rows 4..7 and 12..15.
    const Words low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    for (int j = 0; j < 4; ++j) {
        words[j] = _mm512_permutex2var_epi64(a[j], low, a[j + 4]);
        words[j + 4] = _mm512_permutex2var_epi64(a[j], high, a[j + 4]);
    }
}
