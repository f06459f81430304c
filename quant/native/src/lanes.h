// What both encoders need on top of the lanes.
//
// min and max return their second argument when the first is NaN; nearest() relies on it: NaN, which 0 * infinity gives
// in lanes whose values are all equal, becomes the lowest level there.

constexpr int LANES = 16;
constexpr int BLOCK = 256;               // weights of a super-block
constexpr float ROUND = 0x1.8p23f;       // adding and subtracting it rounds to an integer, ties to even
constexpr float ERROR_LIMIT = 3e38f;     // above every error
constexpr float CLEARLY = 1.0f + 1e-6f;  // fits that differ by less than rounding does shall not displace each other
constexpr float HALF_MAX = 65504.0f;     // above, no scale in half precision can follow
constexpr float TINY = 0x1p-26f;         // below, zero is nearer than the smallest step of a half-precision scale

// 256 zeros stand for the missing partner of the last super-block, 256 ones for its weights.
struct Padding {
    float zeros[BLOCK];
    float ones[BLOCK];
};

static inline F negative(F a) { return sub(set(0), a); }

static inline F clamp(F a, F lowest, F highest) { return min(max(a, lowest), highest); }

// The integer next to `position` between two bounds, which come with ROUND added to them.
static inline F nearest(F position, F rounded_lowest, F rounded_highest) {
    return sub(clamp(add(position, set(ROUND)), rounded_lowest, rounded_highest), set(ROUND));
}

static inline F nearest_between(F position, float lowest, float highest) {
    return nearest(position, set(ROUND + lowest), set(ROUND + highest));
}

static inline F one_over(F a) { return div(set(1), a); }

// 1/a, or 0 where a is not positive.
static inline F one_over_positive(F a) { return select(less(set(0), a), one_over(a), set(0)); }

static inline F magnitude(F a) { return from_bits(both(bits(a), set_int(0x7FFFFFFF))); }

// Levels are small integers: as float plus ROUND they stand in the lowest bits.
static inline void store_levels(uint8_t* p, F level) { store_bytes(p, bits(add(level, set(ROUND)))); }

// The largest of the lanes first..last-1; 0 if none is larger.
static inline float largest_lane(const float* lanes, int first, int last) {
    float largest = 0;
    for (int j = first; j < last; ++j) {
        if (lanes[j] > largest) largest = lanes[j];
    }
    return largest;
}

// In double, lane by lane: the same on every machine.
static inline double sum_lanes(const float* lanes, int first, int last) {
    double sum = 0;
    for (int j = first; j < last; ++j) sum += static_cast<double>(lanes[j]);
    return sum;
}

// What becomes of a super-block whose largest magnitude, as bits of a float, is `bits`.
enum class Size { tiny, fits, too_large };
static inline Size size_of(uint32_t bits) {
    if (bits > float_bits(HALF_MAX)) return Size::too_large;  // infinity and NaN are above every number
    return bits < float_bits(TINY) ? Size::tiny : Size::fits;
}

// Whether no lane reached infinity or NaN; `largest` has bits of magnitudes, which grow with the number.
static inline bool all_finite(I largest) {
    uint32_t lanes[LANES];
    store_lanes(lanes, largest);
    bool finite = true;
    for (int j = 0; j < LANES; ++j) finite = finite && lanes[j] < 0x7F800000u;
    return finite;
}
