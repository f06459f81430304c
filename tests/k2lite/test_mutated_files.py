"""Damaged model files: whatever is wrong with them, loading and answering ends in an answer or in one K2Error.

Files are read in a process of its own, so that a crash is seen as what it is, and under a limit on its memory.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.quantize import quantize
from quant.gguf.gguf_file import GgufFile
from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from tests.k2lite.fakes import write_chat_checkpoint
from tests.k2lite.mutated_models import Place, Reader, header_places, sampled
from tests.k2lite.mutation_worker import EXTRA_BYTES

# Values of other types than the key should have, and of its own type but out of any range.
STRANGE_VALUES: tuple[tuple[str, object], ...] = (
    ("string", ""),
    ("string", "\x00\n\x1b{{"),
    ("string", "x" * 50_000),
    ("bool", True),
    ("uint8", 3),
    ("int32", -1),
    ("int64", -(2**63)),
    ("uint64", 2**64 - 1),
    ("float32", float("nan")),
    ("float32", 0.5),
    ("float64", 1e308),
    ("array[int8]", []),
    ("array[int8]", [3] * 640),
    ("array[int32]", [-7] * 640),
    ("array[float32]", [float("nan")]),
    ("array[bool]", [True]),
    ("array[string]", []),
    ("array[string]", ["a", "b"]),
    ("array[string]", [""] * 640),
    ("array[string]", ["a b"] * 640),
    ("array[string]", ["<|im_end|>"] * 640),
    ("array[string]", ["<" + "x" * 200_000] + [str(number) for number in range(639)]),
)

SWEEP = 400  # files in each of the long sweeps, about a tenth of a second each
some = settings(deadline=None, max_examples=40, derandomize=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutated")
    quantize(write_chat_checkpoint(folder / "k2", experts=4), folder / "k2.gguf", QuantizeOptions("Q4_K_M"), threads=1)
    return folder / "k2.gguf"


@pytest.fixture(scope="module")
def content(model: Path) -> bytes:
    return model.read_bytes()


@pytest.fixture(scope="module")
def places(model: Path) -> list[Place]:
    return sampled(header_places(model), random.Random(0), strings=100)


@pytest.fixture(scope="module")
def data_start(model: Path) -> int:
    with GgufFile.open(model) as file:
        return min(info.offset_bytes for info in file.tensors.values())


@pytest.fixture(scope="module")
def reader(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(model, tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


def check(reader: Reader, content: bytes, mutation: object) -> None:
    outcome, detail = reader.outcome(content)
    assert outcome in ("answered", "refused"), f"{mutation}: {detail}"


def with_value(model: Path, folder: Path, key: str, kind: str, value: object) -> bytes:
    """The model with another value of another type under one key."""
    folder.mkdir(exist_ok=True)
    path = folder / "retyped.gguf"
    path.unlink(missing_ok=True)
    with GgufFile.open(model) as file:
        entries = [
            MetadataEntry(key, kind, value) if name == key else MetadataEntry(name, file.value_type(name), old)
            for name, old in file.metadata.items()
        ]
        specs = [TensorSpec(info.name, info.type, info.shape) for info in file.tensors.values()]
        with GgufWriter(path, entries, specs) as writer:
            for spec in specs:
                writer.write(spec.name, file.tensor(spec.name).data)
            writer.finish()
    return path.read_bytes()


@some
@given(data=st.data())
def test_fields_at_their_limits(reader: Reader, content: bytes, places: list[Place], data: st.DataObject) -> None:
    mutated = content
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True)):
        mutated = place.replaced(mutated, data.draw(st.sampled_from(place.extremes(content))))
    check(reader, mutated, "see the drawn fields")


@some
@given(data=st.data())
def test_overwritten_bytes(reader: Reader, content: bytes, data_start: int, data: st.DataObject) -> None:
    mutated = bytearray(content)
    region = data.draw(st.sampled_from([2_000, data_start, len(content) - 8]))
    for _ in range(data.draw(st.integers(1, 5))):
        position = data.draw(st.integers(0, region))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        mutated[position : position + len(patch)] = patch
    check(reader, bytes(mutated), "see the drawn positions")


@some
@given(data=st.data())
def test_removed_and_inserted_stretches(reader: Reader, content: bytes, data_start: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, data.draw(st.sampled_from([2_000, data_start, len(content)]))))
    stop = data.draw(st.sampled_from([start, start + 1, start + 8, start + 32, len(content)]))
    middle = data.draw(st.sampled_from([b"", content[start:stop] * 2, b"\xff" * 9]) | st.binary(max_size=40))
    check(reader, content[:start] + middle + content[stop:], (start, stop, middle))


@some
@given(data=st.data())
def test_values_of_other_types(reader: Reader, model: Path, data: st.DataObject) -> None:
    with GgufFile.open(model) as file:
        key = data.draw(st.sampled_from(sorted(file.metadata)))
    kind, value = data.draw(st.sampled_from(STRANGE_VALUES))
    check(reader, with_value(model, model.parent / "retyped", key, kind, value), (key, kind))


@pytest.mark.parametrize("word", [b"\x00", b"\xff", b"\x7c", b"\x80"])
def test_weights_of_nothing_but_one_byte(reader: Reader, content: bytes, data_start: int, word: bytes) -> None:
    check(reader, content[:data_start] + word * (len(content) - data_start), word)


def test_a_process_that_dies_is_noticed(model: Path, tmp_path: Path) -> None:
    reader = Reader(model, tmp_path)
    reader._process.kill()
    assert reader.outcome_of(model)[0] == "died"
    assert reader.outcome_of(model) == ("answered", "")
    reader.close()


def test_the_limit_on_memory_is_in_force(reader: Reader, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(2 * EXTRA_BYTES)
    outcome, detail = reader.outcome_of(path)
    assert outcome == "refused" and "Cannot allocate memory" in detail


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fields_of_every_kind_at_their_limits(reader: Reader, content: bytes, model: Path) -> None:
    generator = random.Random(1)
    changes = [
        (place, value)
        for place in sampled(header_places(model), generator, strings=50)
        for value in place.extremes(content)
    ]
    for place, value in generator.sample(changes, min(SWEEP, len(changes))):
        check(reader, place.replaced(content, value), (place, value))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_key_with_every_strange_value(reader: Reader, model: Path, tmp_path: Path) -> None:
    with GgufFile.open(model) as file:
        keys = list(file.metadata)
    for key in keys:
        for kind, value in STRANGE_VALUES:
            check(reader, with_value(model, tmp_path, key, kind, value), (key, kind, str(value)[:20]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_cut_anywhere_is_refused(reader: Reader, content: bytes, model: Path, data_start: int) -> None:
    with GgufFile.open(model) as file:
        ends = [info.offset_bytes + info.nbytes for info in file.tensors.values()]
    # Every length of a smaller file is tried where the parser is tested; here each one is loaded as a model.
    some_lengths = random.Random(2).sample(range(data_start), min(SWEEP, data_start))
    lengths = {*some_lengths, *ends, *(end - 1 for end in ends), *(end + 1 for end in ends)}
    for length in sorted(length for length in lengths if length < len(content)):
        outcome, detail = reader.outcome(content[:length])
        assert outcome == "refused", f"cut at {length}: {detail}"
