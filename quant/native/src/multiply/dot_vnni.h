// Products of bytes by VNNI: four to a lane, the first factor unsigned.

constexpr bool FULL_BYTES = true;  // whether the first factor may be above 63

static inline Ints dot(Bytes weights, Bytes levels) {
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, levels);
}

// Weights with eight bits and a sign become unsigned by adding 128.
constexpr int SIGNED_OFFSET = 128;
static inline Bytes signed_weights(Bytes weights) { return _mm512_xor_si512(weights, all_bytes(128)); }
static inline Ints signed_dot(Bytes weights, Bytes levels) { return dot(weights, levels); }
