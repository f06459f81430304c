// Norm and attention in the compiler's own vectors of sixteen floats. Compiled once for each instruction set, inside a
// namespace without linkage: nothing here may be shared with a file that was compiled for other instructions.

constexpr int64_t WIDTH = 16;
constexpr int64_t TILE = 4;  // queries, and positions or vectors, that are worked on together: 16 sums in registers

typedef float V __attribute__((vector_size(4 * WIDTH)));
typedef int32_t W __attribute__((vector_size(4 * WIDTH)));

static inline V load(const float* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
static inline V all(float a) { return a - V{}; }

static inline float sum(V v) {
    float lanes[WIDTH];
    store(lanes, v);
    for (int step = WIDTH / 2; step > 0; step /= 2) {
        for (int i = 0; i < step; ++i) lanes[i] += lanes[i + step];
    }
    return lanes[0];
}

// e^x for x <= 0, with a relative error of about 2^-22; below -87 it is 0, and NaN stays NaN. The polynomial is e^r on
// [-ln 2 / 2, ln 2 / 2] by its Taylor series, whose seventh term is below 2^-24 there.
static inline V exponential(V x) {
    const V magic = all(0x1.8p23f);
    V shifted = x * 1.44269504f + magic;
    V n = shifted - magic;
    V r = x - n * 0x1.62e4p-1f;  // ln 2 in two parts, the first with few bits, so that n times it is exact
    r = r - n * 0x1.7f7d1cp-20f;
    V p = all(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    W exponent = ((W)shifted - (W)magic) << 23;
    W result = (W)p + exponent;
    return (V)((result & ~(x < all(-87.0f))) | (x != x));
}

static void rms_norm(const float* x, const float* weight, int64_t count, float eps, float* out) {
    V squares = V{};
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH) squares += load(x + i) * load(x + i);
    float total = sum(squares);
    for (; i < count; ++i) total += x[i] * x[i];
    const float factor = 1.0f / __builtin_sqrtf(total / static_cast<float>(count) + eps);
    for (i = 0; i + WIDTH <= count; i += WIDTH) store(out + i, load(x + i) * factor * load(weight + i));
    for (; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

// scores[r][p] of R queries and P positions.
template <int R, int P>
static inline void score_tile(const ChunkCall& c, int64_t row, int64_t position) {
    const int64_t width = c.latent + c.rope;
    const float* cached = c.cache + position * width;
    V sums[R][P] = {};
    int64_t d = 0;
    for (; d + WIDTH <= width; d += WIDTH) {
        V k[P];
        for (int p = 0; p < P; ++p) k[p] = load(cached + p * width + d);
        for (int r = 0; r < R; ++r) {
            V q = load(c.queries[row + r] + d);
            for (int p = 0; p < P; ++p) sums[r][p] += q * k[p];
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int p = 0; p < P; ++p) {
            float score = sum(sums[r][p]);
            for (int64_t rest = d; rest < width; ++rest) score += c.queries[row + r][rest] * cached[p * width + rest];
            c.scores[(row + r) * CHUNK_POSITIONS + position + p] = score * c.scale;
        }
    }
}

template <int R>
static void score_rows(const ChunkCall& c, int64_t row) {
    int64_t position = 0;
    for (; position + TILE <= c.positions; position += TILE) score_tile<R, TILE>(c, row, position);
    for (; position < c.positions; ++position) score_tile<R, 1>(c, row, position);
}

// Scores become weights: exp(score - largest), 0 for what the query may not see.
static void weigh(const ChunkCall& c, int64_t row) {
    float* scores = c.scores + row * CHUNK_POSITIONS;
    const int64_t visible = c.visible[row];
    float largest = -__builtin_inff();
    for (int64_t p = 0; p < visible; ++p) largest = scores[p] > largest ? scores[p] : largest;
    c.largest[row] = largest;
    for (int64_t p = visible; p < CHUNK_POSITIONS; ++p) scores[p] = -__builtin_inff();
    V total = V{};
    if (visible > 0) {
        for (int64_t p = 0; p < CHUNK_POSITIONS; p += WIDTH) {
            V weight = exponential(load(scores + p) - largest);
            store(scores + p, weight);
            total += weight;
        }
    } else {
        for (int64_t p = 0; p < CHUNK_POSITIONS; ++p) scores[p] = 0;
    }
    c.total[row] = sum(total);
}

// out[r][d .. d + 16 * N] = sum over positions of weight * latent.
template <int R, int N>
static inline void value_tile(const ChunkCall& c, int64_t row, int64_t d) {
    const int64_t width = c.latent + c.rope;
    V sums[R][N] = {};
    for (int64_t p = 0; p < c.positions; ++p) {
        V values[N];
        for (int n = 0; n < N; ++n) values[n] = load(c.cache + p * width + d + n * WIDTH);
        for (int r = 0; r < R; ++r) {
            const float weight = c.scores[(row + r) * CHUNK_POSITIONS + p];
            for (int n = 0; n < N; ++n) sums[r][n] += weight * values[n];
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int n = 0; n < N; ++n) store(c.out[row + r] + d + n * WIDTH, sums[r][n]);
    }
}

template <int R>
static void value_rows(const ChunkCall& c, int64_t row) {
    const int64_t width = c.latent + c.rope;
    int64_t d = 0;
    for (; d + TILE * WIDTH <= c.latent; d += TILE * WIDTH) value_tile<R, TILE>(c, row, d);
    for (; d + WIDTH <= c.latent; d += WIDTH) value_tile<R, 1>(c, row, d);
    for (; d < c.latent; ++d) {
        for (int r = 0; r < R; ++r) {
            float total = 0;
            for (int64_t p = 0; p < c.positions; ++p) {
                total += c.scores[(row + r) * CHUNK_POSITIONS + p] * c.cache[p * width + d];
            }
            c.out[row + r][d] = total;
        }
    }
}

static void attend_chunk(const ChunkCall& c) {
    int64_t row = 0;
    for (; row + TILE <= c.rows; row += TILE) score_rows<TILE>(c, row);
    for (; row < c.rows; ++row) score_rows<1>(c, row);
    for (row = 0; row < c.rows; ++row) weigh(c, row);
    for (row = 0; row + TILE <= c.rows; row += TILE) value_rows<TILE>(c, row);
    for (; row < c.rows; ++row) value_rows<1>(c, row);
}

static void join_chunks(const JoinCall& c) {
    float largest = -__builtin_inff();
    for (int64_t i = 0; i < c.chunks; ++i) {
        const float found = c.largest[i * c.number_stride];
        largest = found > largest ? found : largest;
    }
    float total = 0;
    for (int64_t d = 0; d < c.latent; ++d) c.out[d] = 0;
    for (int64_t i = 0; i < c.chunks; ++i) {
        const float weight = exponential(all(c.largest[i * c.number_stride] - largest))[0];
        if (weight == 0) continue;
        total += weight * c.total[i * c.number_stride];
        const float* part = c.parts + i * c.stride;
        int64_t d = 0;
        for (; d + WIDTH <= c.latent; d += WIDTH) store(c.out + d, load(c.out + d) + weight * load(part + d));
        for (; d < c.latent; ++d) c.out[d] += weight * part[d];
    }
    const float factor = 1.0f / total;
    for (int64_t d = 0; d < c.latent; ++d) c.out[d] *= factor;
}
