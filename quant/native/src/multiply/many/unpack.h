// One block of sixteen rows of each type -> the panel's groups, of which the rows are part `part`.

template <class Type>
struct FormOf {
    using type = Form<false, 1>;
};
template <>
struct FormOf<Q4K> {
    using type = Form<true, 1>;
};
template <>
struct FormOf<Q5K> {
    using type = Form<true, 1>;
};
template <>
struct FormOf<Q40> {
    using type = Form<!WITH_BIAS, 1>;  // as affine where those are the faster ones
};
template <>
struct FormOf<Q50> {
    using type = Form<!WITH_BIAS, 1>;
};
template <>
struct FormOf<Q6K> {
    using type = Form<false, 2>;
};

// 16 and 32 bits of each row.
static inline Words halves_at(const Rows& rows, int64_t offset) {
    alignas(64) uint32_t halves[LANES];
    for (int i = 0; i < LANES; ++i) halves[i] = load_u16(rows.p[i] + offset);
    return words_at(halves);
}
static inline Words words_of(const Rows& rows, int64_t offset) {
    alignas(64) uint32_t words[LANES];
    for (int i = 0; i < LANES; ++i) words[i] = load_u32(rows.p[i] + offset);
    return words_at(words);
}

static inline Words low_nibbles(Words w) { return both(w, same_word(0x0F0F0F0F)); }
static inline Words high_nibbles(Words w) { return low_nibbles(right(w, 4)); }

template <class Form>
static inline void put_levels(PanelGroup<Form>& group, int part, int word, Words levels) {
    store_words(group.levels[word][part], levels);
}

// What the products of group's levels begin with.
template <class Form>
static inline void put_bias(PanelGroup<Form>& group, int part) {
    if constexpr (WITH_BIAS && !Form::affine) {
        constexpr int COUNT = WORDS / Form::scales;
        for (int half = 0; half < Form::scales; ++half) {
            Words sum = no_words();
            for (int word = COUNT * half; word < COUNT * (half + 1); ++word) {
                sum = DotOf<Form::affine>::level_sum(sum, words_at(group.levels[word][part]));
            }
            store_words(group.bias[half][part], left(sub(no_words(), sum), 7));
        }
    }
}

// Scale and minimum of eight groups from the 16 bytes d, dmin and twelve bytes of scales (see unpack_scales).
template <class Form>
static inline void put_affine_scales(const Rows& rows, int64_t offset, PanelGroup<Form>* groups, int part) {
    Words w[4];
    transpose_16_bytes(rows, offset, w);
    const Reals d = real_of_halves(both(w[0], same_word(0xFFFF))), d_min = real_of_halves(right(w[0], 16));
    const Reals minus_d_min = mul(d_min, same_real(-1.0f));
    const Words six = same_word(63), four = same_word(15), two = same_word(0x30);
    for (int j = 0; j < 8; ++j) {
        const int shift = 8 * (j % 4);
        Words scale, minimum;
        if (j < 4) {
            scale = both(right(w[1], shift), six);
            minimum = both(right(w[2], shift), six);
        } else {
            scale = either(both(right(w[3], shift), four), both(right(w[1], shift + 2), two));
            minimum = either(both(right(w[3], shift + 4), four), both(right(w[2], shift + 2), two));
        }
        store_reals(groups[j].scales[0][part], mul(d, real_of(scale)));
        store_reals(groups[j].offsets[part], mul(minus_d_min, real_of(minimum)));
    }
}

template <class Form>
static inline void unpack_block(Q4K, const Rows& rows, int64_t offset, PanelGroup<Form>* groups, int part) {
    put_affine_scales(rows, offset, groups, part);
    for (int pair = 0; pair < 4; ++pair) {
        Words w[8];
        transpose_32_bytes(rows, offset + 16 + 32 * pair, w);
        for (int i = 0; i < 8; ++i) {
            put_levels(groups[2 * pair], part, i, low_nibbles(w[i]));
            put_levels(groups[2 * pair + 1], part, i, high_nibbles(w[i]));
        }
    }
}

template <class Form>
static inline void unpack_block(Q5K, const Rows& rows, int64_t offset, PanelGroup<Form>* groups, int part) {
    put_affine_scales(rows, offset, groups, part);
    Words fifths[8];
    transpose_32_bytes(rows, offset + 16, fifths);
    const Words bit = same_word(0x10101010);
    for (int pair = 0; pair < 4; ++pair) {
        Words w[8];
        transpose_32_bytes(rows, offset + 48 + 32 * pair, w);
        for (int i = 0; i < 8; ++i) {  // bits 2 * pair and the next of each byte come to place 4
            const Words five = pair < 2 ? left(fifths[i], 4 - 2 * pair) : right(fifths[i], 2 * pair - 4);
            const Words next = pair < 2 ? left(fifths[i], 3 - 2 * pair) : right(fifths[i], 2 * pair - 3);
            put_levels(groups[2 * pair], part, i, either(low_nibbles(w[i]), both(five, bit)));
            put_levels(groups[2 * pair + 1], part, i, either(high_nibbles(w[i]), both(next, bit)));
        }
    }
}

template <class Form>
static inline void unpack_block(Q6K, const Rows& rows, int64_t offset, PanelGroup<Form>* groups, int part) {
    Words scales[4];
    transpose_16_bytes(rows, offset + 192, scales);
    const Reals d = real_of_halves(halves_at(rows, offset + 208));
    for (int j = 0; j < 16; ++j) {
        const Words scale = right_signed(left(scales[j / 4], 24 - 8 * (j % 4)), 24);
        store_reals(groups[j / 2].scales[j % 2][part], mul(d, real_of(scale)));
    }
    const Words bits = same_word(0x30303030), middle = same_word(0x20202020);
    for (int half = 0; half < 2; ++half) {
        Words a[8], b[8], high[8];
        transpose_32_bytes(rows, offset + 64 * half, a);
        transpose_32_bytes(rows, offset + 64 * half + 32, b);
        transpose_32_bytes(rows, offset + 128 + 32 * half, high);
        PanelGroup<Form>* four = groups + 4 * half;
        for (int i = 0; i < 8; ++i) {
            const Words h = high[i];
            put_levels(four[0], part, i, sub_bytes(either(low_nibbles(a[i]), both(left(h, 4), bits)), middle));
            put_levels(four[1], part, i, sub_bytes(either(low_nibbles(b[i]), both(left(h, 2), bits)), middle));
            put_levels(four[2], part, i, sub_bytes(either(high_nibbles(a[i]), both(h, bits)), middle));
            put_levels(four[3], part, i, sub_bytes(either(high_nibbles(b[i]), both(right(h, 2), bits)), middle));
        }
    }
    for (int j = 0; j < 8; ++j) put_bias(groups[j], part);
}

template <class Form>
static inline void unpack_block(IQ4XS, const Rows& rows, int64_t offset, PanelGroup<Form>* groups, int part) {
    Words head[4];
    transpose_16_bytes(rows, offset, head);  // d and the scales' high bits, their low bits, and what is not used here
    const Reals d = real_of_halves(both(head[0], same_word(0xFFFF)));
    const Words low = same_word(15), high = same_word(0x30), middle = same_word(32);
    for (int j = 0; j < 8; ++j) {
        const int place = 16 + 2 * j;  // of the high bits, which come to place 4
        const Words scale = either(both(right(head[1], 4 * j), low), both(right(head[0], place - 4), high));
        store_reals(groups[j].scales[0][part], mul(d, real_of(sub(scale, middle))));
    }
    for (int pair = 0; pair < 4; ++pair) {
        Words w[8];
        transpose_32_bytes(rows, offset + 8 + 32 * pair, w);
        for (int i = 0; i < 8; ++i) {
            PanelGroup<Form>& group = groups[2 * pair + i / 4];
            put_levels(group, part, i % 4, table_bytes(IQ4_VALUES, low_nibbles(w[i])));
            put_levels(group, part, 4 + i % 4, table_bytes(IQ4_VALUES, high_nibbles(w[i])));
        }
    }
    for (int j = 0; j < 8; ++j) put_bias(groups[j], part);
}

template <class Form>
static inline void put_half_scale(const Rows& rows, int64_t offset, PanelGroup<Form>* group, int part) {
    store_reals(group->scales[0][part], real_of_halves(halves_at(rows, offset)));
}

template <class Form>
static inline void unpack_block(Q80, const Rows& rows, int64_t offset, PanelGroup<Form>* group, int part) {
    put_half_scale(rows, offset, group, part);
    Words w[8];
    transpose_32_bytes(rows, offset + 2, w);
    for (int i = 0; i < 8; ++i) put_levels(*group, part, i, w[i]);
    put_bias(*group, part);
}

// Levels of which `middle` stands for zero.
template <class Form>
static inline void put_centred(PanelGroup<Form>& group, int part, int word, Words levels, int middle) {
    put_levels(group, part, word, Form::affine ? levels : sub_bytes(levels, same_word(0x01010101 * middle)));
}
template <class Form>
static inline void finish_centred(PanelGroup<Form>& group, int part, int middle) {
    if constexpr (Form::affine) {
        const Reals minus_middle = same_real(static_cast<float>(-middle));
        store_reals(group.offsets[part], mul(reals_at(group.scales[0][part]), minus_middle));
    }
    put_bias(group, part);
}

template <class Form>
static inline void unpack_block(Q40, const Rows& rows, int64_t offset, PanelGroup<Form>* group, int part) {
    constexpr int MIDDLE = 8;
    put_half_scale(rows, offset, group, part);
    Words w[4];
    transpose_16_bytes(rows, offset + 2, w);
    for (int i = 0; i < 4; ++i) {
        put_centred(*group, part, i, low_nibbles(w[i]), MIDDLE);
        put_centred(*group, part, 4 + i, high_nibbles(w[i]), MIDDLE);
    }
    finish_centred(*group, part, MIDDLE);
}

// Bits 0..3 -> bit 4 of bytes 0..3.
static inline Words spread_bits(Words bits) {
    return left(both(times(both(bits, same_word(15)), same_word(0x204081)), same_word(0x01010101)), 4);
}

template <class Form>
static inline void unpack_block(Q50, const Rows& rows, int64_t offset, PanelGroup<Form>* group, int part) {
    put_half_scale(rows, offset, group, part);
    constexpr int MIDDLE = 16;
    const Words fifths = words_of(rows, offset + 2);
    Words w[4];
    transpose_16_bytes(rows, offset + 6, w);
    for (int i = 0; i < 4; ++i) {
        const Words low = spread_bits(right(fifths, 4 * i)), high = spread_bits(right(fifths, 16 + 4 * i));
        put_centred(*group, part, i, either(low_nibbles(w[i]), low), MIDDLE);
        put_centred(*group, part, 4 + i, either(high_nibbles(w[i]), high), MIDDLE);
    }
    finish_centred(*group, part, MIDDLE);
}
