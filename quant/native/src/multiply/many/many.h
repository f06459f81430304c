// The kernels for many tokens, out of the headers that many_*.h chose.

constexpr int64_t BLOCK_TOKENS = 384;  // whose levels for a block's columns stay in the second-level cache

#include "multiply/many/panel.h"
#include "multiply/many/unpack.h"
#include "multiply/many/tile.h"
#include "multiply/many/floats.h"
#include "multiply/many/walk.h"

template <class Type>
static constexpr auto kernel_of() {
    if constexpr (Type::takes_floats) return &multiply_many<FloatKind<Type>>;
    else return &multiply_many<LevelKind<Type>>;
}

static size_t scratch_bytes() {
    size_t most = sizeof(FloatScratch);
    const size_t sizes[] = {sizeof(LevelScratch<Form<true, 1>>), sizeof(LevelScratch<Form<false, 1>>),
                         sizeof(LevelScratch<Form<false, 2>>)};
    for (size_t bytes : sizes) {
        most = bytes > most ? bytes : most;
    }
    return most;
}
