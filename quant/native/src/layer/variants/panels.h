// Products of float32 matrices, as attention to many tokens has them: some rows of A times a panel of B, sixty-four
// columns side by side. TILE_ROWS times TILE_VECTORS sums stay in registers.

// Where A's values are: row r, step k at data + r * row_step + k * k_step.
struct Left {
    const float* data;
    int64_t row_step;
    int64_t k_step;
};

constexpr int64_t PANEL_STEPS = 64;  // of B at a time: they stay in the nearest cache while all rows pass

// One tile: c += a * b, or with `first` c = a * b.
template <int R, int N>
static inline void multiply_tile(const Left& a, const float* b, int64_t steps, float* c, int64_t c_step, bool first) {
    V sums[R][N] = {};
    for (int64_t k = 0; k < steps; ++k) {
        V columns[N];
        for (int n = 0; n < N; ++n) columns[n] = load(b + k * PANEL_COLS + n * WIDTH);
        for (int r = 0; r < R; ++r) {
            const float left = a.data[r * a.row_step + k * a.k_step];
            for (int n = 0; n < N; ++n) sums[r][n] += left * columns[n];
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int n = 0; n < N; ++n) {
            float* out = c + r * c_step + n * WIDTH;
            store(out, first ? sums[r][n] : load(out) + sums[r][n]);
        }
    }
}

template <int N>
static void multiply_columns(Left a, const float* b, int64_t steps, float* c, int64_t c_step, int64_t rows, bool first) {
    int64_t row = 0;
    for (; row + TILE_ROWS <= rows; row += TILE_ROWS) {
        multiply_tile<TILE_ROWS, N>(a, b, steps, c + row * c_step, c_step, first);
        a.data += TILE_ROWS * a.row_step;
    }
    for (; row < rows; ++row) {
        multiply_tile<1, N>(a, b, steps, c + row * c_step, c_step, first);
        a.data += a.row_step;
    }
}

// c [rows][c_step], its first `vectors` times sixteen columns, from a [rows, steps] and a panel [steps][PANEL_COLS]. The
// order of a sum depends on `steps` alone.
static void multiply_panel(Left a, const float* b, int64_t steps, float* c, int64_t c_step, int64_t rows, int vectors,
                           bool first) {
    for (int64_t k = 0; k < steps; k += PANEL_STEPS) {
        const int64_t count = steps - k < PANEL_STEPS ? steps - k : PANEL_STEPS;
        int vector = 0;
        for (; vector + TILE_VECTORS <= vectors; vector += TILE_VECTORS) {
            multiply_columns<TILE_VECTORS>(a, b + vector * WIDTH, count, c + vector * WIDTH, c_step, rows, first);
        }
        for (; vector < vectors; ++vector) {
            multiply_columns<1>(a, b + vector * WIDTH, count, c + vector * WIDTH, c_step, rows, first);
        }
        a.data += count * a.k_step;
        b += count * PANEL_COLS;
        first = false;
    }
}
