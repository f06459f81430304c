// Products of bytes without VNNI: sums of two, in 16 bits, must stay below 32768.

constexpr bool FULL_BYTES = false;  // whether the first factor may be above 63

static inline Ints dot(Bytes weights, Bytes levels) {
    return _mm512_madd_epi16(_mm512_maddubs_epi16(weights, levels), _mm512_set1_epi16(1));
}

// Weights with eight bits and a sign: their magnitudes times levels with their signs.
constexpr int SIGNED_OFFSET = 0;
static inline Bytes signed_weights(Bytes weights) { return weights; }
static inline Ints signed_dot(Bytes weights, Bytes levels) {
    const Bytes turned = _mm512_mask_sub_epi8(levels, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), levels);
    return dot(_mm512_abs_epi8(weights), turned);
}
