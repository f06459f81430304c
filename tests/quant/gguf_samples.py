"""Small GGUF files of every kind, made by our writer, by the gguf package or by hand."""

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from quant.gguf.gguf_writer import GgufWriter, MetadataEntry, TensorSpec
from quant.types import BLOCK_TYPES, block_type

METADATA = (
    MetadataEntry("general.architecture", "string", "deepseek2"),
    MetadataEntry("a.uint8", "uint8", 255),
    MetadataEntry("a.int8", "int8", -128),
    MetadataEntry("a.uint16", "uint16", 65535),
    MetadataEntry("a.int16", "int16", -32768),
    MetadataEntry("a.uint32", "uint32", 2**32 - 1),
    MetadataEntry("a.int32", "int32", -(2**31)),
    MetadataEntry("a.uint64", "uint64", 2**64 - 1),
    MetadataEntry("a.int64", "int64", -(2**63)),
    MetadataEntry("a.float32", "float32", 0.5),
    MetadataEntry("a.float64", "float64", 0.1),
    MetadataEntry("a.bool", "bool", True),
    MetadataEntry("a.string", "string", "Grüße, 世界"),
    MetadataEntry("a.texts", "array[string]", ["Ġthe", "", "ä", "x" * 300]),
    MetadataEntry("a.kinds", "array[int32]", [1, -1, 3]),
    MetadataEntry("a.flags", "array[bool]", [True, False]),
    MetadataEntry("a.ratios", "array[float32]", [0.25, -2.0]),
)

# One tensor of every type; their sizes need 0 to 31 bytes of padding.
SPECS = (
    *(TensorSpec(f"blk.0.{kind.name.lower()}.weight", kind, (3, kind.block_weights)) for kind in BLOCK_TYPES),
    TensorSpec("norm", block_type("F32"), (5,)),
    TensorSpec("cube", block_type("F16"), (2, 3, 4)),
    TensorSpec("four", block_type("Q8_0"), (2, 2, 3, 32)),
)


def tensor_bytes(spec: TensorSpec) -> np.ndarray:
    """Bytes that differ from tensor to tensor."""
    return np.random.default_rng(sum(spec.name.encode())).integers(0, 256, spec.nbytes, dtype=np.uint8)


def write_sample(path: Path, metadata: Sequence[MetadataEntry] = METADATA, specs: Sequence[TensorSpec] = SPECS) -> Path:
    """Write a file with our writer."""
    with GgufWriter(path, metadata, specs) as writer:
        for spec in specs:
            writer.write(spec.name, tensor_bytes(spec))
        writer.finish()
    return path


def write_foreign(path: Path, *, alignment: int | None = None, tensors_per_shard: int = 0) -> dict[str, np.ndarray]:
    """Write a file, or shards, with the gguf package. Returns the values of the tensors."""
    writer = gguf.GGUFWriter(path, "deepseek2", split_max_tensors=tensors_per_shard)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_uint32("deepseek2.block_count", 3)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "Ġd"])
    writer.add_array("tokenizer.ggml.token_type", [1, 1, 3])
    random = np.random.default_rng(5)
    values = {f"blk.{i}.weight": random.standard_normal((i + 1, 7), dtype=np.float32) for i in range(7)}
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def string(text: str) -> bytes:
    """A string as the format stores it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def key(name: str, type_id: int, value: bytes) -> bytes:
    """A metadata entry."""
    return string(name) + struct.pack("<I", type_id) + value


def entry(name: str, ne: Sequence[int], type_id: int, offset: int) -> bytes:
    """A tensor entry, contiguous dimension first."""
    return string(name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, type_id, offset)


def raw_file(
    keys: Sequence[bytes] = (), entries: Sequence[bytes] = (), data: bytes = b"", alignment: int = 32, version: int = 3
) -> bytes:
    """A whole file from its pieces, right or wrong."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(entries), len(keys)) + b"".join(keys) + b"".join(entries)
    return header + bytes(-len(header) % alignment) + data
