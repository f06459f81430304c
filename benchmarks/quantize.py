"""One pass against the usual chain: FP8 checkpoint -> Q4_K_M, by k2lite and by way of a BF16 file and llama.cpp.

    python -m benchmarks.quantize --work FOLDER

makes a slice of Kimi K2 (true width, few layers, random weights) in FOLDER and converts it both ways in turn. The
chain's first step is k2lite's own conversion to BF16, which is faster than llama.cpp's script in Python: the ratio is a
lower bound. Both sides use the same threads. The chain verifies nothing; k2lite verifies what it wrote, and its
figure is given with and without.
"""

import argparse
import ctypes
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measured_process import Measured, measure
from quant.gguf.gguf_file import GgufFile

# llama.cpp's own numbers of its file types.
_LLAMA_FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}


@dataclass(frozen=True)
class Round:
    """One conversion each way. `ours_unverified` leaves the verification out."""

    ours: Measured
    ours_unverified: Measured
    to_bf16: Measured
    quantize: Measured

    @property
    def chain_seconds(self) -> float:
        """Seconds of both steps of the chain."""
        return self.to_bf16.seconds + self.quantize.seconds


def main() -> int:
    options = _options()
    if options.llama_quantize:
        source, destination = map(Path, options.llama_quantize)
        return _llama_quantize(source, destination, options.type, options.threads)
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    source = _slice(work, options)
    rounds = []
    for number in range(options.rounds):
        rounds.append(_round(work, source, options))
        last = rounds[-1]
        print(
            f"round {number + 1} of {options.rounds}: k2lite {last.ours.seconds:.1f} s "
            f"({last.ours_unverified.seconds:.1f} s unverified), chain {last.to_bf16.seconds:.1f} + "
            f"{last.quantize.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    result = _result(rounds, *_sizes(work, source, options))
    print(json.dumps(result, indent=None if options.json else 2))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/benchmark"), help="folder for the models (30 GB)")
    parser.add_argument("--layers", type=int, default=3, help="1 dense, the rest with experts (default: 3)")
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=16384)
    parser.add_argument("--type", default="Q4_K_M", choices=tuple(_LLAMA_FILE_TYPES))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--llama-quantize", nargs=2, metavar=("IN", "OUT"), help="only llama.cpp's step")
    return parser.parse_args()


def _slice(work: Path, options: argparse.Namespace) -> Path:
    """The FP8 checkpoint, made when it is not there."""
    source = work / f"k2-{options.layers}x{options.experts}-fp8"
    if not source.is_dir():
        sizes = ("--layers", options.layers, "--experts", options.experts, "--vocab", options.vocab)
        measure(_k2lite("synth", source, "--shape", "k2", "--form", "fp8", *sizes), work)
    return source


def _round(work: Path, source: Path, options: argparse.Namespace) -> Round:
    folder = work / "output"
    folder.mkdir(exist_ok=True)
    common = ("--threads", options.threads)
    ours, bf16, theirs = folder / "k2lite.gguf", folder / "bf16.gguf", folder / "chain.gguf"
    quantize = ("quantize", source)
    verified = _made(folder, ours, _k2lite(*quantize, ours, "--type", options.type, *common))
    unverified = _made(folder, ours, _k2lite(*quantize, ours, "--type", options.type, "--no-verify", *common))
    to_bf16 = measure(_k2lite(*quantize, bf16, "--type", "BF16", "--no-verify", *common), folder)
    chain = [sys.executable, "-m", "benchmarks.quantize", "--llama-quantize", str(bf16), str(theirs)]
    quantized = measure([*chain, "--type", options.type, "--threads", str(options.threads)], folder)
    _empty(folder)
    return Round(verified, unverified, to_bf16, quantized)


def _made(folder: Path, output: Path, command: Sequence[str]) -> Measured:
    """Run `command`, look at what it left, and clear the folder."""
    measured = measure(command, folder)
    if not output.is_file():
        raise FileNotFoundError(f"{output} was not made")
    _empty(folder)
    return measured


def _sizes(work: Path, source: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Weights and bytes of the file, from one more conversion."""
    output = work / "output" / "sizes.gguf"
    command = _k2lite("quantize", source, output, "--type", options.type, "--no-verify")
    measure(command, work / "output")
    with GgufFile.open(output) as file:
        weights = sum(info.rows * info.shape[-1] for info in file.tensors.values())
    size = output.stat().st_size
    _empty(work / "output")
    return weights, size


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _k2lite(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "k2lite.cli.main", *map(str, arguments)]


def _result(rounds: Sequence[Round], weights: int, output_bytes: int) -> dict[str, object]:
    ratios = [each.chain_seconds / each.ours.seconds for each in rounds]
    unverified = [each.chain_seconds / each.ours_unverified.seconds for each in rounds]
    return {
        "weights": weights,
        "output_bytes": output_bytes,
        "rounds": len(rounds),
        "k2lite_weights_per_s": _spread([weights / each.ours.seconds for each in rounds]),
        "k2lite_unverified_weights_per_s": _spread([weights / each.ours_unverified.seconds for each in rounds]),
        "chain_weights_per_s": _spread([weights / each.chain_seconds for each in rounds]),
        "chain_to_bf16_s": _spread([each.to_bf16.seconds for each in rounds]),
        "chain_quantize_s": _spread([each.quantize.seconds for each in rounds]),
        "ratio": _spread(ratios),
        "ratio_unverified": _spread(unverified),
        "peak_rss_bytes": max(each.ours.peak_rss_bytes for each in rounds),
        "chain_peak_rss_bytes": max(each.quantize.peak_rss_bytes for each in rounds),
        "disk_high_water_share": max(each.ours.peak_folder_bytes for each in rounds) / output_bytes,
        "chain_disk_high_water_share": max(each.quantize.peak_folder_bytes for each in rounds) / output_bytes,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _llama_quantize(source: Path, destination: Path, file_type: str, threads: int) -> int:
    """llama.cpp's quantizer, in this process."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = _LLAMA_FILE_TYPES[file_type]
    status: int = llama_cpp.llama_model_quantize(str(source).encode(), str(destination).encode(), ctypes.byref(params))
    return status


if __name__ == "__main__":
    sys.exit(main())
