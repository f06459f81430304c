// What the table of kernels asks for.

template <class Type>
static constexpr auto many_of() {
    return many::kernel_of<Type>();
}
static size_t many_scratch_bytes(int64_t) { return many::scratch_bytes(); }
template <class Type>
static constexpr int64_t many_from() {
    return Type::takes_floats ? many::FLOATS_FROM : many::LEVELS_FROM;
}
