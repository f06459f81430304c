"""Damaged GGUF files: one line that says what is wrong and what to do, before anything is answered."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from quant.gguf.gguf_file import GgufFile
from tests.bad_input.command_line import Change, Refused, says
from tests.k2lite.mutated_models import header_places


def place_of(file: Path, name: str) -> int:
    """Where a field of the header begins."""
    return next(place.start for place in header_places(file) if place.name == name)


def overwrite(file: Path, position: int, form: str, value: int) -> None:
    content = bytearray(file.read_bytes())
    struct.pack_into(form, content, position, value)
    file.write_bytes(content)


def without_end(file: Path, nbytes: int) -> None:
    os.truncate(file, file.stat().st_size - nbytes)


OFFSET, SHAPE, TYPE = "blk.0.attn_norm.weight[5]", "blk.0.attn_norm.weight[3]", "blk.0.attn_norm.weight[4]"
FILES: dict[str, tuple[Change, Sequence[str]]] = {
    "empty": (lambda f: os.truncate(f, 0), ("is empty", "not a GGUF file")),
    "a text": (lambda f: f.write_text("Once upon a time there was a file"), ("not a GGUF file",)),
    "a shard of a checkpoint": (lambda f: f.write_bytes(struct.pack("<Q", 9) + b"{}       "), ("not a GGUF file",)),
    "one byte": (lambda f: os.truncate(f, 1), ("cut off", "copy or download it again")),
    "cut in the counts": (lambda f: os.truncate(f, 12), ("cut off", "copy or download it again")),
    "cut in the keys": (lambda f: os.truncate(f, 700), ("cut off", "copy or download it again")),
    "cut in the vocabulary": (lambda f: os.truncate(f, 9_000), ("cut off", "copy or download it again")),
    "cut in the weights": (lambda f: os.truncate(f, 400_000), ("cut off", "400000 of", "copy or download it again")),
    "without its last byte": (lambda f: without_end(f, 1), ("cut off", "copy or download it again")),
    "of another version": (lambda f: overwrite(f, 4, "<I", 99), ("version 99", "only 2 and 3")),
    "big-endian": (lambda f: overwrite(f, 4, "<I", 3 << 24), ("big-endian", "convert it")),
    "with 2^60 tensors": (lambda f: overwrite(f, 8, "<Q", 2**60), (f"claims {2**60} tensors", "have room for")),
    "with 2^60 keys": (lambda f: overwrite(f, 16, "<Q", 2**60), (f"claims {2**60} keys", "have room for")),
    "with a key of 2^62 bytes": (
        lambda f: overwrite(f, 24, "<Q", 2**62),
        (f"a key takes {2**62} bytes", "copy or download it again"),
    ),
    "with a list of 2^61 texts": (
        lambda f: overwrite(f, place_of(f, "tokenizer.ggml.tokens[4]"), "<Q", 2**61),
        (f"claims {2**61} strings of 'tokenizer.ggml.tokens'",),
    ),
    "with an offset behind the end": (
        lambda f: overwrite(f, place_of(f, OFFSET), "<Q", 2**40),
        ("cut off", "copy or download it again"),
    ),
    "with an offset beyond 64 bits": (
        lambda f: overwrite(f, place_of(f, OFFSET), "<Q", 2**64 - 32),
        ("cut off", "copy or download it again"),
    ),
    "with tensors that overlap": (lambda f: overwrite(f, place_of(f, OFFSET), "<Q", 0), ("overlap",)),
    "with a tensor of 2^50 weights": (
        lambda f: overwrite(f, place_of(f, SHAPE), "<Q", 2**50),
        ("cut off", "copy or download it again"),
    ),
    "with an empty tensor": (
        lambda f: overwrite(f, place_of(f, SHAPE), "<Q", 0),
        ("'blk.0.attn_norm.weight' of shape (0,) is empty",),
    ),
    "with an unknown type": (
        lambda f: overwrite(f, place_of(f, TYPE), "<I", 77),
        ("'blk.0.attn_norm.weight'", "type number 77", "newer than this k2lite"),
    ),
    "with another number of heads": (
        lambda f: overwrite(f, place_of(f, "deepseek2.attention.head_count[3]"), "<I", 2**31),
        ("has shape", "asks for"),
    ),
    "with another number of layers": (
        lambda f: overwrite(f, place_of(f, "deepseek2.block_count[3]"), "<I", 400),
        ("tensor blk.2", "is missing", "convert or download it again"),
    ),
    "with a rope base that is NaN": (
        lambda f: overwrite(f, place_of(f, "deepseek2.rope.freq_base[3]"), "<I", 0x7FC00000),
        ("rope_theta is nan", "must be above 1"),
    ),
    "of another architecture": (
        lambda f: f.write_bytes(f.read_bytes().replace(b"deepseek2", b"deepseek1")),
        ("general.architecture is 'deepseek1'", "k2lite runs 'deepseek2'"),
    ),
    "with an unknown tokenizer": (
        lambda f: f.write_bytes(f.read_bytes().replace(b"kimi-k2", b"kimi-k9")),
        ("tokenizer.ggml.pre is 'kimi-k9'", "use another GGUF file"),
    ),
}
ALSO_INSPECTED = [name for name in FILES if "another number" not in name and "rope" not in name]
ALSO_INSPECTED = [name for name in ALSO_INSPECTED if "architecture" not in name and "tokenizer" not in name]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_not_run(name: str, file: Path, refused: Refused) -> None:
    change, parts = FILES[name]
    change(file)
    says(refused("run", file, "-p", "x"), *parts)


@pytest.mark.parametrize("name", ALSO_INSPECTED)
def test_a_damaged_file_is_not_inspected(name: str, file: Path, refused: Refused) -> None:
    change, parts = FILES[name]
    change(file)
    says(refused("inspect", file), str(file), *parts)


def test_a_file_with_nan_among_its_norms_is_not_loaded(file: Path, refused: Refused) -> None:
    with GgufFile.open(file) as opened:
        place = opened.tensors["output_norm.weight"].offset_bytes
    overwrite(file, place, "<I", 0x7FC00000)
    says(refused("run", file, "-p", "x"), "tensor output_norm.weight holds NaN", "convert or download it again")


@pytest.mark.parametrize("name", ["token_embd", "blk.0.attn_output", "blk.1.ffn_down_exps", "blk.1.ffn_down_shexp"])
def test_a_file_with_nan_among_its_scales_gives_no_answer(
    name: str, file: Path, tmp_path: Path, refused: Refused
) -> None:
    with GgufFile.open(file) as opened:
        info = opened.tensors[f"{name}.weight"]
    content = bytearray(file.read_bytes())
    content[info.offset_bytes : info.offset_bytes + info.nbytes] = b"\x7f" * info.nbytes
    file.write_bytes(content)
    says(refused("run", file, "-p", "x"), "NaN or inf", "fetch or quantize it again")
    (tmp_path / "text.txt").write_text("the quick brown fox " * 9)
    says(refused("eval", file, "--text", tmp_path / "text.txt"), "NaN or inf", "fetch or quantize it again")
