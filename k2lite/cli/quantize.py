"""`k2lite quantize`: one command from the published checkpoint to one file."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from k2lite.cli.convert_progress import ShowConversion, shown_conversion
from k2lite.cli.interrupt import stop_on_interrupt
from k2lite.cli.notes import print_note
from k2lite.cli.options import UsageError, add_option, add_switch, thread_count
from k2lite.cli.report_lines import report_lines, type_lines
from k2lite.safe_text import one_line
from k2lite.sizes import format_bytes, format_duration, parse_size
from quant.errors import RequestError
from quant.recipe.recipe import RECIPES

if TYPE_CHECKING:
    from k2lite.quantize.options import QuantizeOptions
    from k2lite.quantize.plan import QuantizePlan
    from k2lite.quantize.quantize import OpenedJob, Quantized
    from quant.convert.job_types import ConvertProgress

_TYPES = (*RECIPES, "NF4")

DESCRIPTION = """Turn a published checkpoint into one quantized model in one pass: FP8, INT4 or BF16 safetensors, or a
GGUF file, in; a GGUF file, or with --type NF4 a folder as bitsandbytes reads it, out. No intermediate copy."""
EXAMPLES = """examples:
  k2lite quantize ./Kimi-K2-Instruct --dry-run                  what it would take, before anything is written
  k2lite quantize ./Kimi-K2-Instruct kimi-k2.gguf
  k2lite quantize ./Kimi-K2-Thinking thinking.gguf              INT4 experts stay as they are, bit for bit
  k2lite quantize ./Moonlight-16B-A3B moonlight.gguf --type IQ3_XXS --imatrix moonlight.imatrix.gguf
  k2lite quantize ./Kimi-K2-Instruct k2.gguf --tensor-type 'ffn_.*_shexp=Q8_0' --shard-size 48G
  k2lite quantize ./Moonlight-16B-A3B ./moonlight-nf4 --type NF4

The output appears only when it is complete and verified, and no existing one is overwritten. After Ctrl-C, a crash or a
full disk the same command goes on where it stopped; --restart begins anew."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SRC", help="checkpoint folder, or GGUF file (shard 1 of several)")
    parser.add_argument("destination", type=Path, nargs="?", metavar="DST", help="GGUF file to write; folder for NF4")
    add_option(
        parser,
        "--type",
        type=str.upper,
        metavar="TYPE",
        help=f"{', '.join(_TYPES)} (default: Q4_K_M; INT4 for INT4 checkpoints, whose experts it keeps exactly)",
    )
    add_option(parser, "--imatrix", type=Path, metavar="FILE", help="importance matrix, ours or llama.cpp's")
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="REGEX=TYPE",
        help="type for the tensors in whose name REGEX is found; may be given several times, the first match wins",
    )
    add_option(parser, "--shard-size", type=_shard_bytes, metavar="SIZE", help="write shards of at most SIZE, as 48G")
    add_option(parser, "--name", metavar="TEXT", help="what the model is called in the file (default: as its folder)")
    add_option(parser, "--threads", type=thread_count, metavar="N", help="threads that encode (default: all cores)")
    add_switch(parser, "--double-quant", help="with NF4: quantize the block scales too, 0.4 bits a weight less")
    add_switch(parser, "--allow-requantize", help="take a GGUF source of fewer than 8 bits, rounding it once more")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read everything back and compare it with the source before the output gets its name (default: yes)",
    )
    add_switch(parser, "--restart", help="give up what an interrupted run has written")
    add_switch(parser, "--dry-run", help="only say what would be written, and how long it would take")
    add_switch(parser, "--json", help="one JSON object: the plan of a dry run, or the report")


def _shard_bytes(text: str) -> int:
    return parse_size(text)


def execute(options: argparse.Namespace) -> int:
    from k2lite.quantize.options import QuantizeOptions
    from quant.errors import UnsupportedError
    from quant.recipe.type_overrides import TypeOverride

    try:
        wanted = QuantizeOptions(
            type=options.type,
            name=options.name,
            imatrix=options.imatrix,
            overrides=tuple(map(TypeOverride.parse, options.tensor_type)),
            shard_bytes=options.shard_size,
            allow_requantize=options.allow_requantize,
            double_quant=options.double_quant,
        )
    except (RequestError, UnsupportedError) as error:
        raise UsageError(str(error)) from error
    if options.dry_run:
        return _dry_run(options, wanted)
    if options.destination is None:
        raise UsageError("no output: name one after the source, or ask for --dry-run")
    _print_made(_quantized(options, wanted), json_wanted=options.json)
    return 0


def _dry_run(options: argparse.Namespace, wanted: "QuantizeOptions") -> int:
    from k2lite.quantize.plan import plan_of
    from k2lite.quantize.quantize import opened_job

    destination = options.destination or Path("k2lite-output.gguf")
    with opened_job(options.source, destination, wanted, planning=True) as opened:
        plan = plan_of(opened, options.source, threads=options.threads)
    print(json.dumps(_plan_record(plan)) if options.json else "\n".join(_plan_lines(plan)))
    return 0


def _plan_record(plan: "QuantizePlan") -> dict[str, object]:
    figures = {"weights": plan.weights, "bits_per_weight": plan.bits_per_weight, "missing_bytes": plan.missing_bytes}
    return {**asdict(plan), "source": str(plan.source), "destination": str(plan.destination), **figures}


def _plan_lines(plan: "QuantizePlan") -> list[str]:
    """A table of the types, then what the job needs."""
    stored = ", ".join(f"{format_bytes(nbytes)} {kind}" for kind, nbytes in plan.stored_bytes.items())
    lines = [f"{plan.source}: {stored}", ""]
    lines.append(f"{'type':8} {'tensors':>7} {'weights':>21} {'size':>10} {'bits':>6}")
    for name, total in plan.types.items():
        bits = 8 * total.nbytes / total.weights
        lines.append(f"{name:8} {total.tensors:7} {total.weights:21,} {format_bytes(total.nbytes):>10} {bits:6.2f}")
    lines.append(
        f"{plan.type:8} {len(plan.tensors):7} {plan.weights:21,} {format_bytes(plan.total_bytes):>10} "
        f"{plan.bits_per_weight:6.2f}"
    )
    lines += ["", _room_line(plan), f"memory: at most {format_bytes(plan.memory_bytes)}"]
    if plan.seconds is not None and plan.weights_per_s is not None:
        rate = f"{plan.weights_per_s / 1e6:,.0f} M weights/s"
        lines.append(f"time: about {format_duration(plan.seconds)} at {rate} if the drive keeps up, then verification")
    return [*lines, *(one_line(f"note: {note}") for note in plan.notes)]


def _room_line(plan: "QuantizePlan") -> str:
    files = "1 file" if plan.files == 1 else f"{plan.files} files"
    held = f", {format_bytes(plan.held_bytes)} of them written by an earlier run" if plan.held_bytes else ""
    room = f"{format_bytes(plan.missing_bytes)} more must be freed" if plan.missing_bytes else "enough"
    return (
        f"drive: {plan.total_bytes:,} bytes in {files}{held}; {format_bytes(plan.free_bytes)} are free at "
        f"{plan.destination.absolute().parent}: {room}"
    )


def _quantized(options: argparse.Namespace, wanted: "QuantizeOptions") -> "Quantized":
    from k2lite.quantize.quantize import quantize
    from quant.convert.job_types import ConversionStopped

    with shown_conversion() as show, stop_on_interrupt(ConversionStopped) as stop:
        start = _Start(show)
        return quantize(
            options.source,
            options.destination,
            wanted,
            threads=options.threads,
            progress=start.progress,
            stop=stop,
            started=start.opened,
            verify=options.verify,
            restart=options.restart,
        )


class _Start:
    """Says what will be done once it is being done: nothing before an error that lets nothing begin."""

    def __init__(self, show: ShowConversion) -> None:
        self._show = show
        self._lines: list[str] = []

    def opened(self, opened: "OpenedJob") -> None:
        """Keep what is to be said of the job."""
        layout, weights = opened.job.layout, opened.job.total_weights
        self._lines = [
            *opened.notes,
            f"{opened.type}: {len(opened.job.tensors):,} tensors, {weights:,} weights, "
            f"{format_bytes(layout.total_bytes)} to write, {8 * layout.total_bytes / weights:.2f} bits per weight",
        ]

    def progress(self, state: "ConvertProgress") -> None:
        """Show progress, after what was kept."""
        if self._lines and state.resumed_bytes:
            self._lines.append(f"going on after {format_bytes(state.resumed_bytes)} that an earlier run wrote")
        while self._lines:
            print_note(self._lines.pop(0))
        self._show(state)


def _print_made(made: "Quantized", *, json_wanted: bool) -> None:
    """What was written, by type, the largest first; then how it went."""
    from quant.convert.report_file import report_json

    if json_wanted:
        print(report_json(made.report), end="")
        return
    outcome = made.outcome
    weights = sum(total.weights for total in outcome.types.values())
    print("\n".join([*type_lines(made.report), *report_lines(made.report)]))
    print(
        f"{one_line(str(outcome.path))}: {format_bytes(outcome.file_bytes)}, "
        f"{8 * outcome.file_bytes / weights:.2f} bits per weight, in {format_duration(outcome.seconds)}"
    )
