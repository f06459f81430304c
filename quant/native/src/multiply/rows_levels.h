// Products of quantized rows, written once on the lanes of lanes_*.h and dot_*.h.
//
// 256 weights become 256 bytes, unsigned and in their own order, with a scale and an offset for each 16:
// weight = scale * byte - offset. A lane of a product has four bytes, so scales are spread to four lanes each. Offsets are
// multiplied with the sum of the activations, sixteen at a time, and taken off at once: sums stay as small as results.

constexpr int WIDE = 256;  // weights that are unpacked at a time

struct Unpacked {
    Bytes weights[4];
    Floats scales;  // Form::GROUP 32: in the first eight lanes
    Floats offsets;
};

// GROUP: weights that share a scale. SIGNED: bytes are for signed_dot. OFFSETS: there are some.
template <int GROUP_, bool SIGNED_>
struct FormOf {
    static constexpr int GROUP = GROUP_;
    static constexpr bool SIGNED = SIGNED_, OFFSETS = !SIGNED_ || SIGNED_OFFSET != 0;
};
template <class Type> struct Form : FormOf<32, false> {};
template <> struct Form<Q6K> : FormOf<16, false> {};
template <> struct Form<IQ4XS> : FormOf<32, true> {};
template <> struct Form<Q80> : FormOf<32, true> {};

// Scales and offsets of a block, or of as many as make up 256 weights.
static inline void unpack_scales(Q4K, const uint8_t* block, Unpacked& u) {
    const __m128i header = load_128(block);
    const __m128 steps = _mm_cvtph_ps(header);  // d, dmin and no numbers
    Floats both;
    if (FULL_BYTES) {
        const __m128 sixteenth = _mm_setr_ps(1, 0x1p-4f, 1, 1);  // odd scales are for high nibbles
        both = by_turns(_mm_mul_ps(_mm_shuffle_ps(steps, steps, 0x50), sixteenth));
    } else {
        both = eight_of_each(steps);
    }
    u.scales = mul(unsigned_floats(affine_bytes(header)), both);
    u.offsets = last_twice(u.scales);
}

static inline void unpack_scales(Q5K, const uint8_t* block, Unpacked& u) {
    const __m128i header = load_128(block);
    u.scales = mul(unsigned_floats(affine_bytes(header)), eight_of_each(_mm_cvtph_ps(header)));
    u.offsets = last_twice(u.scales);
}

static inline void unpack_scales(Q6K, const uint8_t* block, Unpacked& u) {
    u.scales = mul(signed_floats(load_128(block + 192)), all_of(one_half(block + 208)));
    u.offsets = mul(u.scales, all(32));
}

static inline void unpack_scales(IQ4XS, const uint8_t* block, Unpacked& u) {
    const __m128i scales = _mm_sub_epi8(iq4_bytes(block + 2), _mm_set1_epi8(32));
    u.scales = mul(signed_floats(scales), all_of(one_half(block)));
    u.offsets = mul(first_twice(u.scales), all(SIGNED_OFFSET));
}

static inline void unpack_scales_apart(const uint8_t* block, int stride, float offset, Unpacked& u) {
    u.scales = eight_halves(eight_apart(block, stride));
    u.offsets = mul(first_twice(u.scales), all(offset));
}
static inline void unpack_scales(Q80, const uint8_t* block, Unpacked& u) { unpack_scales_apart(block, 34, SIGNED_OFFSET, u); }
static inline void unpack_scales(Q40, const uint8_t* block, Unpacked& u) { unpack_scales_apart(block, 18, 8, u); }
static inline void unpack_scales(Q50, const uint8_t* block, Unpacked& u) { unpack_scales_apart(block, 22, 16, u); }

static inline void unpack_weights(Q4K, const uint8_t* block, Unpacked& u) {
    for (int j = 0; j < 4; ++j) {
        const uint8_t* both = block + 16 + 32 * j;
        u.weights[j] = FULL_BYTES ? nibbles_in_place(both) : nibbles_of_32(both);
    }
}

static inline void unpack_weights(Q5K, const uint8_t* block, Unpacked& u) {
    const Extra fifths = load_extra(block + 16);
    u.weights[0] = join<16, 4, 3>(nibbles_of_32(block + 48), fifths);
    u.weights[1] = join<16, 2, 1>(nibbles_of_32(block + 80), fifths);
    u.weights[2] = join<16, 0, -1>(nibbles_of_32(block + 112), fifths);
    u.weights[3] = join<16, -2, -3>(nibbles_of_32(block + 144), fifths);
}

static inline void unpack_weights(Q6K, const uint8_t* block, Unpacked& u) {
    for (int half = 0; half < 2; ++half) {
        const Bytes nibbles = load_bytes(block + 64 * half);
        const Extra extra = load_extra(block + 128 + 32 * half);
        u.weights[2 * half] = join<0x30, 4, 2>(low_nibbles(nibbles), extra);
        u.weights[2 * half + 1] = join<0x30, 0, -2>(high_nibbles(nibbles), extra);
    }
}

static inline void unpack_weights(IQ4XS, const uint8_t* block, Unpacked& u) {
    for (int j = 0; j < 4; ++j) {
        const uint8_t* codes = block + 8 + 32 * j;
        u.weights[j] = signed_weights(look_up(nibbles_of_16(codes, codes + 16), IQ4_VALUES));
    }
}

static inline void unpack_weights(Q80, const uint8_t* block, Unpacked& u) {
    for (int j = 0; j < 4; ++j) u.weights[j] = signed_weights(load_halves(block + 68 * j + 2, block + 68 * j + 36));
}

static inline void unpack_weights(Q40, const uint8_t* block, Unpacked& u) {
    for (int j = 0; j < 4; ++j) u.weights[j] = nibbles_of_16(block + 36 * j + 2, block + 36 * j + 20);
}

static inline void unpack_weights(Q50, const uint8_t* block, Unpacked& u) {
    for (int j = 0; j < 4; ++j) {
        const uint8_t *first = block + 44 * j, *second = first + 22;
        u.weights[j] = join_fifths(nibbles_of_16(first + 6, second + 6), load_u32(first + 2), load_u32(second + 2));
    }
}

template <class Type>
static inline void unpack(const uint8_t* block, Unpacked& u) {
    unpack_scales(Type(), block, u);
    unpack_weights(Type(), block, u);
}

template <class Type, int K>
static inline Floats scaled_dot(const Unpacked& u, const int8_t* levels, Floats factors, Floats total) {
    const Bytes x = load_bytes(levels + 64 * K);
    const Ints products = Form<Type>::SIGNED ? signed_dot(u.weights[K], x) : dot(u.weights[K], x);
    const Floats spread = Form<Type>::GROUP == 16 ? four_times<K>(factors) : eight_times<K>(factors);
    return mul_add(spread, to_floats(products), total);
}

// Adds the products of 256 weights and activations to CHAINS sums, which do not wait for each other.
template <class Type, int CHAINS>
static inline void multiply_wide(const Unpacked& u, const Activations& x, int64_t col, Floats (&products)[CHAINS]) {
    const Floats scales = load_eight(x.scales + col / 32);
    const Floats factors = mul(u.scales, Form<Type>::GROUP == 16 ? first_twice(scales) : scales);
    const int8_t* levels = x.levels + col;
    products[0] = scaled_dot<Type, 0>(u, levels, factors, products[0]);
    products[1 % CHAINS] = scaled_dot<Type, 1>(u, levels, factors, products[1 % CHAINS]);
    products[2 % CHAINS] = scaled_dot<Type, 2>(u, levels, factors, products[2 % CHAINS]);
    products[3 % CHAINS] = scaled_dot<Type, 3>(u, levels, factors, products[3 % CHAINS]);
    if (Form<Type>::OFFSETS) products[0] = mul_subtract_from(u.offsets, load(x.sums + col / 16), products[0]);
}

// The columns after the last 256, filled up with zeros.
struct Rest {
    int8_t levels[MOST_TOKENS][WIDE];
    float scales[MOST_TOKENS][WIDE / 32];
    float sums[MOST_TOKENS][WIDE / 16];
    Activations x[MOST_TOKENS];
};

static inline void fill_rest(const RowsCall& call, int64_t start, Rest& rest) {
    __builtin_memset(&rest, 0, sizeof rest);
    const size_t count = static_cast<size_t>(call.cols - start);
    for (int64_t t = 0; t < call.tokens; ++t) {
        const Activations& x = call.x[t];
        __builtin_memcpy(rest.levels[t], x.levels + start, count);
        __builtin_memcpy(rest.scales[t], x.scales + start / 32, count / 32 * sizeof(float));
        __builtin_memcpy(rest.sums[t], x.sums + start / 16, count / 16 * sizeof(float));
        rest.x[t] = {nullptr, rest.levels[t], rest.scales[t], rest.sums[t]};
    }
}

constexpr int64_t FAR_BYTES = 8192, NEAR_BYTES = 1024;

// Asks for the weights that are further on, to be brought into the second cache, and from there in time into the nearest:
// the processor, which reads ahead by itself too, does not do it early enough. So far ahead in the nearest cache they would
// take the activations' place.
template <int BYTES>
static inline void ask_ahead(const uint8_t* block) {
    for (int line = 0; line < BYTES + 63; line += 64) {
        __builtin_prefetch(block + FAR_BYTES + line, 0, 2);
        __builtin_prefetch(block + NEAR_BYTES + line, 0, 3);
    }
}

// A row times T tokens from `first` on.
//
// One row at a time: two or four would load the activations once for all, but memory is read half as fast from several
// places at once as from one. From one place the processor reads ahead by itself.
template <class Type, int T>
static inline void multiply_row(const RowsCall& call, int64_t row, int64_t first, const Rest& rest) {
    constexpr int BYTES = WIDE / Type::weights * Type::bytes, CHAINS = T == 1 ? 4 : T == 2 ? 2 : 1;
    const int64_t wide_cols = call.cols / WIDE * WIDE;
    const uint8_t* block = call.weights + row * call.row_bytes;
    const Activations* x = call.x + first;
    Floats sums[T][CHAINS];
    for (int t = 0; t < T; ++t) {
        for (int k = 0; k < CHAINS; ++k) sums[t][k] = zero();
    }
    // Scales are unpacked a block ahead: it takes a long chain of instructions, for which the products would wait.
    Unpacked next;
    if (wide_cols > 0) unpack_scales(Type(), block, next);
    for (int64_t col = 0; col < wide_cols; col += WIDE, block += BYTES) {
        ask_ahead<BYTES>(block);
        Unpacked u = next;
        unpack_scales(Type(), col + WIDE < wide_cols ? block + BYTES : block, next);
        unpack_weights(Type(), block, u);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) multiply_wide<Type>(u, x[t], col, sums[t]);
    }
    if (Type::weights < WIDE && wide_cols < call.cols) {
        uint8_t copy[BYTES] = {};
        __builtin_memcpy(copy, block, static_cast<size_t>((call.cols - wide_cols) / Type::weights * Type::bytes));
        Unpacked u;
        unpack<Type>(copy, u);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) multiply_wide<Type>(u, rest.x[first + t], 0, sums[t]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
        Floats total = sums[t][0];
        for (int k = 1; k < CHAINS; ++k) total = add(total, sums[t][k]);
        call.y[(first + t) * call.y_stride + row] = sum(total);
    }
}
