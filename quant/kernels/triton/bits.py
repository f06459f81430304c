"""Words out of memory, and what is computed with the four bytes of a word at once."""

import triton
import triton.language as tl

# The interpreter computes in numpy, which has neither assembly nor bfloat16.
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def loaded(place, mask):
    """A load; the mask is None where all is inside. What a mask leaves out is 0, and so are its scales."""
    if mask is None:
        value = tl.load(place)
    else:
        value = tl.load(place, mask=mask, other=0)
    return value


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
    """A signed byte by number, counted from `row`, as int32."""
    return loaded(row.to(tl.pointer_type(tl.int8), bitcast=True) + index, mask).to(tl.int32)


@triton.jit
def words_of_halves(row, index, mask):
    """32-bit words that lie on a 2-byte boundary: `index` counts halfwords from `row`."""
    return halfword(row, index, mask) | (halfword(row, index + 1, mask) << 16)


@triton.jit
def half_to_float(bits):
    """The float16 in the low 16 bits of a 32-bit word, as float32."""
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _byte(word, BYTE: tl.constexpr, SIGNED: tl.constexpr):
    value = ((word >> (8 * BYTE)) & 0xFF).to(tl.int32)
    return ((value ^ 0x80) - 0x80) if SIGNED else value


@triton.jit
def dot4(left, right, acc, LEFT_SIGNED: tl.constexpr, RIGHT_SIGNED: tl.constexpr):
    """acc int32 + the sum of products of the four bytes of two words: one instruction."""
    if _INTERPRETED:
        for byte in tl.static_range(4):
            acc += _byte(left, byte, LEFT_SIGNED) * _byte(right, byte, RIGHT_SIGNED)
        return acc
    LEFT: tl.constexpr = "s32" if LEFT_SIGNED else "u32"
    RIGHT: tl.constexpr = "s32" if RIGHT_SIGNED else "u32"
    return tl.inline_asm_elementwise(
        "dp4a." + LEFT + "." + RIGHT + " $0, $1, $2, $3;",
        "=r,r,r,r",
        [left, right, acc],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _permuted(low, high, selectors):
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, selectors], dtype=tl.uint32, is_pure=True, pack=1
    )


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
    return _permuted(low, high, selectors)


@triton.jit
def byte_to_float(word, BYTE: tl.constexpr, SIGNED: tl.constexpr):
    """Byte BYTE (0 is the lowest) as float32.

    Without a conversion, of which a multiprocessor does few: the byte becomes the last bits of 2**23, which is taken
    off again.
    """
    if _INTERPRETED:
        return _byte(word, BYTE, SIGNED).to(tl.float32)
    BIAS: tl.constexpr = 0x80 if SIGNED else 0
    flipped = word ^ (BIAS * 0x01010101)
    bits = _permuted(flipped, flipped * 0 + 0x4B000000, flipped * 0 + (0x7440 + BYTE))
    return bits.to(tl.float32, bitcast=True) - (8388608.0 + BIAS)


@triton.jit
def matrix_product(left, right, acc):
    """acc float32 + left @ right, bfloat16, on tensor cores."""
    if _INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(left, right, acc)
