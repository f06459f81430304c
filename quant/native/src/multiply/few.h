// Levels of activations, and `few` of every type, on the lanes of an instruction set.

constexpr int LANES = 16;

#include "multiply/quantize_lanes.h"
#include "multiply/rows_levels.h"
#include "multiply/rows_short.h"
#include "multiply/rows_floats.h"

template <class Type>
static constexpr auto few_of() {
    if constexpr (Type::takes_floats) return &few_floats<Type>;
    else return &few_levels<Type>;
}
