/* k2quant, continued: the parts of a decoder layer around its experts. */
#ifndef K2QUANT_LAYER_H
#define K2QUANT_LAYER_H

#include "k2quant.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A weight matrix [rows, cols] in blocks, rows one after the other. */
struct k2quant_matrix {
    const uint8_t* data;
    int64_t rows;
    int64_t cols;
    int32_t type; /* k2quant_type */
    int32_t unused;
};

/* Latent attention of a layer. All floats are float32. */
struct k2quant_attention {
    int64_t hidden;
    int64_t heads;
    int64_t nope;   /* width of a head's query without the rotary part */
    int64_t rope;   /* of the rotary part, even */
    int64_t latent; /* of the cached latent */
    int64_t value;  /* of a head's value */
    int64_t q_rank; /* width of the low-rank queries; 0: q_b takes the hidden state, q_a is unused */
    float eps;      /* of `norm` */
    float lora_eps; /* of the other two */
    float scale;    /* on the scores */
    float unused;
    const float* norm;      /* [hidden] */
    const float* q_a_norm;  /* [q_rank] */
    const float* kv_a_norm; /* [latent] */
    struct k2quant_matrix q_a;    /* [q_rank, hidden] */
    struct k2quant_matrix q_b;    /* [heads * (nope + rope), q_rank or hidden] */
    struct k2quant_matrix kv_a;   /* [latent + rope, hidden] */
    struct k2quant_matrix k_b;    /* [heads * latent, nope] */
    struct k2quant_matrix v_b;    /* [heads * value, latent] */
    struct k2quant_matrix output; /* [hidden, heads * value] */
};

/* Norm and router of a layer. */
struct k2quant_router {
    int64_t hidden;
    int64_t experts;
    int64_t used;        /* experts of a token */
    int64_t groups;      /* of experts, 1 for none */
    int64_t groups_used; /* only the experts of the best ones may be chosen */
    int32_t softmax;     /* 1: scores are probabilities, 0: sigmoids */
    int32_t normalize;   /* 1: weights are divided by their sum */
    float scale;         /* on the weights */
    float eps;           /* of `norm` */
    const float* norm;   /* [hidden] */
    const float* weight; /* [experts, hidden] */
    const float* bias;   /* [experts], takes part in the choice only; or NULL */
};

/* For 1 to 8 tokens: x [tokens, hidden] += attention(norm(x)) to what is cached and to the tokens themselves, written to
 * `cache` [capacity, latent + rope] from `position` on. cosines and sines [tokens, rope / 2] are of their positions. */
K2QUANT_API int k2quant_attend(int isa, void* pool, const struct k2quant_attention* attention, float* x, int64_t tokens,
                               float* cache, int64_t capacity, int64_t position, const float* cosines,
                               const float* sines);

/* out [tokens, heads * value] = what each head's queries [tokens, heads * (nope + rope)], not yet rotated, take from the
 * positions up to their own, for any number of tokens. `cache` [capacity, latent + rope] holds all of them, the tokens'
 * own from `position` on. Of `attention` the sizes of heads, `scale`, k_b and v_b are used. */
K2QUANT_API int k2quant_attend_heads(int isa, void* pool, const struct k2quant_attention* attention,
                                     const float* queries, int64_t tokens, const float* cache, int64_t capacity,
                                     int64_t position, const float* cosines, const float* sines, float* out);

/* For 1 to 8 tokens: x [tokens, hidden] -> normed [tokens, hidden] and the experts of each in order of falling score:
 * ids and weights [tokens, used]. */
K2QUANT_API int k2quant_route(int isa, void* pool, const struct k2quant_router* router, const float* x, int64_t tokens,
                              float* normed, int64_t* ids, float* weights);

/* One token's experts of a layer: y [hidden] = the sum of weights[i] * the expert ids[i] of `table` [experts] for x [hidden],
 * and of `shared`, which may be NULL, last. Those without a `gate` are not here; with `leave_out` the ones that lie
 * `elsewhere` are left out. outcome [3]: how many of the `used` were multiplied, how many others are not here, in which
 * case nothing was computed, and nanoseconds. `used` is at most 64. */
K2QUANT_API int k2quant_dispatch(int isa, void* pool, const float* x, int64_t hidden, const struct k2quant_expert* table,
                                 int64_t experts, const int64_t* ids, const float* weights, int64_t used, int leave_out,
                                 const struct k2quant_expert* shared, float* y, int64_t* outcome);

/* A layer. Without a router it is dense: `norm`, then `experts` is one block. */
struct k2quant_layer {
    const struct k2quant_attention* attention;
    const struct k2quant_router* router;    /* or NULL */
    const struct k2quant_expert* experts;   /* [router->experts]; those without a `gate` are not here */
    const struct k2quant_expert* shared;    /* every token goes to it with weight 1; or NULL */
    const float* norm;                      /* [hidden], of a dense layer */
    float eps;                              /* of `norm` */
    float unused;
};

/* One token, x [hidden], through the layers from `first` on to `count`, each with its own cache; the other arguments are
 * those of k2quant_attend. Bits are those of the single calls. After an error x and the caches hold anything.
 *
 * It ends in front of the experts of a layer of which one is not here, or of which one of the `guess` experts is not that
 * the next layer's router would put first for the stream as it is then: *reached is that layer's number, else `count`.
 * x is then the stream behind its attention, the first `hidden` floats of `scratch` its norm, and `weights` [most_used]
 * those of its experts.
 *
 * `scratch` is of 3 * hidden floats. Out come each layer's experts, ids [count, most_used] (of a dense layer nothing), and
 * how long its attention, its router and its experts or dense block took: times_ns [count, 3]. */
K2QUANT_API int k2quant_pass(int isa, void* pool, const struct k2quant_layer* layers, int64_t count, int64_t first,
                             float* x, int64_t hidden, float* const* caches, int64_t capacity, int64_t position,
                             const float* cosines, const float* sines, float* scratch, int64_t* ids, float* weights,
                             int64_t most_used, int64_t guess, int64_t* times_ns, int64_t* reached);

/* out [tokens, cols] = x / sqrt(mean(x^2) + eps) * weight, each row by itself. out may be x. */
K2QUANT_API int k2quant_rms_norm(int isa, void* pool, const float* x, const float* weight, int64_t tokens, int64_t cols,
                                 float eps, float* out);

#ifdef __cplusplus
}
#endif
#endif
