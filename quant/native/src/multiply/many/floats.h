// Types that are multiplied as float32.

constexpr int FLOAT_COLS = 256;  // of a block
constexpr int SUM_COLS = 16;     // columns whose products are summed by themselves first: long sums lose digits

struct alignas(64) FloatScratch {
    float panel[FLOAT_COLS][PARTS][LANES];
    float tiles[BLOCK_TOKENS / TILE_TOKENS][TILE_TOKENS][FLOAT_COLS];
};

// Some columns' values of sixteen rows.
static inline void unpack_values(F32, const Rows& rows, int64_t col, int cols, FloatScratch& s, int part) {
    int i = 0;
    for (; i + 8 <= cols; i += 8) {
        Words w[8];
        transpose_32_bytes(rows, 4 * (col + i), w);
        for (int j = 0; j < 8; ++j) store_reals(s.panel[i + j][part], real_bits(w[j]));
    }
    for (; i < cols; ++i) store_reals(s.panel[i][part], real_bits(words_of(rows, 4 * (col + i))));
}

static inline Reals value_of(F16, Words halves) { return real_of_halves(halves); }
static inline Reals value_of(BF16, Words halves) { return real_bits(left(halves, 16)); }

template <class Type>
static inline void unpack_values(Type, const Rows& rows, int64_t col, int cols, FloatScratch& s, int part) {
    int i = 0;
    for (; i + 16 <= cols; i += 16) {
        Words w[8];
        transpose_32_bytes(rows, 2 * (col + i), w);
        for (int j = 0; j < 8; ++j) {
            store_reals(s.panel[i + 2 * j][part], value_of(Type(), both(w[j], same_word(0xFFFF))));
            store_reals(s.panel[i + 2 * j + 1][part], value_of(Type(), right(w[j], 16)));
        }
    }
    for (; i < cols; ++i) {
        store_reals(s.panel[i][part], value_of(Type(), halves_at(rows, 2 * (col + i))));
    }
}

static inline void unpack_values(NF4, const Rows& rows, int64_t col, int cols, FloatScratch& s, int part) {
    int64_t offset = col / NF4::weights * NF4::bytes;
    const Words code = same_word(15);
    for (int i = 0; i < cols; i += NF4::weights, offset += NF4::bytes) {
        const Reals factor = real_bits(words_of(rows, offset));
        Words w[8];
        transpose_32_bytes(rows, offset + 4, w);
        for (int j = 0; j < NF4::weights; ++j) {  // the high nibble of a byte comes first
            const Words codes = both(right(w[j / 8], 8 * (j % 8 / 2) + (j % 2 ? 0 : 4)), code);
            store_reals(s.panel[i + j][part], mul(table_reals(NF4_VALUES, codes), factor));
        }
    }
}

template <int COUNT, int TOKENS>
static void multiply_floats(const FloatScratch& s, int64_t tile, int cols, const TileOut& out) {
    expect_results<COUNT, TOKENS>(out);
    Reals sums[TOKENS][COUNT];
    for (int t = 0; t < TOKENS; ++t) {
        for (int part = 0; part < COUNT; ++part) sums[t][part] = no_reals();
    }
    for (int col = 0; col < cols; col += SUM_COLS) {
        const int end = cols - col < SUM_COLS ? cols : col + SUM_COLS;
        Reals products[TOKENS][COUNT];
        for (int t = 0; t < TOKENS; ++t) {
            for (int part = 0; part < COUNT; ++part) products[t][part] = no_reals();
        }
#pragma GCC unroll 4
        for (int i = col; i < end; ++i) {
            for (int t = 0; t < TOKENS; ++t) {
                const Reals x = same_real(s.tiles[tile][t][i]);
                for (int part = 0; part < COUNT; ++part) {
                    products[t][part] = fma(reals_at(s.panel[i][part]), x, products[t][part]);
                }
            }
        }
        for (int t = 0; t < TOKENS; ++t) {
            for (int part = 0; part < COUNT; ++part) sums[t][part] = add(sums[t][part], products[t][part]);
        }
    }
    put_results<COUNT, TOKENS>(out, sums);
}

template <class Type>
struct FloatKind {
    using Scratch = FloatScratch;
    static constexpr int BLOCK_COLS = FLOAT_COLS;
    static constexpr int TILE = TILE_TOKENS;

    static int64_t bytes(int64_t cols) { return cols / Type::weights * Type::bytes; }  // that so many columns take

    static void pack(const Activations& x, int64_t col, int cols, Scratch& s, int64_t tile, int t) {
        __builtin_memcpy(s.tiles[tile][t], x.values + col, static_cast<size_t>(cols) * sizeof(float));
    }
    static void unpack(const Rows& rows, int64_t col, int cols, Scratch& s, int part) {
        unpack_values(Type(), rows, col, cols, s, part);
    }
    template <int COUNT, int TOKENS>
    static void multiply(const Scratch& s, int64_t tile, int cols, const TileOut& out) {
        multiply_floats<COUNT, TOKENS>(s, tile, cols, out);
    }
};
