"""`k2lite eval`: perplexity of a model, and its difference to a reference."""

import argparse
import json
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from k2lite.cli.engines import show_loading
from k2lite.cli.options import UsageError, add_compute_options, add_model, add_option, add_switch, positive
from k2lite.cli.progress import Show, shown_progress
from k2lite.cli.text_file import read_text
from k2lite.demo.prepare import demo_eval_text
from k2lite.engine_options import EngineOptions
from quant.files.paths import is_folder

if TYPE_CHECKING:
    from k2lite.evaluate import Evaluation
    from k2lite.load import LoadedModel

DESCRIPTION = """Score a text with a model: perplexity, and against a reference also the KL divergence (mean and 99.9 %
quantile, nats per token) and how often both find the same token most probable. The text is read in windows that
start without a past; all tokens but the first of each window are scored."""
EXAMPLES = """examples:
  k2lite eval                                       the built-in demo model on its own text
  k2lite eval k2-q4.gguf --against k2-q8.gguf --text wiki.txt
  k2lite eval moonlight.gguf --against-source ./Moonlight-16B-A3B --text wiki.txt --json"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_option(parser, "--against", type=Path, metavar="FILE", help="GGUF file of the reference model")
    add_option(
        parser,
        "--against-source",
        type=Path,
        metavar="FOLDER",
        help="checkpoint folder as the reference, computed in F32",
    )
    add_option(parser, "--text", type=Path, metavar="FILE", help="UTF-8 text (required but for the demo model)")
    add_option(parser, "--window", type=positive, default=512, metavar="N", help="tokens per window (default: 512)")
    add_option(parser, "-n", "--max-tokens", type=positive, metavar="N", help="use the first N tokens of the text")
    add_switch(parser, "--json", help="one JSON object")
    add_compute_options(parser)


def execute(options: argparse.Namespace) -> int:
    text, reference_path = _text(options), _reference_path(options)
    with ExitStack() as stack:
        with shown_progress() as show:
            model = _load(options.model, options, show, stack)
            reference = None if reference_path is None else _load(reference_path, options, show, stack)
        evaluation = _evaluate(model, reference, text, options)
    print(json.dumps(asdict(evaluation)) if options.json else "\n".join(_lines(evaluation)))
    return 0


def _text(options: argparse.Namespace) -> str:
    path: Path | None = options.text
    if path is None:
        if options.model is not None:
            raise UsageError("no text: name one with --text FILE")
        path = demo_eval_text()
    return read_text(path)


def _reference_path(options: argparse.Namespace) -> Path | None:
    """Raises UsageError for two references, and for a folder where a file belongs or the other way round."""
    file: Path | None = options.against
    folder: Path | None = options.against_source
    if file is not None and folder is not None:
        raise UsageError("there can be one reference: use either --against or --against-source")
    if file is not None and is_folder(file):
        raise UsageError(f"{file} is a folder: use --against-source for it")
    if folder is not None and not is_folder(folder):
        raise UsageError(f"{folder} is not a folder: use --against for a file")
    return file or folder


def _load(path: Path | None, options: argparse.Namespace, show: Show, stack: ExitStack) -> "LoadedModel":
    from k2lite.engine import load_with_progress

    engine_options = EngineOptions(threads=options.threads, kernels=options.kernels, pin_threads=options.pin)
    loaded = load_with_progress(path, engine_options, partial(show_loading, show))
    stack.callback(loaded.close)
    return loaded


def _evaluate(
    model: "LoadedModel", reference: "LoadedModel | None", text: str, options: argparse.Namespace
) -> "Evaluation":
    from k2lite.evaluate import evaluate

    with shown_progress(_token_count) as show:

        def progress(done: int, total: int) -> None:
            show("scoring", done, total)

        return evaluate(
            model,
            text,
            window_tokens=options.window,
            reference=reference,
            max_tokens=options.max_tokens,
            progress=progress,
        )


def _token_count(count: float) -> str:
    return f"{count:,.0f} tokens"


def _lines(evaluation: "Evaluation") -> list[str]:
    error = "" if evaluation.perplexity_error is None else f" ± {evaluation.perplexity_error:.4f}"
    lines = [
        f"tokens scored         {evaluation.tokens:,}",
        f"perplexity            {evaluation.perplexity:.4f}{error}",
    ]
    if evaluation.mean_kl is not None:
        lines += [
            f"reference perplexity  {evaluation.reference_perplexity:.4f}",
            f"mean KL divergence    {evaluation.mean_kl:.6f} nats",
            f"99.9 % KL divergence  {evaluation.kl_p999:.6f} nats",
            f"same top token        {100 * (evaluation.top1_agreement or 0):.2f} %",
        ]
    return lines
