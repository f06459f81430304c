// What `many` needs of an instruction set, for sixteen rows side by side, in two registers of AVX2, FMA and F16C.

struct Words {  // 32 bits of each row: an integer, or four levels of a byte each
    __m256i lo, hi;
};
struct Reals {
    __m256 lo, hi;
};

static inline const __m256i* halves_of(const void* p) { return static_cast<const __m256i*>(p); }
static inline Words words_at(const void* p) {
    return {_mm256_load_si256(halves_of(p)), _mm256_load_si256(halves_of(p) + 1)};
}
static inline void store_words(void* p, Words a) {
    _mm256_store_si256(static_cast<__m256i*>(p), a.lo);
    _mm256_store_si256(static_cast<__m256i*>(p) + 1, a.hi);
}
static inline Words same_word(int32_t a) { return {_mm256_set1_epi32(a), _mm256_set1_epi32(a)}; }
static inline Words no_words() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline Words both(Words a, Words b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
static inline Words either(Words a, Words b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
static inline Words add(Words a, Words b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
static inline Words sub(Words a, Words b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
static inline Words times(Words a, Words b) {
    return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
static inline Words sub_bytes(Words a, Words b) { return {_mm256_sub_epi8(a.lo, b.lo), _mm256_sub_epi8(a.hi, b.hi)}; }
static inline Words left(Words a, int n) { return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)}; }
static inline Words right(Words a, int n) { return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)}; }
static inline Words right_signed(Words a, int n) {
    return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)};
}
static inline Words table_bytes(const int8_t* table, Words codes) {  // codes 0..15
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(twice, codes.lo), _mm256_shuffle_epi8(twice, codes.hi)};
}

// Sums of two products: of 16 bits in 32, of bytes in 16. And the even and the odd bytes of a word, with their sign,
// as 16 bits.
static inline Words multiply_pairs(Words a, Words b) {
    return {_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)};
}
static inline Words multiply_bytes(Words no_sign, Words b) {
    return {_mm256_maddubs_epi16(no_sign.lo, b.lo), _mm256_maddubs_epi16(no_sign.hi, b.hi)};
}
static inline Words add_halves(Words a, Words b) {
    return {_mm256_add_epi16(a.lo, b.lo), _mm256_add_epi16(a.hi, b.hi)};
}
static inline Words odd_bytes(Words a) { return {_mm256_srai_epi16(a.lo, 8), _mm256_srai_epi16(a.hi, 8)}; }
static inline Words even_bytes(Words a) {
    return odd_bytes({_mm256_slli_epi16(a.lo, 8), _mm256_slli_epi16(a.hi, 8)});
}

// Keeps the compiler from adding integers in another order, for which it would store them all first.
static inline Words in_this_order(Words a) {
    asm("" : "+x"(a.lo), "+x"(a.hi));
    return a;
}

static inline Reals reals_at(const float* p) { return {_mm256_load_ps(p), _mm256_load_ps(p + 8)}; }
static inline void store_reals(float* p, Reals a) {
    _mm256_store_ps(p, a.lo);
    _mm256_store_ps(p + 8, a.hi);
}
static inline Reals same_real(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
static inline Reals no_reals() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Reals add(Reals a, Reals b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
static inline Reals mul(Reals a, Reals b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
static inline Reals fma(Reals a, Reals b, Reals sum) {
    return {_mm256_fmadd_ps(a.lo, b.lo, sum.lo), _mm256_fmadd_ps(a.hi, b.hi, sum.hi)};
}
static inline Reals real_of(Words a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
static inline Reals real_bits(Words a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
static inline Reals real_of_halves(Words a) {  // half precision in the low 16 bits, nothing in the others
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xD8);
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(packed)), _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1))};
}
static inline __m256 table_half(const float* table, __m256i index) {
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(table), index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
static inline Reals table_reals(const float* table, Words index) {  // 0..15
    return {table_half(table, index.lo), table_half(table, index.hi)};
}

// `count` of the sixteen, at any address.
static inline Reals some_reals_at(const float* p, int count) {
    if (count == LANES) return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
    alignas(32) float some[LANES] = {};
    __builtin_memcpy(some, p, static_cast<size_t>(count) * sizeof(float));
    return reals_at(some);
}
static inline void store_some_reals(float* p, Reals a, int count) {
    if (count == LANES) {
        _mm256_storeu_ps(p, a.lo);
        _mm256_storeu_ps(p + 8, a.hi);
        return;
    }
    alignas(32) float all[LANES];
    store_reals(all, a);
    __builtin_memcpy(p, all, static_cast<size_t>(count) * sizeof(float));
}

static inline __m256i rows_apart(const Rows& rows, int row, int64_t offset) {  // 16 bytes of a row and of row + 4
    const auto part = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.p[i] + offset)); };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(part(row)), part(row + 4), 1);
}

// Eight rows' bytes offset..offset+15 -> words 0..3 of these rows.
static inline void transpose_eight_rows(const Rows& rows, int first, int64_t offset, __m256i words[4]) {
    __m256i a[4], b[4];
    for (int i = 0; i < 4; ++i) a[i] = rows_apart(rows, first + i, offset);
    for (int i = 0; i < 4; i += 2) {
        b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        words[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
        words[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
    }
}

// Sixteen rows' bytes offset..offset+15 -> words 0..3 of all rows.
static inline void transpose_16_bytes(const Rows& rows, int64_t offset, Words words[4]) {
    __m256i lo[4], hi[4];
    transpose_eight_rows(rows, 0, offset, lo);
    transpose_eight_rows(rows, 8, offset, hi);
    for (int i = 0; i < 4; ++i) words[i] = {lo[i], hi[i]};
}

// The same for 32 bytes and words 0..7.
static inline void transpose_32_bytes(const Rows& rows, int64_t offset, Words words[8]) {
    transpose_16_bytes(rows, offset, words);
    transpose_16_bytes(rows, offset + 16, words + 4);
}
