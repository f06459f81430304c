// Rows of activations in a job's memory, with their quantized form where some matrix wants it.
#pragma once

#include "multiply/multiply.h"

namespace k2quant {

// Hands out parts of a block of memory, each at a multiple of 64. With a null block it only counts.
class Shelf {
public:
    explicit Shelf(void* memory) : memory_(static_cast<uint8_t*>(memory)) {}

    template <typename T>
    T* take(int64_t count) {
        uint8_t* place = memory_ ? memory_ + used_ : nullptr;
        used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
        return reinterpret_cast<T*>(place);
    }
    size_t used() const { return used_; }

private:
    uint8_t* memory_;
    size_t used_ = 0;
};

// `count` rows of `cols` floats, all of whose memory comes from a shelf.
struct Rows {
    float* values;
    int64_t cols;
    Activations* x;  // [count]
    int8_t* levels;
    float* scales;
    float* sums;

    static Rows on(Shelf& shelf, int64_t count, int64_t cols) {
        const int64_t quantized = cols % SCALE_GROUP == 0 ? cols : 0;
        return {shelf.take<float>(count * cols),
                cols,
                shelf.take<Activations>(count),
                shelf.take<int8_t>(count * quantized),
                shelf.take<float>(count * quantized / SCALE_GROUP),
                shelf.take<float>(count * quantized / SUM_GROUP)};
    }

    float* row(int64_t index) const { return values + index * cols; }

    // Makes the row's activations out of its values.
    void ready(const MultiplyVariant& variant, int64_t index) const {
        if (cols % SCALE_GROUP) {
            x[index] = {row(index), nullptr, nullptr, nullptr};
            return;
        }
        int8_t* row_levels = levels + index * cols;
        float* row_scales = scales + index * cols / SCALE_GROUP;
        float* row_sums = sums + index * cols / SUM_GROUP;
        variant.quantize(row(index), cols, row_levels, row_scales, row_sums);
        x[index] = {row(index), row_levels, row_scales, row_sums};
    }
};

}  // namespace k2quant
