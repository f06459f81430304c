// An instruction set's table of kernels, out of its few_of<Type>(), many_of<Type>() and many_from<Type>().

template <class Type>
static constexpr BlockKernels kernels_of() {
    return {Type::type,      Type::weights,   Type::bytes,      Type::takes_floats,
            few_of<Type>(), many_of<Type>(), many_from<Type>(), &decode_row<Type>};
}

static const BlockKernels table[] = {
    kernels_of<Q4K>(), kernels_of<Q5K>(), kernels_of<Q6K>(), kernels_of<IQ4XS>(), kernels_of<Q80>(), kernels_of<Q40>(),
    kernels_of<Q50>(), kernels_of<F32>(), kernels_of<F16>(), kernels_of<BF16>(),  kernels_of<NF4>(),
};
constexpr int TABLE_ROWS = sizeof table / sizeof table[0];
