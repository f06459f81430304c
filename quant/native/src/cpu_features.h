// Which instruction sets this build has code for and this machine can run.
#pragma once

namespace k2quant {

bool has_avx2();
bool has_avx512();      // F, BW, DQ and VL
bool has_avx512vnni();  // those and VNNI
bool has_avx512bf16();  // those and BF16
bool has_fma_and_f16c();  // beside AVX2, on every processor but the first ones

}  // namespace k2quant
