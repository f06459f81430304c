"""`k2lite bench`: measured speeds, beside the memory's and on request beside llama.cpp's."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from k2lite.bench.options import LLAMA_CPP, BenchOptions
from k2lite.cli.notes import print_note
from k2lite.cli.options import (
    UsageError,
    add_compute_options,
    add_context_option,
    add_model,
    add_option,
    add_switch,
    positive,
)
from k2lite.cli.progress import shown_progress
from k2lite.sizes import parse_size
from quant.errors import RequestError
from quant.files.paths import is_folder

DESCRIPTION = """Measure how fast a model decodes and reads prompts here, and what share of the memory's read bandwidth
that is. Tokens are random and never the same twice. Everything is measured in several rounds, sides in turn and each
alone: medians, with the smallest and the largest value."""
EXAMPLES = """examples:
  k2lite bench                                        the built-in demo model
  k2lite bench k2.gguf --against llama.cpp            both in turn on the same file
  k2lite bench k2.gguf --against llama.cpp --busy-neighbour --prefill-tokens 512,2048 --json
  k2lite bench --shape k2                             how fast Kimi K2 itself would decode here: an estimate
  k2lite bench k2.gguf --profile                      where a token's time goes

--shape writes some gigabytes of random weights to the folder for temporary files (TMPDIR), and removes them. Where RAM
cannot hold the whole model, they are measured a second time with as little of them in RAM: TMPDIR should be on the
drive that the model will be on."""

_SHAPES = ("k2", "moonlight", "deepseek-v3")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_option(parser, "--shape", choices=_SHAPES, help="measure a slice of this model with random weights instead")
    add_option(
        parser,
        "--prefill-tokens",
        type=prompt_lengths,
        default=(512,),
        metavar="N[,N...]",
        help="lengths of prompts, 0 for none (default: 512)",
    )
    add_option(
        parser, "--decode-tokens", type=positive, default=32, metavar="N", help="tokens of a round (default: 32)"
    )
    add_option(parser, "--depth", type=parse_size, default=0, metavar="N", help="tokens before those (default: 0)")
    add_option(parser, "--rounds", type=positive, default=5, metavar="N", help="(default: 5)")
    add_option(parser, "--against", choices=(LLAMA_CPP,), help="measure it too, on the same file")
    add_switch(parser, "--busy-neighbour", help="decode also while another process keeps one core busy")
    add_option(
        parser, "--memory-limit", type=positive, metavar="SIZE", help="one limit for all sides, as in 4G (Linux)"
    )
    add_switch(parser, "--profile", help="show where a token's time goes")
    add_switch(parser, "--json", help="one JSON object")
    add_context_option(parser)
    add_compute_options(parser)


def prompt_lengths(text: str) -> tuple[int, ...]:
    """Lengths divided by commas; "0" is none at all. Raises ValueError."""
    lengths = tuple(dict.fromkeys(parse_size(part) for part in text.split(",")))
    if lengths == (0,):
        return ()
    if 0 in lengths:
        raise ValueError(f"{text}: a prompt has 1 or more tokens")
    return lengths


def execute(options: argparse.Namespace) -> int:
    if options.shape is not None and options.model is not None:
        raise UsageError("--shape makes a model to measure: leave out either it or MODEL")
    request = _request(options, Path())  # complains about numbers before anything is loaded
    if options.shape is not None:
        summary = _measured_shape(options.shape, request)
    else:
        with _model_file(options) as path:
            summary = _measured(replace(request, path=path))
    if options.json:
        print(json.dumps(summary))
    else:
        from k2lite.bench.report import report_lines

        print("\n".join(report_lines(summary)))
    return 0


def _request(options: argparse.Namespace, path: Path) -> BenchOptions:
    try:
        return BenchOptions(
            path=path,
            prefill_tokens=options.prefill_tokens,
            decode_tokens=options.decode_tokens,
            depth=options.depth,
            rounds=options.rounds,
            threads=options.threads,
            pin_threads=options.pin,
            kernels=options.kernels,
            context_tokens=options.ctx,
            against=options.against,
            busy_neighbour=options.busy_neighbour,
            memory_limit_bytes=options.memory_limit,
            profile=options.profile or options.shape is not None,  # the estimate is made of it
        )
    except RequestError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _model_file(options: argparse.Namespace) -> Iterator[Path]:
    """The file to measure: the one named, or the demo model."""
    if options.model is None:
        yield _demo_file()
    elif is_folder(options.model):
        raise UsageError(f"{options.model} is a folder, but bench measures GGUF files: k2lite quantize makes them")
    else:
        yield options.model


def _measured_shape(shape: str, request: BenchOptions) -> dict[str, Any]:
    """A slice that goes away again, with everything in RAM, then as the whole model would be here."""
    from k2lite.bench.machine import machine_facts
    from k2lite.bench.shape_here import speed_here
    from k2lite.bench.shape_slice import estimate, plan_slice

    with tempfile.TemporaryDirectory(prefix="k2lite-bench-") as folder:
        memory = request.memory_limit_bytes or machine_facts()["memory_bytes"]
        plan = plan_slice(shape, memory, shutil.disk_usage(folder).free)
        request = replace(request, path=_slice_file(shape, Path(folder), plan.experts))
        summary = _measured(request)
        summary["estimate"] = estimate(shape, summary)
        if plan.paged_share < 1:
            print_note("measuring with as little in RAM as the whole model would have")
        summary["here"] = speed_here(shape, summary, plan, request)
    return summary


def _demo_file() -> Path:
    from k2lite.demo.prepare import prepare_demo_model

    with shown_progress() as show:
        return prepare_demo_model(
            report=lambda progress: show("preparing the demo model", progress.done_bytes, progress.total_bytes)
        )


def _slice_file(shape: str, folder: Path, experts: int) -> Path:
    from k2lite.bench.shape_slice import write_slice

    with shown_progress() as show:
        return write_slice(shape, folder, experts, lambda done, total: show("writing random weights", done, total))


def _measured(request: BenchOptions) -> dict[str, Any]:
    from k2lite.bench.measure import measure
    from k2lite.bench.summary import summarize

    with shown_progress(_steps) as show:
        return summarize(request, measure(request, print_note, show))


def _steps(count: float) -> str:
    return f"{count:.2g} steps"
