// One token times rows of Q4_K, the type that most weights have and one that takes more instructions than bytes deserve.
//
// Four blocks at a time: their headers lie side by side in a register, and the activations are arranged so that no weight
// has to be moved far. Halves of 64 weights are interleaved by eights, low nibbles and high ones apart, which leaves two
// sums of products for a block, each with the lanes
//
//     sub-blocks 0 0 4 4   0 0 4 4   2 2 6 6   2 2 6 6      of the low nibbles, and of the high ones the next higher

constexpr int64_t FOUR_COLS = 4 * WIDE, FOUR_BYTES = 4 * Q4K::bytes;
constexpr int64_t MOST_ARRANGED_COLS = 20 * FOUR_COLS;

// The activations of a row, in one piece: spread over memory they would take each other's place in the nearest cache.
class ArrangedToken {
public:
    ArrangedToken(const Activations& x, int64_t cols) {
        const int64_t padded = (cols + FOUR_COLS - 1) / FOUR_COLS * FOUR_COLS;
        scales_ = reinterpret_cast<float*>(memory_ + padded);
        sums_ = scales_ + padded / 32;
        for (int64_t col = 0; col < cols; col += WIDE) arrange_levels(x.levels + col, memory_ + col);
        int64_t col = 0;
        for (; col + FOUR_COLS <= cols; col += FOUR_COLS) arrange_floats(x.scales + col / 32, x.sums + col / 16, col);
        if (col == cols) return;
        float scales[FOUR_COLS / 32] = {}, sums[FOUR_COLS / 16] = {};
        const size_t left = static_cast<size_t>(cols - col);
        __builtin_memcpy(scales, x.scales + col / 32, left / 32 * sizeof(float));
        __builtin_memcpy(sums, x.sums + col / 16, left / 16 * sizeof(float));
        arrange_floats(scales, sums, col);
    }

    const int8_t* levels(int64_t col) const { return memory_ + col; }
    const float* scales(int64_t col) const { return scales_ + col / 32; }  // of even sub-blocks, then of odd ones
    const float* sums(int64_t col) const { return sums_ + col / 32; }  // of each block's first four, then of its last four

private:
    static void arrange_levels(const int8_t* from, int8_t* to) {
        const Bytes a = load_bytes(from), b = load_bytes(from + 64), c = load_bytes(from + 128), d = load_bytes(from + 192);
        const Bytes even = _mm512_shuffle_i64x2(a, b, 0x44), even_after = _mm512_shuffle_i64x2(c, d, 0x44);
        const Bytes odd = _mm512_shuffle_i64x2(a, b, 0xEE), odd_after = _mm512_shuffle_i64x2(c, d, 0xEE);
        _mm512_store_si512(to, _mm512_unpacklo_epi64(even, even_after));
        _mm512_store_si512(to + 64, _mm512_unpackhi_epi64(even, even_after));
        _mm512_store_si512(to + 128, _mm512_unpacklo_epi64(odd, odd_after));
        _mm512_store_si512(to + 192, _mm512_unpackhi_epi64(odd, odd_after));
    }

    void arrange_floats(const float* scales, const float* sums, int64_t col) {
        const Parted even_and_odd = part(scales);
        _mm512_store_ps(scales_ + col / 32, even_and_odd.first);
        _mm512_store_ps(scales_ + col / 32 + 16, even_and_odd.second);
        const Parted halves = part(sums), more_halves = part(sums + 32);
        const Floats first = add(halves.first, halves.second), last = add(more_halves.first, more_halves.second);
        _mm512_store_ps(sums_ + col / 32, _mm512_shuffle_f32x4(first, last, 0x88));
        _mm512_store_ps(sums_ + col / 32 + 16, _mm512_shuffle_f32x4(first, last, 0xDD));
    }

    float *scales_, *sums_;
    alignas(64) int8_t memory_[MOST_ARRANGED_COLS + MOST_ARRANGED_COLS / 32 * 2 * sizeof(float)];
};

// What a row's products add up to so far.
struct RowSums {
    Floats low = zero(), high = zero();  // `high` sixteen times too large: its nibbles stay where they are
    Floats offsets = zero();

    float total() const { return sum(add(mul_add(high, all(0x1p-4f), low), offsets)); }
};

template <int COUNT>
static inline __m512i headers_of(const uint8_t* block) {
    __m512i headers = _mm512_zextsi128_si512(load_128(block));
    if (COUNT > 1) headers = _mm512_inserti32x4(headers, load_128(block + Q4K::bytes), 1);
    if (COUNT > 2) headers = _mm512_inserti32x4(headers, load_128(block + 2 * Q4K::bytes), 2);
    if (COUNT > 3) headers = _mm512_inserti32x4(headers, load_128(block + 3 * Q4K::bytes), 3);
    return headers;
}

// Scales times those of the activations, even sub-blocks and odd ones: 0 2 4 6 and 1 3 5 7 of each block in four lanes.
// Offsets are taken off at once.
static inline Parted factors_of(__m512i headers, const ArrangedToken& x, int64_t col, Floats& offsets) {
    const auto in_each = [](__m128i v) { return _mm512_broadcast_i32x4(v); };
    // As affine_bytes, with the scales' order changed.
    const __m512i low = _mm512_shuffle_epi8(
        headers, in_each(_mm_setr_epi8(4, 6, 12, 14, 5, 7, 13, 15, 8, 9, 10, 11, 12, 13, 14, 15)));
    const __m512i low_mask = in_each(_mm_setr_epi32(0x0F0F3F3F, 0x0F0F3F3F, 0x3F3F3F3F, 0x0F0F0F0F));
    const __m512i moved = _mm512_and_si512(_mm512_srlv_epi32(low, in_each(_mm_setr_epi32(0, 0, 0, 4))), low_mask);
    const __m512i high = _mm512_shuffle_epi8(
        headers, in_each(_mm_setr_epi8(-1, -1, 4, 6, -1, -1, 5, 7, -1, -1, -1, -1, 8, 9, 10, 11)));
    const __m512i bytes = _mm512_ternarylogic_epi32(moved, _mm512_srli_epi16(high, 2), all_bytes(0x30), 0xF8);
    const __m512i none = _mm512_setzero_si512();
    const __m512i scales = _mm512_unpacklo_epi8(bytes, none), minima = _mm512_unpackhi_epi8(bytes, none);

    const __m512i each_first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    const __m128i halves = _mm512_castsi512_si128(_mm512_permutexvar_epi32(each_first, headers));
    const Floats steps = _mm512_castps256_ps512(_mm256_cvtph_ps(halves));  // d and dmin of each block
    const __m512i d_of_block = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    const Floats d = _mm512_permutexvar_ps(d_of_block, steps);
    const Floats dmin = _mm512_permutexvar_ps(_mm512_or_si512(d_of_block, _mm512_set1_epi32(1)), steps);

    const Floats some = mul(to_floats(_mm512_unpacklo_epi16(minima, none)), load(x.sums(col)));
    const Floats minimal = mul_add(to_floats(_mm512_unpackhi_epi16(minima, none)), load(x.sums(col) + 16), some);
    offsets = mul_subtract_from(minimal, dmin, offsets);
    return {mul(mul(to_floats(_mm512_unpacklo_epi16(scales, none)), d), load(x.scales(col))),
            mul(mul(to_floats(_mm512_unpackhi_epi16(scales, none)), d), load(x.scales(col) + 16))};
}

// Block I of the four.
template <int I>
static inline void multiply_block(const uint8_t* block, const int8_t* levels, const Parted& factors, RowSums& sums) {
    constexpr int A = 4 * I, B = A + 1, C = A + 2, D = A + 3;
    const __m512i lanes = _mm512_setr_epi32(A, A, C, C, A, A, C, C, B, B, D, D, B, B, D, D);
    const Bytes first = load_bytes(block + I * Q4K::bytes + 16), second = load_bytes(block + I * Q4K::bytes + 80);
    const Bytes some = _mm512_unpacklo_epi64(first, second), rest = _mm512_unpackhi_epi64(first, second);
    const auto in_place = [](Bytes v) { return _mm512_andnot_si512(all_bytes(15), v); };
    const Ints low = _mm512_dpbusd_epi32(dot(low_nibbles(some), load_bytes(levels)), low_nibbles(rest),
                                         load_bytes(levels + 64));
    const Ints high = _mm512_dpbusd_epi32(dot(in_place(some), load_bytes(levels + 128)), in_place(rest),
                                          load_bytes(levels + 192));
    sums.low = mul_add(_mm512_permutexvar_ps(lanes, factors.first), to_floats(low), sums.low);
    sums.high = mul_add(_mm512_permutexvar_ps(lanes, factors.second), to_floats(high), sums.high);
}

template <int COUNT>
static inline void multiply_blocks(const uint8_t* block, const ArrangedToken& x, int64_t col, RowSums& sums) {
    ask_ahead<COUNT * Q4K::bytes - 63>(block);
    const Parted factors = factors_of(headers_of<COUNT>(block), x, col, sums.offsets);
    multiply_block<0>(block, x.levels(col), factors, sums);
    if (COUNT > 1) multiply_block<1>(block, x.levels(col + WIDE), factors, sums);
    if (COUNT > 2) multiply_block<2>(block, x.levels(col + 2 * WIDE), factors, sums);
    if (COUNT > 3) multiply_block<3>(block, x.levels(col + 3 * WIDE), factors, sums);
}

// REST: blocks of a row after the last four.
template <int REST>
static void multiply_one_token(const RowsCall& call) {
    const ArrangedToken x(call.x[0], call.cols);
    const int64_t fours = call.cols / FOUR_COLS * FOUR_COLS;
    const uint8_t* block = call.weights;
    for (int64_t row = 0; row < call.rows; ++row) {
        RowSums sums;
        for (int64_t col = 0; col < fours; col += FOUR_COLS, block += FOUR_BYTES) multiply_blocks<4>(block, x, col, sums);
        if (REST > 0) multiply_blocks<REST>(block, x, fours, sums);
        block += REST * Q4K::bytes;
        call.y[row] = sums.total();
    }
}

static void few_q4k(const RowsCall& call) {
    if (call.tokens != 1 || call.cols > MOST_ARRANGED_COLS) return few_levels<Q4K>(call);
    switch (call.cols % FOUR_COLS / WIDE) {
        case 1: return multiply_one_token<1>(call);
        case 2: return multiply_one_token<2>(call);
        case 3: return multiply_one_token<3>(call);
        default: return multiply_one_token<0>(call);
    }
}

template <>
constexpr auto few_of<Q4K>() {
    return &few_q4k;
}
