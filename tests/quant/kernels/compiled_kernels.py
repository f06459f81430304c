"""A program for test_triton.py: compiles kernels for cards that need not be there, and says what came out.

Arguments: a compute capability without its dot. Prints one JSON object: kernel -> {registers, stack bytes, numbers of
instructions that use shared memory or tensor cores, warps}. Needs Triton without its interpreter.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from quant.kernels.triton import activations, expand, experts, matrix, vector
from quant.kernels.triton.decoders import DECODERS
from quant.kernels.triton.grouped import down_tile, gate_up_tile, tile_arguments
from quant.kernels.triton.tuning import known

POINTERS = {
    "weights": "*u8", "arena": "*u8", "bytes_": "*u8", "x": "*i32", "y": "*fp32", "table": "*i64", "slots": "*i32",
    "h": "*fp32", "parts": "*fp32", "starts": "*i64", "out": "*bf16", "rows": "i32", "tokens": "i32", "stride": "i32",
    "token": "*i32", "gate": "*bf16", "up": "*bf16", "down": "*bf16", "places": "*i32", "hidden": "i32",
}  # fmt: skip
FF, HIDDEN = 2048, 7168
SHARED = {"USED": 8, "PAIRS": 8, "ALL": 8, "WIDTH": 1}


def main() -> int:
    capability = int(sys.argv[1])
    found = {name: compiled(capability, *job) for name, *job in jobs()}
    print(json.dumps(found))
    return 0


def jobs() -> Iterator[tuple[str, Any, dict[str, Any], dict[str, str]]]:
    """Name, kernel, what it is compiled for, and types of pointers that differ from the usual."""
    for block, decoder in DECODERS.items():
        cuts = {name: known(name, decoder, 1) for name in ("linear", "gate_up", "down")}

        def of(cols: int, name: str, decoder: Any = decoder, cuts: Any = cuts) -> dict[str, Any]:
            cut = cuts[name]
            return decoder.arguments(cols) | {"ROWS": cut.rows, "BLOCKS": cut.of_type(decoder), "num_warps": cut.warps}

        yield f"linear {block}", vector.linear_kernel, of(HIDDEN, "linear") | {"HEADS": 1, "WIDTH": 1}, {}
        yield f"gate_up {block}", experts.gate_up_kernel, of(HIDDEN, "gate_up") | SHARED | {"FF": FF}, {}
        yield f"down {block}", experts.down_kernel, of(FF, "down") | SHARED | {"HIDDEN": HIDDEN}, {"h": "*i32"}
        wide = decoder.arguments(HIDDEN) | {"BLOCKS": 1024 // block.block_weights, "ALIGNED": 32, "num_warps": 1}
        yield f"expand {block}", expand.expand_kernel, wide, {}
    yield (
        "encode",
        activations._encode_kernel,
        {"COLS": HIDDEN, "TILE": 16, "num_warps": 4},
        {"x": "*fp32", "out": "*i32"},
    )
    plain = {"x": "*bf16", "h": "*bf16", "starts": "*i32"}
    for most in (16, 64, 1000):
        sizes = {"COLS": HIDDEN, "FF": FF}
        yield f"gate_up {most}", matrix.gate_up_matrix_kernel, sizes | tile_arguments(gate_up_tile(most)), plain
        sizes = {"COLS": FF, "HIDDEN": HIDDEN}
        yield f"down {most}", matrix.down_matrix_kernel, sizes | tile_arguments(down_tile(most)), plain


def compiled(capability: int, kernel: Any, constants: dict[str, Any], types: dict[str, str]) -> dict[str, int]:
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages") if key in constants}
    signature = {name: "constexpr" if name in constants else (POINTERS | types)[name] for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    target = GPUTarget("cuda", capability, 32)
    result = triton.compile(ASTSource(kernel, signature, values, aligned), target=target, options=options)
    return resources(result.asm["cubin"]) | {"warps": options["num_warps"]}


def resources(binary: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = re.search(r"REG:(\d+) STACK:(\d+)", tool_output("cuobjdump", "-res-usage", file.name))
        code = tool_output("nvdisasm", "-c", file.name)
    assert usage is not None
    return {
        "registers": int(usage[1]),
        "stack_bytes": int(usage[2]),
        "shared_instructions": len(re.findall(r"\b(?:LDS|STS|LDSM|STSM)\b", code)),
        "matrix_instructions": len(re.findall(r"\b(?:HMMA|HGMMA)\b", code)),
    }


def tool_output(name: str, *arguments: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
