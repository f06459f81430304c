// Attention of one head to expanded keys and values, for some tokens at once: a lane is a query.

constexpr int VECTORS = PANEL_COLS / WIDTH;

static void expand_positions(const ExpandCall& c) {
    const int64_t panels = (c.cols + PANEL_COLS - 1) / PANEL_COLS;
    for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t left = c.cols - panel * PANEL_COLS;
        const int vectors = left < PANEL_COLS ? static_cast<int>((left + WIDTH - 1) / WIDTH) : VECTORS;
        multiply_panel({c.latents, c.latent_step, 1}, c.panels + panel * c.latent * PANEL_COLS, c.latent,
                       c.out + panel * PANEL_COLS, panels * PANEL_COLS, c.positions, vectors, true);
    }
}

// Positions first.. of the scores, without their first vectors, whose queries come before them.
static inline void score_positions(const TileCall& c, int64_t first, int64_t positions, int vector) {
    float* scores = c.scores + first * PANEL_COLS + vector * WIDTH;
    const float* queries = c.queries + vector * WIDTH;
    multiply_panel({c.keys + first * c.key_step, c.key_step, 1}, queries, c.key_width, scores, PANEL_COLS, positions,
                   c.vectors - vector, true);
    multiply_panel({c.rotated + first * c.rotated_step, c.rotated_step, 1}, queries + c.key_width * PANEL_COLS,
                   c.rotated_width, scores, PANEL_COLS, positions, c.vectors - vector, false);
}

// Scores become weights. What a query took from earlier positions is scaled to its new largest score.
static inline void weigh_vector(const TileCall& c, int64_t positions, int vector) {
    float* scores = c.scores + vector * WIDTH;
    const V before = load(c.largest + vector * WIDTH);
    V largest = before;
    for (int64_t p = 0; p < positions; ++p) {
        const V score = load(scores + p * PANEL_COLS);
        largest = score > largest ? score : largest;
    }
    const V factor = exponential(before - largest);
    V total = load(c.total + vector * WIDTH) * factor;
    for (int64_t p = 0; p < positions; ++p) {
        const V weight = exponential(load(scores + p * PANEL_COLS) - largest);
        store(scores + p * PANEL_COLS, weight);
        total += weight;
    }
    store(c.largest + vector * WIDTH, largest);
    store(c.total + vector * WIDTH, total);
    for (int64_t d = 0; d < c.value_width; ++d) {
        float* out = c.out + d * PANEL_COLS + vector * WIDTH;
        store(out, load(out) * factor);
    }
}

// A part of the positions that the tile's queries do not all see.
constexpr int64_t EDGE = WIDTH;

static void attend_tile(const TileCall& c) {
    // Query q sees the first c.visible + q positions.
    const int64_t queries = c.vectors * WIDTH;
    const int64_t all_see = c.visible < 0 ? 0 : c.visible < c.positions ? c.visible : c.positions;
    const int64_t some_see = c.visible + queries - 1 < c.positions ? c.visible + queries - 1 : c.positions;
    score_positions(c, 0, all_see, 0);
    for (int64_t p = all_see; p < some_see; p += EDGE) {
        const int64_t count = some_see - p < EDGE ? some_see - p : EDGE;
        score_positions(c, p, count, static_cast<int>((p - c.visible + 1) / WIDTH));
        for (int64_t row = p; row < p + count; ++row) {
            const int64_t blind = row - c.visible + 1;
            for (int64_t q = 0; q < blind && q < queries; ++q) c.scores[row * PANEL_COLS + q] = -__builtin_inff();
        }
    }
    for (int vector = 0; vector < c.vectors; ++vector) weigh_vector(c, some_see, vector);
    multiply_panel({c.values, 1, c.value_step}, c.scores, all_see, c.out, PANEL_COLS, c.value_width, c.vectors, false);
    for (int64_t p = all_see; p < some_see; p += EDGE) {
        const int64_t count = some_see - p < EDGE ? some_see - p : EDGE;
        const int vector = static_cast<int>((p - c.visible + 1) / WIDTH);
        multiply_panel({c.values + p * c.value_step, 1, c.value_step}, c.scores + p * PANEL_COLS + vector * WIDTH, count,
                       c.out + vector * WIDTH, PANEL_COLS, c.value_width, c.vectors - vector, false);
    }
}
