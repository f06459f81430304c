"""Damaged and hostile files: one clear error each, never a crash, never more memory than a multiple of the file."""

import os
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant.errors import GgufError, UnsupportedError
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_parser import MAX_HEADER_BYTES, parse_header
from quant.gguf.gguf_writer import MetadataEntry, TensorSpec
from quant.types import block_type
from tests.quant.gguf_samples import METADATA, SPECS, entry, key, raw_file, string, write_sample

U8, I8, U32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 7, 8, 9, 10
PATH = Path("some.gguf")

# Numbers stay as they are stored. What grows are texts of two letters or more (from 10 bytes to some 60), names of
# tensors (from 33 bytes and their data to 330), and the worst, keys of arrays without an element (from 25 to 250).
MEMORY_FACTOR = 12
MEMORY_CONSTANT = 1 << 19

in_one_folder = settings(
    deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def array(element: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IQ", element, count) + data


def sample_bytes(folder: Path) -> bytes:
    path = folder / "sample.gguf"
    return (path if path.exists() else write_sample(path)).read_bytes()


def open_bytes(folder: Path, content: bytes) -> None:
    """Open a file with this content and read all of it. Raises GgufError or UnsupportedError if it is damaged."""
    path = folder / "mutated.gguf"
    path.write_bytes(content)
    with GgufFile.open(path) as file:
        for info in file.tensors.values():
            tensor = file.tensor(info.name)
            assert tensor.nbytes == info.nbytes
            assert tensor.data.tobytes() == content[info.offset_bytes : info.offset_bytes + info.nbytes]


def check_open(folder: Path, content: bytes) -> None:
    """Open: valid, or one of the two errors, and in both cases little memory."""
    tracemalloc.start()
    try:
        open_bytes(folder, content)
    except (GgufError, UnsupportedError) as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY_FACTOR * len(content) + MEMORY_CONSTANT


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.gguf", METADATA, SPECS[-6:])
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(GgufError):
            GgufFile.open(path)


@in_one_folder
@given(data=st.data())
def test_overwritten_bytes_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sample_bytes(tmp_path))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        content[position : position + len(patch)] = patch
    check_open(tmp_path, bytes(content))


@in_one_folder
@given(data=st.data())
def test_numbers_made_huge_never_crash_or_allocate(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sample_bytes(tmp_path))
    numbers = st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1, len(content)])
    for _ in range(data.draw(st.integers(1, 3))):
        struct.pack_into("<Q", content, data.draw(st.integers(4, len(content) - 8)), data.draw(numbers))
    check_open(tmp_path, bytes(content))


@in_one_folder
@given(data=st.data())
def test_removed_repeated_and_inserted_stretches_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    content = sample_bytes(tmp_path)
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, len(content)))
    middle = data.draw(st.sampled_from([b"", content[start:stop] * 2, bytes(stop - start), b"\xff" * 9]))
    check_open(tmp_path, content[:start] + middle + content[stop:])


@in_one_folder
@given(content=st.binary(max_size=300))
def test_noise_behind_a_good_start_never_crashes(tmp_path: Path, content: bytes) -> None:
    check_open(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + content)


def test_every_element_type_stays_within_the_memory_bound(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(200_000)
    for element, size in ((U8, 1), (I8, 1), (2, 2), (3, 2), (U32, 4), (6, 4), (BOOL, 1), (U64, 8), (12, 8)):
        check_open(tmp_path, raw_file([key("a", ARRAY, array(element, len(noise) // size, noise))]))
    for text in ("", "a", "ab", "你"):
        check_open(tmp_path, raw_file([key("a", ARRAY, array(STRING, 40_000, string(text) * 40_000))]))
    check_open(tmp_path, raw_file([key(f"{n}", ARRAY, array(U8, 0, b"")) for n in range(20_000)]))
    check_open(tmp_path, raw_file([key(f"{n}", BOOL, b"\1") for n in range(20_000)]))
    check_open(tmp_path, raw_file([], [entry(f"{n}", [8], 0, 32 * n) for n in range(5_000)], bytes(32 * 5_000)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGML" + bytes(20), "not a GGUF file"),
        (b"PK\x03\x04" + bytes(20), "not a GGUF file"),
        (raw_file([key("a", U8, b"\0"), key("a", U8, b"\0")]), "the key 'a' is there twice"),
        (raw_file([], [entry("a", [1], 0, 0), entry("a", [1], 0, 32)], bytes(64)), "a tensor name is there twice"),
        (raw_file([key("a", 13, b"\0")]), "unknown value type 13"),
        (raw_file([key("a", ARRAY, array(13, 0, b""))]), "unknown value type 13"),
        (raw_file([key("a", STRING, struct.pack("<Q", 2) + b"\xff\xfe")]), "not UTF-8"),
        (raw_file([key("a", ARRAY, array(STRING, 1, struct.pack("<Q", 2) + b"\xff\xfe"))]), "not UTF-8 at byte"),
        (raw_file([key("a", STRING, struct.pack("<Q", 2**63) + b"x")]), f"takes {2**63} bytes"),
        (raw_file([key("a", ARRAY, array(STRING, 2**60, bytes(64)))]), f"claims {2**60} strings of 'a'"),
        (raw_file([key("a", ARRAY, array(STRING, 3, string("x") + struct.pack("<Q", 999)))]), "takes 999 bytes"),
        (raw_file([key("a", ARRAY, array(U64, 2**62, bytes(64)))]), f"takes {2**65} bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**50, 0), f"claims {2**50} tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**50), f"claims {2**50} keys"),
        (raw_file([key("general.alignment", U64, struct.pack("<Q", 32))]), "uint64 instead of uint32"),
        (raw_file([key("general.alignment", U32, struct.pack("<I", 0))]), "power of two"),
        (raw_file([key("general.alignment", U32, struct.pack("<I", 48))]), "power of two"),
        (raw_file([key("general.alignment", U32, struct.pack("<I", 4))]), "at least 8"),
        (raw_file([], [entry("x" * 64, [1], 0, 0)], bytes(32)), "longer than 63 bytes"),
        (raw_file([], [entry("a", [], 0, 0)], bytes(32)), "0 dimensions instead of 1 to 4"),
        (raw_file([], [entry("a", [1] * 5, 0, 0)], bytes(32)), "5 dimensions instead of 1 to 4"),
        (raw_file([], [entry("a", [4, 0], 0, 0)], bytes(32)), r"shape \(0, 4\) is empty"),
        (raw_file([], [entry("a", [128], 12, 0)], bytes(160)), "not whole blocks of Q4_K"),
    ],
)
def test_damage_is_named(content: bytes, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        parse_header(content, PATH)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw_file(version=1), "GGUF version 1, but only 2 and 3"),
        (raw_file(version=4), "GGUF version 4"),
        (raw_file(version=3 << 24), "big-endian"),
        (raw_file([], [entry("a", [1], 28, 0)], bytes(32)), "tensor 'a': tensor type number 28"),
        (raw_file([key("a", ARRAY, array(ARRAY, 1, array(U8, 1, b"\0")))]), "array of arrays"),
    ],
)
def test_what_is_valid_elsewhere_is_unsupported(content: bytes, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        parse_header(content, PATH)


def test_version_2_differs_in_its_number_only(tmp_path: Path) -> None:
    content = bytearray(sample_bytes(tmp_path))
    header = parse_header(bytes(content), PATH)
    content[4] = 2
    assert parse_header(bytes(content), PATH) == header


def test_an_array_as_long_as_a_model_is_not_loaded(tmp_path: Path) -> None:
    # Within the file, so no length check stops it, but no header has a gigabyte.
    path = tmp_path / "a.gguf"
    with path.open("wb") as file:
        file.write(raw_file([key("a", ARRAY, array(U8, 2**30, b""))]))
        file.truncate(2**31)
    with pytest.raises(GgufError, match=f"header is longer than {MAX_HEADER_BYTES} bytes"):
        GgufFile.open(path)


def test_a_vocabulary_of_160000_tokens_opens_in_half_a_second(tmp_path: Path) -> None:
    letters = random.Random(0)
    tokens = ["".join(letters.choices("abcdefghijklmnopqĠÄü", k=letters.randint(1, 14))) for _ in range(163_840)]
    merges = [f"{token[:2]} {token[2:]}" for token in tokens[:163_328]]
    metadata = (
        *METADATA,
        MetadataEntry("tokenizer.ggml.tokens", "array[string]", tokens),
        MetadataEntry("tokenizer.ggml.token_type", "array[int32]", [1] * 163_840),
        MetadataEntry("tokenizer.ggml.merges", "array[string]", merges),
    )
    layers = [TensorSpec(f"blk.{n}.weight", block_type("F32"), (1,)) for n in range(1096)]
    path = write_sample(tmp_path / "a.gguf", metadata, [*SPECS, *layers])
    seconds = []
    for _ in range(3):
        start = time.process_time()
        with GgufFile.open(path) as file:
            seconds.append(time.process_time() - start)
        assert file.metadata["tokenizer.ggml.merges"] == merges
    assert min(seconds) < 0.5


def test_arrays_of_numbers_take_no_more_memory_than_in_the_file(tmp_path: Path) -> None:
    content = raw_file([key("a", ARRAY, array(I8, 4_000_000, bytes(4_000_000)))])
    tracemalloc.start()
    try:
        header = parse_header(content, PATH)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(header.metadata["a"]) == 4_000_000
    assert peak < len(content) + 2**16
