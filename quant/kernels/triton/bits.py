"""Words out of memory and floats out of words."""

import os

import triton
import triton.language as tl


# A mask is None where all is inside. What a mask leaves out becomes 0, so that scales there are 0 and not NaN.
@triton.jit
def loaded(place, mask):
    if mask is None:
        return tl.load(place)
    else:
        return tl.load(place, mask=mask, other=0)


@triton.jit
def aligned_words(row, index, mask):
    """32-bit words by number, counted from `row`, pointers to bytes on a 4-byte boundary."""
    return loaded(row.to(tl.pointer_type(tl.uint32), bitcast=True) + index, mask)


@triton.jit
def halfword(row, index, mask):
    """16 bits by number, counted from `row`, pointers to bytes on a 2-byte boundary: zero-extended to 32."""
    return loaded(row.to(tl.pointer_type(tl.uint16), bitcast=True) + index, mask).to(tl.uint32)


@triton.jit
def signed_byte(row, index, mask):
    """A signed byte by number, counted from `row`, as float32."""
    return loaded(row.to(tl.pointer_type(tl.int8), bitcast=True) + index, mask).to(tl.float32)


@triton.jit
def words_of_halves(row, index, mask):
    """32-bit words that lie on a 2-byte boundary: `index` counts halfwords from `row`."""
    return halfword(row, index, mask) | (halfword(row, index + 1, mask) << 16)


@triton.jit
def half_to_float(bits):
    """The float16 in the low 16 bits of a 32-bit word, as float32."""
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


# The interpreter computes in numpy, which has neither assembly nor bfloat16.
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _chosen_byte(low, high, selectors, BYTE: tl.constexpr):
    selector = (selectors >> (4 * BYTE)) & 7
    word = tl.where(selector < 4, low, high)
    return ((word >> ((selector & 3) * 8)) & 0xFF) << (8 * BYTE)


@triton.jit
def permuted_bytes(low, high, selectors):
    """Byte i of the result is byte s of the eight in `low` and `high`; s, below 8, is nibble i of `selectors`."""
    if _INTERPRETED:
        first = _chosen_byte(low, high, selectors, 0) | _chosen_byte(low, high, selectors, 1)
        return first | _chosen_byte(low, high, selectors, 2) | _chosen_byte(low, high, selectors, 3)
    else:
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, selectors], dtype=tl.uint32, is_pure=True, pack=1
        )


# A byte becomes a float without a conversion instruction, of which a multiprocessor does few: its bits are put into
# the mantissa of a power of two, which is taken off again. Up to 7 bits fit above 2**7, whose last place is 2**-16.
@triton.jit
def shifted_byte(word, BYTE: tl.constexpr, BITS: tl.constexpr):
    """`float_offset(BITS)` + the value of byte BYTE (0 is the lowest), of which BITS may be set, as float32."""
    PLACE: tl.constexpr = 16 if BITS <= 7 else 15
    MASK: tl.constexpr = ((1 << BITS) - 1) << PLACE
    POWER: tl.constexpr = 0x43000000 if BITS <= 7 else 0x43800000
    if BYTE * 8 <= PLACE:
        placed = word << (PLACE - BYTE * 8)
    else:
        placed = word >> (BYTE * 8 - PLACE)
    return ((placed & MASK) | POWER).to(tl.float32, bitcast=True)


@triton.constexpr_function
def float_offset(bits: int) -> float:
    """What `shifted_byte` adds to a byte."""
    return 128.0 if bits <= 7 else 256.0


@triton.jit
def matrix_product(left, right, acc):
    """acc float32 + left @ right, bfloat16, on tensor cores."""
    if _INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), acc, input_precision="ieee")
    else:
        return tl.dot(left, right, acc)
