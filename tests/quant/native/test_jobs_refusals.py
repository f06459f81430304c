"""What jobs of several threads do not take is refused before a pointer is touched."""

import struct

import pytest
import torch

from quant.native_library import load_native
from tests.quant.native.jobs import pool

ADDRESS = 4096  # which no process owns
Q4_K, Q8_0, F32 = 12, 8, 0


@pytest.mark.parametrize(
    "arguments",
    [
        (Q4_K, None, 1, 256, ADDRESS, 1, ADDRESS),
        (Q4_K, ADDRESS, 1, 256, None, 1, ADDRESS),
        (Q4_K, ADDRESS, 1, 256, ADDRESS, 1, None),
        (Q4_K, ADDRESS, 1, 255, ADDRESS, 1, ADDRESS),
        (Q4_K, ADDRESS, 1, 0, ADDRESS, 1, ADDRESS),
        (Q4_K, ADDRESS, -1, 256, ADDRESS, 1, ADDRESS),
        (Q4_K, ADDRESS, 1, 256, ADDRESS, -1, ADDRESS),
        (Q4_K, ADDRESS, 1 << 60, 256, ADDRESS, 1, ADDRESS),
        (Q4_K, ADDRESS, 1, 256, ADDRESS, 1 << 60, ADDRESS),
        (F32, ADDRESS, 1 << 30, 1, ADDRESS, 1 << 30, ADDRESS),
        (99, ADDRESS, 1, 256, ADDRESS, 1, ADDRESS),
    ],
)
def test_matrices_that_do_not_fit(arguments: tuple[int | None, ...]) -> None:
    with pool(2) as opened, pytest.raises(ValueError, match="k2quant_linear does not take"):
        load_native().call("k2quant_linear", opened, *arguments)
    with pytest.raises(ValueError, match="k2quant_linear does not take"):
        load_native().call("k2quant_linear", None, Q4_K, ADDRESS, 1, 256, ADDRESS, 1, ADDRESS)


@pytest.mark.parametrize(
    "arguments",
    [
        (Q8_0, None, 2, 1, 32, ADDRESS, 64, 32, 1, ADDRESS),
        (Q8_0, ADDRESS, 2, 1, 32, None, 64, 32, 1, ADDRESS),
        (Q8_0, ADDRESS, 2, 1, 32, ADDRESS, 64, 32, 1, None),
        (Q8_0, ADDRESS, -1, 1, 32, ADDRESS, 64, 32, 1, ADDRESS),
        (Q8_0, ADDRESS, 2, -1, 32, ADDRESS, 64, 32, 1, ADDRESS),
        (Q8_0, ADDRESS, 2, 1, 33, ADDRESS, 64, 32, 1, ADDRESS),
        (Q8_0, ADDRESS, 2, 1, 32, ADDRESS, -64, 32, 1, ADDRESS),
        (Q8_0, ADDRESS, 2, 1, 32, ADDRESS, 64, -32, 1, ADDRESS),
        (Q8_0, ADDRESS, 2, 1, 32, ADDRESS, 64, 32, -1, ADDRESS),
        (Q8_0, ADDRESS, 1 << 60, 1, 32, ADDRESS, 64, 32, 1, ADDRESS),
        (Q8_0, ADDRESS, 1 << 30, 1, 32, ADDRESS, 64, 32, 1 << 30, ADDRESS),
        (Q8_0, ADDRESS, 2, 1, 32, ADDRESS, 1 << 62, 32, 2, ADDRESS),
        (99, ADDRESS, 2, 1, 32, ADDRESS, 64, 32, 1, ADDRESS),
    ],
)
def test_heads_that_do_not_fit(arguments: tuple[int | None, ...]) -> None:
    with pool(2) as opened, pytest.raises(ValueError, match="k2quant_heads does not take"):
        load_native().call("k2quant_heads", opened, *arguments)


def record(
    gate: int = ADDRESS,
    up: int = ADDRESS,
    down: int = ADDRESS,
    ff: int = 256,
    hidden: int = 512,
    types: tuple[int, int, int] = (Q8_0, Q4_K, Q4_K),
) -> bytes:
    """k2quant_expert: without arguments one that fits."""
    return struct.pack("=3Q2q3i4x", gate, up, down, ff, hidden, *types)


def ask_experts(
    records: list[bytes], counts: list[int], ids: list[int], x: int | None = ADDRESS, tokens: int = 2, hidden: int = 512
) -> None:
    lists = torch.tensor(counts), torch.tensor(ids, dtype=torch.int64), torch.ones(len(ids))
    pointers = [part.data_ptr() for part in lists]
    with pool(2) as opened, pytest.raises(ValueError, match="k2quant_experts does not take"):
        arguments = (x, tokens, hidden, b"".join(records), len(records), *pointers, ADDRESS, 0)
        load_native().call("k2quant_experts", opened, *arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        record(gate=0),
        record(up=0),
        record(down=0),
        record(ff=0),
        record(ff=-256),
        record(ff=128),
        record(ff=1 << 60),
        record(hidden=256),
        record(types=(99, Q4_K, Q4_K)),
        record(types=(Q8_0, 99, Q4_K)),
        record(types=(Q8_0, Q4_K, 99)),
    ],
)
def test_experts_that_do_not_fit(wrong: bytes) -> None:
    ask_experts([record(), wrong], [1, 1], [0, 1])


@pytest.mark.parametrize(("counts", "ids"), [([1, 1], [0, 2]), ([1, 1], [-1, 0]), ([1, -1], [0, 0]), ([2, 0], [0, 5])])
def test_lists_that_do_not_fit(counts: list[int], ids: list[int]) -> None:
    ask_experts([record(), record()], counts, ids)


@pytest.mark.parametrize(("tokens", "hidden"), [(-1, 512), (2, 0), (2, -512), (1 << 60, 512), (2, 500)])
def test_inputs_that_do_not_fit(tokens: int, hidden: int) -> None:
    ask_experts([record(hidden=hidden)], [1], [0], tokens=tokens, hidden=hidden)


def test_no_input() -> None:
    ask_experts([record()], [1], [0], x=None)
