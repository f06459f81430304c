// Sixteen rows of a matrix. Where fewer are left, the last one stands for those that are missing.

constexpr int LANES = 16;
constexpr int GROUP_COLS = 32;         // that are multiplied before their sum is scaled
constexpr int WORDS = GROUP_COLS / 4;  // four columns' levels stand in a word

struct Rows {
    const uint8_t* p[LANES];
};

static inline Rows rows_from(const RowsCall& call, int64_t first) {
    Rows rows;
    for (int i = 0; i < LANES; ++i) {
        const int64_t row = first + i < call.rows ? first + i : call.rows - 1;
        rows.p[i] = call.weights + row * call.row_bytes;
    }
    return rows;
}
