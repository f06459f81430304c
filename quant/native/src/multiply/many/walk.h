// The way through a product with many tokens. Rows are unpacked for the columns of a block, then multiplied with every
// token of a block. What is unpacked and the tokens stay in the second-level cache meanwhile; fewer columns, for which
// the rows would fit into the first, were a little slower.
//
// A result is the sum of its products in an order that only the columns decide, not the other rows and tokens.
//
// `Kind` says how: Kind::Scratch, BLOCK_COLS, TILE (tokens), and the functions pack, unpack and multiply.

template <int N>
struct Count {
    static constexpr int value = N;
};

// Loops in kernels want a number of tokens that the compiler knows.
template <int MOST, class Work>
static inline void with_count(int tokens, const Work& work) {
    static_assert(MOST <= 6, "a case for each number of tokens");
    switch (tokens) {
        case 1: return work(Count<1>());
        case 2: return work(Count<MOST < 2 ? 1 : 2>());
        case 3: return work(Count<MOST < 3 ? 1 : 3>());
        case 4: return work(Count<MOST < 4 ? 1 : 4>());
        case 5: return work(Count<MOST < 5 ? 1 : 5>());
        default: return work(Count<MOST < 6 ? 1 : 6>());
    }
}

// Tokens first..first+tokens-1, spread evenly over tiles.
struct TokenBlock {
    int64_t first, tokens, tiles;

    int64_t start(int64_t tile) const { return tokens * tile / tiles; }
    int size(int64_t tile) const { return static_cast<int>(start(tile + 1) - start(tile)); }
};

// A tile's share of what will be unpacked next is asked for.
template <class Kind>
static inline void expect_rows(const RowsCall& call, int64_t row, int64_t col, int64_t tile, int64_t tiles) {
    if (row >= call.rows) {
        row = 0;
        col += Kind::BLOCK_COLS;
        if (col >= call.cols) return;
    }
    const int64_t left = call.rows - row, rows = left < LANES * PARTS ? left : LANES * PARTS;
    const int64_t start = Kind::bytes(col), end = Kind::bytes(col + Kind::BLOCK_COLS);
    const int64_t bytes = (end < call.row_bytes ? end : call.row_bytes) - start;
    for (int64_t i = rows * tile / tiles; i < rows * (tile + 1) / tiles; ++i) {
        const uint8_t* p = call.weights + (row + i) * call.row_bytes + start;
        for (int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(p + offset, 0, 2);
    }
}

template <class Kind>
static void multiply_block(const RowsCall& call, const TokenBlock& block, int64_t col, int cols,
                           typename Kind::Scratch& scratch) {
    for (int64_t row = 0; row < call.rows; row += LANES * PARTS) {
        const int64_t left = call.rows - row;
        const int parts = left < LANES * PARTS ? static_cast<int>((left + LANES - 1) / LANES) : PARTS;
        for (int part = 0; part < parts; ++part) {
            Kind::unpack(rows_from(call, row + LANES * part), col, cols, scratch, part);
        }
        const int last_rows = left < LANES * parts ? static_cast<int>(left - LANES * (parts - 1)) : LANES;
        for (int64_t tile = 0; tile < block.tiles; ++tile) {
            expect_rows<Kind>(call, row + LANES * PARTS, col, tile, block.tiles);
            float* y = call.y + (block.first + block.start(tile)) * call.y_stride + row;
            const TileOut out = {y, call.y_stride, last_rows, col == 0};
            with_count<Kind::TILE>(block.size(tile), [&](auto count) {
                if (parts == PARTS) Kind::template multiply<PARTS, count.value>(scratch, tile, cols, out);
                else Kind::template multiply<1, count.value>(scratch, tile, cols, out);
            });
        }
    }
}

template <class Kind>
static void multiply_many(const RowsCall& call, void* memory) {
    typename Kind::Scratch& scratch = *static_cast<typename Kind::Scratch*>(memory);
    for (int64_t token = 0; token < call.tokens; token += BLOCK_TOKENS) {
        const int64_t tokens = call.tokens - token < BLOCK_TOKENS ? call.tokens - token : BLOCK_TOKENS;
        const TokenBlock block = {token, tokens, (tokens + Kind::TILE - 1) / Kind::TILE};
        for (int64_t col = 0; col < call.cols; col += Kind::BLOCK_COLS) {
            const int64_t left = call.cols - col;
            const int cols = left < Kind::BLOCK_COLS ? static_cast<int>(left) : Kind::BLOCK_COLS;
            for (int64_t tile = 0; tile < block.tiles; ++tile) {
                const Activations* x = call.x + token + block.start(tile);
                for (int t = 0; t < block.size(tile); ++t) Kind::pack(x[t], col, cols, scratch, tile, t);
            }
            multiply_block<Kind>(call, block, col, cols, scratch);
        }
    }
}
