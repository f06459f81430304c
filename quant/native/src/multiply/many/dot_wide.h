// Products of levels without VNNI.

constexpr bool WITH_BIAS = false;
constexpr int TOKEN_LEVEL_BYTES = 2;  // at most

template <bool AFFINE>
struct DotOf;

// In 16 bits, a word's even bytes first and then its odd ones: sums of two products of bytes may need 17.
template <>
struct DotOf<false> {
    struct Levels {
        Words even, odd;
    };
    static constexpr int STEP = 1;        // words at a time
    static constexpr int TOKEN_WORD = 8;  // bytes

    static Levels levels_at(const uint8_t* p) {
        const Words bytes = words_at(p);
        return {even_bytes(bytes), odd_bytes(bytes)};
    }
    static Words add(Words sum, const Levels& levels, const uint8_t* token) {
        const Words even = same_word(static_cast<int32_t>(load_u32(token)));
        const Words odd = same_word(static_cast<int32_t>(load_u32(token + 4)));
        sum = in_this_order(many::add(sum, multiply_pairs(levels.even, even)));
        return in_this_order(many::add(sum, multiply_pairs(levels.odd, odd)));
    }
    static void pack(const int8_t* levels, uint8_t* packed) {  // of a group
        for (int i = 0; i < GROUP_COLS; ++i) {                 // columns 0, 2, 1, 3 of a word
            const int16_t level = levels[i];
            const int place = i / 4 * 4 + i % 4 / 2 + 2 * (i % 2);
            __builtin_memcpy(packed + 2 * place, &level, sizeof level);
        }
    }
};

// Affine levels are at most 31: eight products of bytes, 31 * 127 each, have their sum in 16 bits.
template <>
struct DotOf<true> {
    static constexpr int STEP = 4;
    static constexpr int TOKEN_WORD = 4;
    struct Levels {
        Words words[STEP];
    };

    static Levels levels_at(const uint8_t* p) {
        Levels levels;
        for (int i = 0; i < STEP; ++i) levels.words[i] = words_at(p + 4 * LANES * PARTS * i);
        return levels;
    }
    static Words add(Words sum, const Levels& levels, const uint8_t* token) {
        Words pairs = multiply_bytes(levels.words[0], same_word(static_cast<int32_t>(load_u32(token))));
        for (int i = 1; i < STEP; ++i) {
            const Words x = same_word(static_cast<int32_t>(load_u32(token + 4 * i)));
            pairs = in_this_order(add_halves(pairs, multiply_bytes(levels.words[i], x)));
        }
        return in_this_order(many::add(sum, multiply_pairs(pairs, same_word(0x00010001))));
    }
    static void pack(const int8_t* levels, uint8_t* packed) { __builtin_memcpy(packed, levels, GROUP_COLS); }
};
