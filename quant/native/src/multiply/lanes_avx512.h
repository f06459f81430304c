// Sixty-four bytes or sixteen numbers in one AVX-512 register. With FMA and F16C for shorter
// ones. dot_*.h adds what multiplies bytes.

using Bytes = __m512i;
using Ints = __m512i;
using Floats = __m512;
constexpr int TOKENS_AT_ONCE = 8;  // with the weights unpacked once, as far as registers reach

static inline Floats zero() { return _mm512_setzero_ps(); }
static inline Floats all(float v) { return _mm512_set1_ps(v); }
static inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
static inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
static inline Floats mul_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
static inline Floats mul_subtract_from(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
static inline Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
static inline float sum(Floats v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
static inline Floats nearest(Floats v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline void store_levels(int8_t* p, Floats integers) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(integers)));
}
// The bits of a float without its sign grow with it, up to infinity and NaN.
static inline uint32_t largest_magnitude(Floats a, Floats b) {
    const Ints magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    const Ints larger = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                         _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    return largest_of_eight(_mm256_max_epi32(_mm512_castsi512_si256(larger), _mm512_extracti64x4_epi64(larger, 1)));
}

static inline Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
static inline Bytes all_bytes(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
static inline Bytes load_halves(const uint8_t* p, const uint8_t* q) {  // 32 bytes of p and 32 of q
    return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))),
                                       0xF0, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q)));
}

static inline Bytes low_nibbles(Bytes v) { return _mm512_and_si512(v, all_bytes(15)); }
static inline Bytes high_nibbles(Bytes v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }

// 32 bytes -> 64 nibbles, all low ones first.
static inline Bytes nibbles_of_32(const uint8_t* p) {
    const Bytes both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return low_nibbles(_mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4)));
}

// The same, the high ones 16 times as large: nothing is moved.
static inline Bytes nibbles_in_place(const uint8_t* p) {
    const Bytes both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_and_si512(both, _mm512_inserti64x4(all_bytes(0x0F), _mm256_set1_epi8(static_cast<char>(0xF0)), 1));
}

// 16 bytes of p -> 32 nibbles, low ones first, then those of q.
static inline Bytes nibbles_of_16(const uint8_t* p, const uint8_t* q) {
    const Bytes first = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const Bytes both =
        _mm512_mask_broadcast_i32x4(first, 0xFF00, _mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
    return low_nibbles(_mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4)));
}

static inline Bytes look_up(Bytes nibbles, const int8_t* table) {
    return _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), nibbles);
}

// Bits that 64 weights have beside their nibbles, out of 32 bytes that serve both halves.
using Extra = __m512i;
static inline Extra load_extra(const uint8_t* p) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// Joins the bits `MASK` after bits were moved to the left: by FIRST for the first 32 weights, by SECOND for the others.
template <int MASK, int FIRST, int SECOND>
static inline Bytes join(Bytes nibbles, Extra extra) {
    const Bytes moved = _mm512_rolv_epi64(
        extra, _mm512_setr_epi64(FIRST & 63, FIRST & 63, FIRST & 63, FIRST & 63, SECOND & 63, SECOND & 63, SECOND & 63,
                                 SECOND & 63));
    return _mm512_ternarylogic_epi64(nibbles, moved, all_bytes(MASK), 0xF8);  // nibbles | (moved & mask)
}
// 16 more where a bit is set: bit i for weight i.
static inline Bytes join_fifths(Bytes nibbles, uint32_t first, uint32_t second) {
    const __mmask64 fifths = first | static_cast<uint64_t>(second) << 32;
    return _mm512_mask_add_epi8(nibbles, fifths, nibbles, all_bytes(16));
}

// Sixteen bytes as numbers.
static inline Floats unsigned_floats(__m128i bytes) { return to_floats(_mm512_cvtepu8_epi32(bytes)); }
static inline Floats signed_floats(__m128i bytes) { return to_floats(_mm512_cvtepi8_epi32(bytes)); }
// Eight of the first number, then eight of the second; or the first two by turns, then eight of the third.
static inline Floats eight_of_each(__m128 two) {
    const Ints lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(two));
}
static inline Floats by_turns(__m128 three) {
    const Ints lanes = _mm512_setr_epi32(0, 1, 0, 1, 0, 1, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2);
    return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(three));
}
static inline Floats all_of(__m128 one) { return _mm512_broadcastss_ps(one); }
// Eight numbers in the first lanes; a number of the first or the last eight lanes in two lanes each.
static inline Floats load_eight(const float* p) { return _mm512_castps256_ps512(_mm256_loadu_ps(p)); }
static inline Floats eight_halves(__m128i halves) { return _mm512_castps256_ps512(_mm256_cvtph_ps(halves)); }
static inline Floats first_twice(Floats v) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), v);
}
static inline Floats last_twice(Floats v) {
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15), v);
}

// Lanes 4 * K to 4 * K + 3, each four times.
template <int K>
static inline Floats four_times(Floats v) {
    constexpr int A = 4 * K, B = A + 1, C = A + 2, D = A + 3;
    return _mm512_permutexvar_ps(_mm512_setr_epi32(A, A, A, A, B, B, B, B, C, C, C, C, D, D, D, D), v);
}
// Lanes 2 * K and 2 * K + 1, each eight times.
template <int K>
static inline Floats eight_times(Floats v) {
    constexpr int A = 2 * K, B = A + 1;
    return _mm512_permutexvar_ps(_mm512_setr_epi32(A, A, A, A, A, A, A, A, B, B, B, B, B, B, B, B), v);
}

// Sixteen weights in half precision and in the upper half of a float32.
static inline Floats load_f16(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline Floats load_bf16(const uint8_t* p) {
    const Ints wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// Numbers 0, 2 .. 30 and 1, 3 .. 31 of 32: in `first` and in `second`.
struct Parted {
    Floats first, second;
};
static inline Parted part(const float* p) {
    const Floats a = load(p), b = load(p + 16);
    const Ints even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return {_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, _mm512_or_si512(even, _mm512_set1_epi32(1)), b)};
}
// The table's values for the high and for the low nibbles of 16 bytes.
static inline Parted part_values(const uint8_t* p, const float* table) {
    const Floats values = load(table);
    const Ints codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), values), _mm512_permutexvar_ps(codes, values)};
}
