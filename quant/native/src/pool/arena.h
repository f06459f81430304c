// Memory that grows and never shrinks, in huge pages where that pays and the system has them.
#pragma once

#include <cstddef>

namespace k2quant {

constexpr size_t HUGE_PAGE = size_t{2} << 20;

class Arena {
public:
    Arena() = default;
    ~Arena() { release(); }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // At least `bytes` at a multiple of 64; what was there is lost when it grows. Null without memory.
    void* at_least(size_t bytes) { return bytes <= size_ && data_ ? data_ : grow(bytes); }

private:
    void* grow(size_t bytes);
    void release();

    void* data_ = nullptr;
    void* mapping_ = nullptr;  // null: data_ came from malloc's family
    size_t size_ = 0;
    size_t mapping_bytes_ = 0;
};

}  // namespace k2quant
