// For an instruction set that has no kernels for many tokens.

template <class Type>
static constexpr void (*many_of())(const RowsCall&, void*) {
    return nullptr;
}
static size_t many_scratch_bytes(int64_t) { return 0; }
template <class Type>
static constexpr int64_t many_from() {
    return INT64_MAX;
}
