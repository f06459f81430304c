"""`k2lite imatrix`: which columns of a model's weights matter most, learned from a text."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from k2lite.cli.imatrix_progress import shown_collection
from k2lite.cli.interrupt import stop_on_interrupt
from k2lite.cli.options import UsageError, add_compute_options, add_model, add_option, add_switch, positive
from k2lite.cli.text_file import read_text
from k2lite.sizes import format_bytes

if TYPE_CHECKING:
    from k2lite.imatrix import ImatrixReport

DESCRIPTION = """Run a text through a model and add up how strongly each column of each weight is used, every expert on
its own. The file, in llama.cpp's GGUF form, tells `k2lite quantize --imatrix` (and llama.cpp) which errors matter.
Use a text of the kind that the model will see, and enough of it that all experts are chosen.

Ctrl-C and a killed run lose little: the same command goes on. With more --chunks it adds to what is there."""
EXAMPLES = """examples:
  k2lite imatrix k2-q8.gguf --text calibration.txt -o k2.imatrix.gguf
  k2lite imatrix ./Moonlight-16B-A3B --text code.txt --chunks 100 -o code.gguf
  k2lite imatrix --merge code.gguf chat.gguf -o both.gguf

The statistics of Kimi K2 take 0.9 GB of memory and 1.5 GB on the drive, those of Moonlight 25 and 40 MB."""

_SHOWN_LAYERS = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser, help="GGUF file, NF4 folder or checkpoint folder; without one, the built-in demo model")
    add_option(parser, "--text", type=Path, metavar="FILE", help="UTF-8 text to read (required)")
    add_option(parser, "-o", "--output", type=Path, metavar="FILE", help="file to write (required)")
    add_option(parser, "--chunks", type=positive, metavar="N", help="stop after N chunks (default: the whole text)")
    add_option(parser, "--chunk-size", type=positive, default=512, metavar="N", help="tokens a chunk (default: 512)")
    add_switch(parser, "--process-output", help="count the inputs of output.weight too")
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="FILE", help="add up these files instead of reading a text"
    )
    add_compute_options(parser)


def execute(options: argparse.Namespace) -> int:
    if options.output is None:
        raise UsageError("no output: name one with -o FILE")
    if options.merge is not None:
        _merge(options)
    else:
        _collect(options)
    return 0


def _merge(options: argparse.Namespace) -> None:
    if options.model is not None or options.text is not None:
        raise UsageError("--merge takes finished files: it needs neither a model nor --text")
    from quant.imatrix.merge import merge_imatrices

    header = merge_imatrices(options.merge, options.output)
    print(f"{options.output}: {len(options.merge)} files, {header.chunk_count:,} chunks of {header.chunk_size} tokens")
    _print_unseen(options.output)


def _collect(options: argparse.Namespace) -> None:
    if options.text is None:
        raise UsageError("no text: name one with --text FILE")
    from k2lite.demo.prepare import prepare_demo_model
    from k2lite.imatrix import CollectionStopped, ImatrixJob, collect_imatrix

    text = read_text(options.text)
    with shown_collection() as show, stop_on_interrupt(CollectionStopped) as stop:
        job = ImatrixJob(
            model=options.model or prepare_demo_model(show.loading),
            text=text,
            dataset=str(options.text),
            destination=options.output,
            chunk_tokens=options.chunk_size,
            max_chunks=options.chunks,
            process_output=options.process_output,
            kernels=options.kernels,
            threads=options.threads,
            pin_threads=options.pin,
        )
        report = collect_imatrix(job, loading=show.loaded_bytes, progress=show.collecting, stop=stop)
    _print_report(report)


def _print_report(report: "ImatrixReport") -> None:
    print(
        f"{report.path}: {report.weights} weights, {report.chunks:,} chunks, {report.tokens:,} tokens, "
        f"{format_bytes(report.path.stat().st_size)}"
    )
    _print_unseen(report.path)


def _print_unseen(path: Path) -> None:
    """Say which experts no token went to."""
    from quant.imatrix.imatrix import Imatrix, unseen_lines

    with Imatrix.open(path) as imatrix:
        lines = unseen_lines(imatrix.unseen())
    if not lines:
        return
    print("experts that no token went to, for which all columns count the same (more text would reach them):")
    for line in lines[:_SHOWN_LAYERS]:
        print(f"  {line}")
    if len(lines) > _SHOWN_LAYERS:
        print(f"  and {len(lines) - _SHOWN_LAYERS} more")
