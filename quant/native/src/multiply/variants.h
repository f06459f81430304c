// The instruction sets' kernels. Only those that the machine can run may be called.
#pragma once

#include "multiply/multiply.h"

namespace k2quant {

extern const MultiplyVariant multiply_portable;
extern const MultiplyVariant multiply_avx2;        // with FMA and F16C
extern const MultiplyVariant multiply_avx512;      // F, BW, DQ and VL
extern const MultiplyVariant multiply_avx512vnni;  // those and VNNI

}  // namespace k2quant
