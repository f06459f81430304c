#include "pool/arena.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

namespace k2quant {

namespace {

size_t rounded(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

}  // namespace

void* Arena::grow(size_t bytes) {
    if (bytes > SIZE_MAX / 4) return nullptr;
    const size_t wanted = bytes + bytes / 4;  // so that a size that rises slowly is not asked for at every step
    release();
    if (wanted < HUGE_PAGE) {
        size_ = rounded(wanted < 64 ? 64 : wanted, 64);
        data_ = std::aligned_alloc(64, size_);
    } else {
        size_ = rounded(wanted, HUGE_PAGE);
        mapping_bytes_ = size_ + HUGE_PAGE;
        void* mapping = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping != MAP_FAILED) {
            mapping_ = mapping;
            data_ = reinterpret_cast<void*>(rounded(reinterpret_cast<uintptr_t>(mapping), HUGE_PAGE));
#if defined(MADV_HUGEPAGE)
            (void)madvise(data_, size_, MADV_HUGEPAGE);  // where the system has none, small pages do
#endif
        }
    }
    if (!data_) size_ = 0;
    return data_;
}

void Arena::release() {
    if (mapping_) {
        munmap(mapping_, mapping_bytes_);
    } else {
        std::free(data_);
    }
    data_ = mapping_ = nullptr;
    size_ = 0;
}

}  // namespace k2quant
