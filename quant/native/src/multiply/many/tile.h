// Some rows times some tokens, for the columns of a block.

// Added to y, or with `first` put there. `last_rows` are those of the last part that exist.
struct TileOut {
    float* y;
    int64_t stride;
    int last_rows;
    bool first;
};

// Results are asked for while they are computed.
template <int COUNT, int TOKENS>
static inline void expect_results(const TileOut& out) {
    for (int t = 0; t < TOKENS; ++t) {
        for (int part = 0; part < COUNT; ++part) __builtin_prefetch(out.y + t * out.stride + LANES * part, 1);
    }
}

template <int COUNT, int TOKENS>
static inline void put_results(const TileOut& out, const Reals sums[TOKENS][COUNT]) {
    for (int t = 0; t < TOKENS; ++t) {
        for (int part = 0; part < COUNT; ++part) {
            float* y = out.y + t * out.stride + LANES * part;
            const int rows = part + 1 < COUNT ? LANES : out.last_rows;
            store_some_reals(y, out.first ? sums[t][part] : add(some_reals_at(y, rows), sums[t][part]), rows);
        }
    }
}

// Products of levels: of one half of a group, where it has two scales, or else of all of it.
template <class Form, int COUNT, int TOKENS>
static inline void multiply_words(const PanelGroup<Form>& group, const TokenLevels* tokens, int half,
                                  Words dots[TOKENS][COUNT]) {
    for (int t = 0; t < TOKENS; ++t) {
        for (int part = 0; part < COUNT; ++part) {
            dots[t][part] = WITH_BIAS && !Form::affine ? words_at(group.bias[half][part]) : no_words();
        }
    }
    using Dot = DotOf<Form::affine>;
    constexpr int HALF_WORDS = WORDS / Form::scales;
#pragma GCC unroll 8
    for (int word = HALF_WORDS * half; word < HALF_WORDS * (half + 1); word += Dot::STEP) {
        typename Dot::Levels levels[COUNT];
        for (int part = 0; part < COUNT; ++part) levels[part] = Dot::levels_at(group.levels[word][part]);
        for (int t = 0; t < TOKENS; ++t) {
            for (int part = 0; part < COUNT; ++part) {
                dots[t][part] = Dot::add(dots[t][part], levels[part], tokens[t] + word * Dot::TOKEN_WORD);
            }
        }
    }
}

// One group's products, added to the sums. Scales are applied one after the other: their product alone may be so small
// that it loses digits.
template <class Form, int COUNT, int TOKENS>
static inline void multiply_group(const PanelGroup<Form>& group, const TokenTile<Form>& tile, int g,
                                  Reals sums[TOKENS][COUNT]) {
    Words dots[TOKENS][COUNT];
    multiply_words<Form, COUNT, TOKENS>(group, tile.levels[g], 0, dots);
    if constexpr (Form::scales == 1) {
        for (int t = 0; t < TOKENS; ++t) {
            const Reals scale = same_real(tile.scales[t][g]), sum = same_real(tile.sums[t][g]);
            for (int part = 0; part < COUNT; ++part) {
                Reals& total = sums[t][part];
                total = fma(mul(real_of(dots[t][part]), reals_at(group.scales[0][part])), scale, total);
                if (Form::affine) total = fma(reals_at(group.offsets[part]), sum, total);
            }
        }
    } else {
        Reals scaled[TOKENS][COUNT];
        for (int t = 0; t < TOKENS; ++t) {
            for (int part = 0; part < COUNT; ++part) {
                scaled[t][part] = mul(real_of(dots[t][part]), reals_at(group.scales[0][part]));
            }
        }
        multiply_words<Form, COUNT, TOKENS>(group, tile.levels[g], 1, dots);
        for (int t = 0; t < TOKENS; ++t) {
            const Reals scale = same_real(tile.scales[t][g]);
            for (int part = 0; part < COUNT; ++part) {
                const Reals both_halves = fma(real_of(dots[t][part]), reals_at(group.scales[1][part]), scaled[t][part]);
                sums[t][part] = fma(both_halves, scale, sums[t][part]);
            }
        }
    }
}

template <class Form, int COUNT, int TOKENS>
static void multiply_levels(const PanelGroup<Form>* panel, const TokenTile<Form>& tile, int groups,
                            const TileOut& out) {
    expect_results<COUNT, TOKENS>(out);
    Reals sums[TOKENS][COUNT];
    for (int t = 0; t < TOKENS; ++t) {
        for (int part = 0; part < COUNT; ++part) sums[t][part] = no_reals();
    }
    for (int g = 0; g < groups; ++g) multiply_group<Form, COUNT, TOKENS>(panel[g], tile, g, sums);
    put_results<COUNT, TOKENS>(out, sums);
}

template <class Form>
struct LevelScratch {
    PanelGroup<Form> panel[GROUPS];
    TokenTile<Form> tiles[BLOCK_TOKENS / Form::tile_tokens];
};

template <class Type>
struct LevelKind {
    using FormOfType = typename FormOf<Type>::type;
    using Scratch = LevelScratch<FormOfType>;
    static constexpr int BLOCK_COLS = LEVEL_COLS;
    static constexpr int TILE = FormOfType::tile_tokens;

    static int64_t bytes(int64_t cols) { return cols / Type::weights * Type::bytes; }  // that so many columns take

    static void pack(const Activations& x, int64_t col, int cols, Scratch& s, int64_t tile, int t) {
        pack_token(x, col, cols / GROUP_COLS, s.tiles[tile], t);
    }
    static void unpack(const Rows& rows, int64_t col, int cols, Scratch& s, int part) {
        int64_t offset = col / Type::weights * Type::bytes;
        for (int g = 0; g < cols / GROUP_COLS; g += Type::weights / GROUP_COLS, offset += Type::bytes) {
            unpack_block(Type(), rows, offset, s.panel + g, part);
        }
    }
    template <int COUNT, int TOKENS>
    static void multiply(const Scratch& s, int64_t tile, int cols, const TileOut& out) {
        multiply_levels<FormOfType, COUNT, TOKENS>(s.panel, s.tiles[tile], cols / GROUP_COLS, out);
    }
};
