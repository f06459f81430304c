// Everything that is compiled once for each instruction set, on top of the sixteen lanes of a simd_*.h.
//
// The headers below belong together in this order. They go into a namespace without linkage and use no function that
// another file might share: the linker keeps one copy of an inline function, which may be the one compiled for
// instructions that the machine lacks.

using k2quant::EncodeCall;

#include "half.h"
#include "lanes.h"

#include "pack_affine.h"
#include "encode_affine.h"
#include "encode_q6_k.h"

#include "decode_fp8.h"
#include "decode_int4.h"
