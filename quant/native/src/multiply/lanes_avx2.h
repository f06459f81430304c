// Sixty-four bytes or sixteen numbers in two AVX2 registers; with FMA and F16C. The same functions as in
// lanes_avx512.h, where they are explained.

struct Bytes {
    __m256i lo, hi;
};
using Ints = Bytes;
struct Floats {
    __m256 lo, hi;
};
constexpr int TOKENS_AT_ONCE = 4;

static inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

static inline Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Floats all(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
static inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
static inline Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
static inline Floats mul_add(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline Floats mul_subtract_from(Floats a, Floats b, Floats c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
static inline Floats to_floats(Ints v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }
static inline float sum(Floats v) {
    const __m256 eight = _mm256_add_ps(v.lo, v.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
static inline Floats nearest(Floats v) {
    constexpr int HOW = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(v.lo, HOW), _mm256_round_ps(v.hi, HOW)};
}
static inline void store_levels(int8_t* p, Floats integers) {
    const __m256i words = _mm256_permute4x64_epi64(  // the instruction packs each half for itself
        _mm256_packs_epi32(_mm256_cvtps_epi32(integers.lo), _mm256_cvtps_epi32(integers.hi)), 0xD8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
static inline uint32_t largest_magnitude(Floats a, Floats b) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    const __m256i first = _mm256_max_epi32(_mm256_castps_si256(_mm256_and_ps(a.lo, magnitude)),
                                           _mm256_castps_si256(_mm256_and_ps(a.hi, magnitude)));
    const __m256i second = _mm256_max_epi32(_mm256_castps_si256(_mm256_and_ps(b.lo, magnitude)),
                                            _mm256_castps_si256(_mm256_and_ps(b.hi, magnitude)));
    return largest_of_eight(_mm256_max_epi32(first, second));
}

static inline Bytes load_bytes(const void* p) { return {load_256(p), load_256(static_cast<const char*>(p) + 32)}; }
static inline Bytes load_halves(const uint8_t* p, const uint8_t* q) { return {load_256(p), load_256(q)}; }

static inline __m256i low_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
static inline Bytes low_nibbles(Bytes v) { return {low_nibbles(v.lo), low_nibbles(v.hi)}; }
static inline Bytes high_nibbles(Bytes v) {
    return low_nibbles(Bytes{_mm256_srli_epi16(v.lo, 4), _mm256_srli_epi16(v.hi, 4)});
}
static inline Bytes nibbles_of_32(const uint8_t* p) {
    const __m256i both = load_256(p);
    return low_nibbles(Bytes{both, _mm256_srli_epi16(both, 4)});
}
static inline Bytes nibbles_in_place(const uint8_t* p) {
    const __m256i both = load_256(p);
    return {low_nibbles(both), _mm256_andnot_si256(_mm256_set1_epi8(15), both)};
}
static inline __m256i nibbles_of_16(const uint8_t* p) {
    const __m128i both = load_128(p);
    return low_nibbles(_mm256_inserti128_si256(_mm256_castsi128_si256(both), _mm_srli_epi16(both, 4), 1));
}
static inline Bytes nibbles_of_16(const uint8_t* p, const uint8_t* q) { return {nibbles_of_16(p), nibbles_of_16(q)}; }

static inline Bytes look_up(Bytes nibbles, const int8_t* table) {
    const __m256i values = _mm256_broadcastsi128_si256(load_128(table));
    return {_mm256_shuffle_epi8(values, nibbles.lo), _mm256_shuffle_epi8(values, nibbles.hi)};
}

using Extra = __m256i;
static inline Extra load_extra(const uint8_t* p) { return load_256(p); }
template <int MASK, int MOVE>
static inline __m256i join(__m256i nibbles, __m256i extra) {
    constexpr int LEFT = MOVE > 0 ? MOVE : 0, RIGHT = MOVE < 0 ? -MOVE : 0;
    const __m256i moved = MOVE >= 0 ? _mm256_slli_epi16(extra, LEFT) : _mm256_srli_epi16(extra, RIGHT);
    return _mm256_or_si256(nibbles, _mm256_and_si256(moved, _mm256_set1_epi8(MASK)));
}
template <int MASK, int FIRST, int SECOND>
static inline Bytes join(Bytes nibbles, Extra extra) {
    return {join<MASK, FIRST>(nibbles.lo, extra), join<MASK, SECOND>(nibbles.hi, extra)};
}
// Byte i gets bit i: the byte that has it is copied to it, and the bit left alone.
static inline __m256i join_fifths(__m256i nibbles, uint32_t fifths) {
    const __m256i from = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(fifths)), from);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    return _mm256_or_si256(nibbles, _mm256_and_si256(set, _mm256_set1_epi8(16)));
}
static inline Bytes join_fifths(Bytes nibbles, uint32_t first, uint32_t second) {
    return {join_fifths(nibbles.lo, first), join_fifths(nibbles.hi, second)};
}

static inline Floats unsigned_floats(__m128i bytes) {
    return to_floats(Ints{_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))});
}
static inline Floats signed_floats(__m128i bytes) {
    return to_floats(Ints{_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))});
}
static inline Floats eight_of_each(__m128 two) {
    return {_mm256_broadcastss_ps(two), _mm256_broadcastss_ps(_mm_movehdup_ps(two))};
}
static inline Floats by_turns(__m128 three) {
    const __m256 first = _mm256_castpd_ps(_mm256_broadcastsd_pd(_mm_castps_pd(three)));
    return {first, _mm256_broadcastss_ps(_mm_movehl_ps(three, three))};
}
static inline Floats all_of(__m128 one) { return {_mm256_broadcastss_ps(one), _mm256_broadcastss_ps(one)}; }
static inline Floats load_eight(const float* p) { return {_mm256_loadu_ps(p), _mm256_setzero_ps()}; }
static inline Floats eight_halves(__m128i halves) { return {_mm256_cvtph_ps(halves), _mm256_setzero_ps()}; }
static inline Floats twice(__m256 eight) {
    return {_mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
            _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}
static inline Floats first_twice(Floats v) { return twice(v.lo); }
static inline Floats last_twice(Floats v) { return twice(v.hi); }

template <int K>
static inline Floats four_times(Floats v) {
    const __m256 eight = K < 2 ? v.lo : v.hi;
    constexpr int A = 4 * (K & 1), B = A + 1, C = A + 2, D = A + 3;
    return {_mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(A, A, A, A, B, B, B, B)),
            _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(C, C, C, C, D, D, D, D))};
}

template <int K>
static inline Floats eight_times(Floats v) {
    return {_mm256_permutevar8x32_ps(v.lo, _mm256_set1_epi32(2 * K)),
            _mm256_permutevar8x32_ps(v.lo, _mm256_set1_epi32(2 * K + 1))};
}

static inline Floats load_f16(const uint8_t* p) {
    return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 16))};
}
static inline __m256 eight_bf16(const uint8_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
}
static inline Floats load_bf16(const uint8_t* p) { return {eight_bf16(p), eight_bf16(p + 16)}; }

struct Parted {
    Floats first, second;
};
static inline __m256 every_other(const float* p, bool odd) {
    const __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8);
    const __m256 mixed = odd ? _mm256_shuffle_ps(a, b, 0xDD) : _mm256_shuffle_ps(a, b, 0x88);
    return _mm256_castsi256_ps(_mm256_permute4x64_epi64(_mm256_castps_si256(mixed), 0xD8));
}
static inline Parted part(const float* p) {
    return {{every_other(p, false), every_other(p + 16, false)}, {every_other(p, true), every_other(p + 16, true)}};
}
static inline __m256 look_up_float(__m256i codes, __m256 low, __m256 high) {  // bits 0..2 and then bit 3
    const __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes), fourth);
}
static inline Parted part_values(const uint8_t* p, const float* table) {
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    const __m128i bytes = load_128(p);
    const __m256i a = _mm256_cvtepu8_epi32(bytes), b = _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8));
    return {{look_up_float(_mm256_srli_epi32(a, 4), low, high), look_up_float(_mm256_srli_epi32(b, 4), low, high)},
            {look_up_float(a, low, high), look_up_float(b, low, high)}};
}
