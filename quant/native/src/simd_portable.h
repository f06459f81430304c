// Sixteen lanes in four vectors of the compiler's own kind, which become SSE2, NEON or plain code. To be included
// inside a namespace without linkage.

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

struct F {  // sixteen float32
    Float4 a, b, c, d;
};
struct I {  // sixteen int32
    Int4 a, b, c, d;
};
using M = I;  // all bits of a lane set, or none

static inline Float4 load4(const float* p) {
    Float4 value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
}
static inline F load(const float* p) { return {load4(p), load4(p + 4), load4(p + 8), load4(p + 12)}; }
static inline void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
static inline F set(float v) {
    Float4 four = {v, v, v, v};
    return {four, four, four, four};
}
static inline I set_int(int32_t v) {
    Int4 four = {v, v, v, v};
    return {four, four, four, four};
}

static inline F add(F x, F y) { return {x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d}; }
static inline F sub(F x, F y) { return {x.a - y.a, x.b - y.b, x.c - y.c, x.d - y.d}; }
static inline F mul(F x, F y) { return {x.a * y.a, x.b * y.b, x.c * y.c, x.d * y.d}; }
static inline F div(F x, F y) { return {x.a / y.a, x.b / y.b, x.c / y.c, x.d / y.d}; }
static inline M less(F x, F y) { return {x.a < y.a, x.b < y.b, x.c < y.c, x.d < y.d}; }
static inline Float4 select4(Int4 m, Float4 x, Float4 y) { return (Float4)((m & (Int4)x) | (~m & (Int4)y)); }
static inline F select(M m, F x, F y) {
    return {select4(m.a, x.a, y.a), select4(m.b, x.b, y.b), select4(m.c, x.c, y.c), select4(m.d, x.d, y.d)};
}
#if defined(__SSE2__)
static inline F min(F x, F y) {
    return {_mm_min_ps(x.a, y.a), _mm_min_ps(x.b, y.b), _mm_min_ps(x.c, y.c), _mm_min_ps(x.d, y.d)};
}
static inline F max(F x, F y) {
    return {_mm_max_ps(x.a, y.a), _mm_max_ps(x.b, y.b), _mm_max_ps(x.c, y.c), _mm_max_ps(x.d, y.d)};
}
#else
static inline F min(F x, F y) { return select(less(x, y), x, y); }
static inline F max(F x, F y) { return select(less(y, x), x, y); }
#endif

static inline I bits(F v) { return {(Int4)v.a, (Int4)v.b, (Int4)v.c, (Int4)v.d}; }
static inline F from_bits(I v) { return {(Float4)v.a, (Float4)v.b, (Float4)v.c, (Float4)v.d}; }
static inline Float4 to_float4(Int4 v) { return __builtin_convertvector(v, Float4); }
static inline F to_float(I v) { return {to_float4(v.a), to_float4(v.b), to_float4(v.c), to_float4(v.d)}; }
static inline I both(I x, I y) { return {x.a & y.a, x.b & y.b, x.c & y.c, x.d & y.d}; }
static inline I either(I x, I y) { return {x.a | y.a, x.b | y.b, x.c | y.c, x.d | y.d}; }
static inline I add(I x, I y) { return {x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d}; }
static inline Int4 max4(Int4 x, Int4 y) {
    Int4 m = x > y;
    return (m & x) | (~m & y);
}
static inline I max(I x, I y) { return {max4(x.a, y.a), max4(x.b, y.b), max4(x.c, y.c), max4(x.d, y.d)}; }
template <int N>
static inline I shift_left(I v) { return {v.a << N, v.b << N, v.c << N, v.d << N}; }
template <int N>
static inline Int4 shift_right4(Int4 v) {
    typedef uint32_t Unsigned4 __attribute__((vector_size(16)));
    return (Int4)((Unsigned4)v >> N);
}
template <int N>
static inline I shift_right(I v) {
    return {shift_right4<N>(v.a), shift_right4<N>(v.b), shift_right4<N>(v.c), shift_right4<N>(v.d)};
}

// Sixteen bytes, each its own lane, and back from the low bytes of the lanes.
static inline Int4 load_bytes4(const uint8_t* p) { return Int4{p[0], p[1], p[2], p[3]}; }
static inline I load_bytes(const uint8_t* p) {
    return {load_bytes4(p), load_bytes4(p + 4), load_bytes4(p + 8), load_bytes4(p + 12)};
}
static inline void store_bytes(uint8_t* p, I v) {
    int32_t lanes[16];
    __builtin_memcpy(lanes, &v, sizeof v);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(lanes[i]);
}

// Sixteen nibbles in eight bytes, the lower one of a byte first.
static inline Int4 load_nibbles4(const uint8_t* p) { return Int4{p[0] & 15, p[0] >> 4, p[1] & 15, p[1] >> 4}; }
static inline I load_nibbles(const uint8_t* p) {
    return {load_nibbles4(p), load_nibbles4(p + 2), load_nibbles4(p + 4), load_nibbles4(p + 6)};
}

static inline void store_lanes(uint32_t* p, I v) { __builtin_memcpy(p, &v, sizeof v); }
