// Quantized rows and tokens as the tile kernel wants them, for the columns of a block.

constexpr int LEVEL_COLS = 1024;  // of a block
constexpr int GROUPS = LEVEL_COLS / GROUP_COLS;

// How a type's levels become weights: scale * level, and for affine types + offset. A group has one scale, or one for
// each half.
template <bool AFFINE, int SCALES>
struct Form {
    static constexpr bool affine = AFFINE;  // levels are not negative
    static constexpr int scales = SCALES;
    static constexpr int tile_tokens = SCALES == 1 ? TILE_TOKENS : HALVES_TILE_TOKENS;
};

// 32 columns of PARTS times sixteen rows.
template <class Form>
struct alignas(64) PanelGroup {
    uint8_t levels[WORDS][PARTS][4 * LANES];
    int32_t bias[Form::scales][PARTS][LANES];  // see dot_vnni.h
    float scales[Form::scales][PARTS][LANES];
    float offsets[PARTS][Form::affine ? LANES : 1];
};

using TokenLevels = uint8_t[GROUP_COLS * TOKEN_LEVEL_BYTES];  // of a group

template <class Form>
struct alignas(64) TokenTile {
    TokenLevels levels[GROUPS][Form::tile_tokens];
    float scales[Form::tile_tokens][GROUPS];
    float sums[Form::tile_tokens][GROUPS];
};

template <class Form>
static void pack_token(const Activations& x, int64_t col, int groups, TokenTile<Form>& tile, int t) {
    for (int g = 0; g < groups; ++g) {
        DotOf<Form::affine>::pack(x.levels + col + GROUP_COLS * g, tile.levels[g][t]);
        tile.scales[t][g] = x.scales[col / GROUP_COLS + g];
    }
    if (!Form::affine) return;
    const float* sums = x.sums + col / k2quant::SUM_GROUP;
    for (int g = 0; g < groups; ++g) tile.sums[t][g] = sums[2 * g] + sums[2 * g + 1];
}
