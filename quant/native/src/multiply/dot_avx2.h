// Products of bytes with AVX2: sums of two, in 16 bits, must stay below 32768.

constexpr bool FULL_BYTES = false;  // whether the first factor may be above 63

static inline __m256i dot(__m256i weights, __m256i levels) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(weights, levels), _mm256_set1_epi16(1));
}
static inline Ints dot(Bytes weights, Bytes levels) { return {dot(weights.lo, levels.lo), dot(weights.hi, levels.hi)}; }

// Weights with eight bits and a sign: their magnitudes times levels with their signs.
constexpr int SIGNED_OFFSET = 0;
static inline Bytes signed_weights(Bytes weights) { return weights; }
static inline __m256i signed_dot(__m256i weights, __m256i levels) {
    return dot(_mm256_abs_epi8(weights), _mm256_sign_epi8(levels, weights));
}
static inline Ints signed_dot(Bytes weights, Bytes levels) {
    return {signed_dot(weights.lo, levels.lo), signed_dot(weights.hi, levels.hi)};
}
