/* k2quant: block encoders, checkpoint decoders and products of rows in vector code. A plain C interface, made for ctypes.
 *
 * Every function takes the instruction set as its first argument and keeps no state: calls from any number of threads
 * are independent. In encoding and decoding all sets give the same bytes, on all processors. An instruction set that `k2quant_isa_works` denies
 * must not be used.
 */
#ifndef K2QUANT_H
#define K2QUANT_H

#include <stdint.h>

#if defined(__GNUC__)
#define K2QUANT_API __attribute__((visibility("default")))
#else
#define K2QUANT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define K2QUANT_INTERFACE 5 /* counted up with every change of a function below */
#define K2QUANT_ENCODING 1  /* counted up when an encoder gives other bytes than before */

enum k2quant_isa { K2QUANT_PORTABLE = 0, K2QUANT_AVX2 = 1, K2QUANT_AVX512 = 2, K2QUANT_AVX512VNNI = 3 };

/* Numbers of the block types in GGUF files, and one for NF4 (float32 factor, then 32 bytes of codes for 64 weights). */
enum k2quant_type {
    K2QUANT_NF4 = -1,
    K2QUANT_F32 = 0,
    K2QUANT_F16 = 1,
    K2QUANT_Q4_0 = 2,
    K2QUANT_Q5_0 = 6,
    K2QUANT_Q8_0 = 8,
    K2QUANT_Q4_K = 12,
    K2QUANT_Q5_K = 13,
    K2QUANT_Q6_K = 14,
    K2QUANT_IQ4_XS = 23,
    K2QUANT_BF16 = 30
};

enum k2quant_status {
    K2QUANT_OK = 0,
    K2QUANT_BAD_ARGUMENT = 1,
    K2QUANT_NOT_FINITE = 2, /* encode: a value is NaN, infinite or above 65504; decode: a result is NaN or infinite */
    K2QUANT_NO_MEMORY = 3
};

K2QUANT_API int k2quant_interface(void); /* K2QUANT_INTERFACE of the library, which may not be that of this header */
K2QUANT_API int k2quant_encoding(void);

/* 1 if this build has code for the instruction set and this machine, its operating system included, can run it. */
K2QUANT_API int k2quant_isa_works(int isa);

/* float32 [rows, cols] -> blocks, rows one after the other. cols is a multiple of 256. `importance` is NULL or float32
 * [cols], finite and not negative: the weight of each column's squared error. With NOT_FINITE the output is useless. */
K2QUANT_API int k2quant_encode(int isa, int type, const float* values, int64_t rows, int64_t cols, const float* importance,
                   uint8_t* blocks);

/* e4m3 codes [rows, cols] and factors [ceil(rows/128), ceil(cols/128)] -> float32 [rows, cols], always written. */
K2QUANT_API int k2quant_decode_fp8(int isa, const uint8_t* codes, const float* factors, int64_t rows, int64_t cols, float* values);

/* int32 words [rows, cols/8], eight nibbles each, lowest first, and scales [rows, cols/32] -> float32 [rows, cols],
 * (nibble - 8) * scale, always written. cols is a multiple of 32. */
K2QUANT_API int k2quant_decode_int4(int isa, const uint8_t* words, const float* scales, int64_t rows, int64_t cols, float* values);

/* 1 if the instruction set has kernels that multiply rows of the type. */
K2QUANT_API int k2quant_serves(int isa, int type);

/* x float32 [tokens, cols] times the transpose of weights [rows, cols] -> y float32 [tokens, rows], in the calling
 * thread: for tests and measurements. cols is a multiple of the type's block. `many` asks for the kernel for many tokens
 * where there is one. NaN and infinity, in weights or x, come through as NaN or infinity. */
K2QUANT_API int k2quant_multiply(int isa, int type, const uint8_t* weights, int64_t rows, int64_t cols, const float* x,
                                 int64_t tokens, int many, float* y);

/* Rows of a matrix [rows, cols] by number, `ids` [count] -> float32 [count, cols], in the calling thread. Numbers outside
 * of the matrix are refused before anything is read. All sets give the same bytes. */
K2QUANT_API int k2quant_decode_rows(int isa, int type, const uint8_t* weights, int64_t rows, int64_t cols,
                                    const int64_t* ids, int64_t count, float* values);

/* gate[i] = silu(gate[i]) * up[i], in the calling thread. */
K2QUANT_API int k2quant_gated(int isa, float* gate, const float* up, int64_t count);

/* Threads that the functions below share, the caller's included: they wait quietly, and end with the pool. `nodes` is in
 * how many parts of the machine the memory of weights lies (0: ask the system); `pin` 1 binds each thread but the
 * caller's to a core. One call at a time computes, others wait; no call may be under way when the pool is closed. */
K2QUANT_API int k2quant_pool_open(int isa, int threads, int nodes, int pin, void** pool);
K2QUANT_API int k2quant_pool_close(int isa, void* pool);
K2QUANT_API int k2quant_pool_threads(int isa, void* pool); /* returns their number */

/* As k2quant_multiply, by all threads. Results do not depend on how many there are. */
K2QUANT_API int k2quant_linear(int isa, void* pool, int type, const uint8_t* weights, int64_t rows, int64_t cols,
                               const float* x, int64_t tokens, float* y);

/* Each head by its own matrix: x of a token and head, float32 [cols], lies at token * token_stride + head * head_stride
 * floats; weights [heads, rows, cols] -> y float32 [tokens, heads, rows]. */
K2QUANT_API int k2quant_heads(int isa, void* pool, int type, const uint8_t* weights, int64_t heads, int64_t rows,
                              int64_t cols, const float* x, int64_t token_stride, int64_t head_stride, int64_t tokens,
                              float* y);

/* Three matrices: gate and up [ff, hidden], down [hidden, ff]. */
struct k2quant_expert {
    const uint8_t* gate;
    const uint8_t* up;
    const uint8_t* down;
    int64_t ff;
    int64_t hidden; /* that of the call */
    int32_t gate_type;
    int32_t up_type;
    int32_t down_type;
    int32_t elsewhere; /* 1 where `gate` is NULL and another device multiplies it */
};

/* y [tokens, hidden] = the sum over experts of scale * down(silu(gate x) * up x), in the experts' order; with `add` 1
 * it is added to what y holds. `expert_tokens` [count] says how many of `token_ids` (rows of x) and of `scales`, the
 * experts' lists one after the other, are each expert's. */
K2QUANT_API int k2quant_experts(int isa, void* pool, const float* x, int64_t tokens, int64_t hidden,
                                const struct k2quant_expert* experts, int64_t count, const int64_t* expert_tokens,
                                const int64_t* token_ids, const float* scales, float* y, int add);

/* Reads all bytes with all threads and sums them as 64-bit words: how fast this machine's memory is. */
K2QUANT_API int k2quant_read_roof(int isa, void* pool, const uint8_t* data, int64_t bytes, uint64_t* out);

#ifdef __cplusplus
}
#endif
#endif
