// Sixteen lanes in one AVX-512 register. To be included inside a namespace without linkage, after <immintrin.h>.

using F = __m512;     // sixteen float32
using I = __m512i;    // sixteen int32
using M = __mmask16;  // one yes or no a lane

static inline F load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }
static inline F set(float a) { return _mm512_set1_ps(a); }
static inline I set_int(int32_t a) { return _mm512_set1_epi32(a); }

static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
static inline M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }

static inline I bits(F a) { return _mm512_castps_si512(a); }
static inline F from_bits(I a) { return _mm512_castsi512_ps(a); }
static inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
static inline I both(I a, I b) { return _mm512_and_si512(a, b); }
static inline I either(I a, I b) { return _mm512_or_si512(a, b); }
static inline I add(I a, I b) { return _mm512_add_epi32(a, b); }
static inline I max(I a, I b) { return _mm512_max_epi32(a, b); }
template <int N>
static inline I shift_left(I a) { return _mm512_slli_epi32(a, N); }
template <int N>
static inline I shift_right(I a) { return _mm512_srli_epi32(a, N); }

// Sixteen bytes, each its own lane, and back from the low bytes of the lanes.
static inline I load_bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline void store_bytes(uint8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}

// Sixteen nibbles in eight bytes, the lower one of a byte first.
static inline I load_nibbles(const uint8_t* p) {
    int32_t words[2];
    __builtin_memcpy(words, p, sizeof words);
    I twice = _mm512_inserti64x4(_mm512_set1_epi32(words[0]), _mm256_set1_epi32(words[1]), 1);
    I shifts = _mm512_broadcast_i64x4(_mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    return both(_mm512_srlv_epi32(twice, shifts), set_int(15));
}

static inline void store_lanes(uint32_t* p, I a) { _mm512_storeu_si512(p, a); }
