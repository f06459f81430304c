"""`k2lite synth`: random-weight models of any shape, as fast as the drive takes them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from k2lite.cli.interrupt import stop_on_interrupt
from k2lite.cli.notes import print_note
from k2lite.cli.options import UsageError, add_option, add_switch, number, positive, seed, thread_count, whole_number
from k2lite.cli.progress import shown_progress
from k2lite.sizes import format_bytes, format_duration
from quant.errors import RequestError, UnsupportedError
from quant.recipe.recipe import RECIPES, recipe_named

if TYPE_CHECKING:
    from k2lite.synth.check import SynthCheck
    from k2lite.synth.routing import Routing
    from k2lite.synth.shapes import Shape
    from k2lite.synth.synth import SynthPlan
    from quant.files.fresh_output import FreshProgress

DESCRIPTION = """Make a model with random weights in the shape of a real one: a checkpoint folder, or with --type a GGUF
file. For benchmarks and tests: it is as large and as fast as the real one, and talks nonsense."""
EXAMPLES = """examples:
  k2lite synth k2-slice --shape k2 --layers 3 --experts 64           11 GB of FP8 checkpoint at Kimi K2's full width
  k2lite synth k2-slice.gguf --shape k2 --layers 3 --experts 64 --type Q4_K_M
  k2lite synth k2-busy.gguf --shape k2 --layers 3 --experts 64 --type Q4_K_M --routing-skew 0.5 --routing-reuse 0.3
  k2lite synth tiny --shape moonlight --layers 3 --hidden 256 --expert-width 128 --vocab 4096
  k2lite synth all-of-k2 --shape k2-thinking --dry-run               how large it would be

Numbers that are not given are those of the shape. The model appears only when it is complete, and nothing that exists
is overwritten. Ctrl-C leaves nothing behind. The same options give the same bytes."""

_SHAPES = ("k2", "k2-thinking", "k2.5", "moonlight", "deepseek-v3", "deepseek-v2-lite")
_FORMS = ("bf16", "fp8", "int4")
_MAX_CONFIG_BYTES = 16 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, metavar="OUT", help="folder or GGUF file to make")
    add_option(parser, "--shape", choices=_SHAPES, metavar="NAME", help=f"one of {', '.join(_SHAPES)}")
    add_option(parser, "--config", type=Path, metavar="FILE", help="any config.json, instead of --shape")
    add_option(parser, "--form", choices=_FORMS, help="how a checkpoint folder stores weights (default: as published)")
    add_option(
        parser, "--type", type=str.upper, metavar="TYPE", help=f"make a GGUF file instead: {', '.join(RECIPES)}"
    )
    add_option(parser, "--layers", type=positive, metavar="N", help="decoder layers, dense ones included")
    add_option(parser, "--dense-layers", type=whole_number, metavar="N", help="layers without experts, the first ones")
    add_option(parser, "--experts", type=positive, metavar="N", help="experts of a layer")
    add_option(parser, "--experts-per-token", type=positive, metavar="N", help="experts that a token goes to")
    add_option(parser, "--hidden", type=positive, metavar="N", help="width of the stream")
    add_option(parser, "--expert-width", type=positive, metavar="N", help="inner width of an expert")
    add_option(parser, "--dense-width", type=positive, metavar="N", help="inner width of a layer without experts")
    add_option(parser, "--vocab", type=positive, metavar="N", help="tokens, special ones included")
    add_option(
        parser,
        "--routing-skew",
        type=number,
        metavar="P",
        help="share of all uses that the busiest fifth of the experts gets, as in 0.5 (default: even)",
    )
    add_option(
        parser,
        "--routing-reuse",
        type=number,
        metavar="P",
        help="share of a token's experts that the one before went to, within a topic, as in 0.3 (default: even)",
    )
    add_option(parser, "--tokenizer", type=Path, metavar="FOLDER", help="take the tokenizer of a real model")
    add_option(parser, "--seed", type=seed, default=0, metavar="N", help="another one gives other weights (default: 0)")
    add_option(parser, "--threads", type=thread_count, metavar="N", help="threads that draw (default: all cores)")
    add_switch(parser, "--dry-run", help="only print what would be made")
    add_switch(parser, "--no-check", help="do not look at what was made")


def execute(options: argparse.Namespace) -> int:
    plan = _plan(options)
    _print_plan(plan)
    if options.dry_run:
        return 0
    seconds = _write(plan, options.threads)
    size = plan.layout.total_bytes
    print(f"{options.output}: {format_bytes(size)} in {format_duration(seconds)}, {size / seconds / 1e9:.2f} GB/s")
    if not options.no_check:
        _print_check(options)
    return 0


def _plan(options: argparse.Namespace) -> "SynthPlan":
    from k2lite.synth.shapes import Changes
    from k2lite.synth.synth import SynthRequest, plan_synthetic

    if (options.shape is None) == (options.config is None):
        raise UsageError("say which model: --shape NAME or --config FILE, one of the two")
    if options.form is not None and options.type is not None:
        raise UsageError("--form makes a checkpoint folder and --type a GGUF file: choose one of them")
    if options.type is not None:
        _check_recipe(options.type)
    if options.tokenizer is not None and options.vocab is not None:
        raise UsageError("--vocab cannot take effect: the tokenizer in --tokenizer has its own size")
    shape, name = _shape(options)
    changes = Changes(
        layers=options.layers,
        dense_layers=options.dense_layers,
        experts=options.experts,
        experts_per_token=options.experts_per_token,
        hidden=options.hidden,
        expert_width=options.expert_width,
        dense_width=options.dense_width,
        vocab=options.vocab,
    )
    return plan_synthetic(
        SynthRequest(
            options.output,
            shape,
            name,
            changes,
            form=options.form,
            recipe=options.type,
            seed=options.seed,
            tokenizer=options.tokenizer,
            routing=_routing(options),
        )
    )


def _routing(options: argparse.Namespace) -> "Routing":
    from k2lite.synth.routing import Routing

    if options.type is None and (options.routing_skew is not None or options.routing_reuse is not None):
        raise UsageError("--routing-skew and --routing-reuse go into GGUF files only: choose a --type")
    try:
        return Routing(options.routing_skew, options.routing_reuse)
    except RequestError as error:
        raise UsageError(str(error)) from error


def _check_recipe(name: str) -> None:
    """Raise UsageError for a name that is none."""
    try:
        recipe_named(name)
    except UnsupportedError as error:
        raise UsageError(str(error)) from error


def _shape(options: argparse.Namespace) -> "tuple[Shape, str]":
    """The shape, and what the model is called after."""
    from k2lite.synth.families import shape_named
    from k2lite.synth.shapes import shape_of
    from quant.files.bounded_json import read_json_object

    if options.shape is not None:
        return shape_named(options.shape), options.shape
    return shape_of(read_json_object(options.config, _MAX_CONFIG_BYTES)), options.config.resolve().parent.name


def _write(plan: "SynthPlan", threads: int | None) -> float:
    from k2lite.synth.synth import write_synthetic
    from quant.files.fresh_output import OutputStopped

    with shown_progress() as show, stop_on_interrupt(OutputStopped) as stop:

        def progress(state: "FreshProgress") -> None:
            show("writing", state.written_bytes, state.total_bytes)

        return write_synthetic(plan, threads=threads, progress=progress, stop=stop)


def _print_plan(plan: "SynthPlan") -> None:
    print(plan.model.name)
    for name, total in plan.totals().items():
        print(f"{name:10} {total.tensors:7,} tensors  {format_bytes(total.nbytes):>10}")
    files = f"{len(plan.layout.files)} files" if plan.layout.is_folder else "one file"
    for note in plan.notes:
        print_note(note)
    print(f"{plan.weights:,} weights, {plan.layout.total_bytes:,} bytes in {files}")


def _print_check(options: argparse.Namespace) -> None:
    from k2lite.synth.check import check_synthetic

    uneven = options.routing_skew is not None
    check = check_synthetic(options.output, options.seed, threads=options.threads, uneven=uneven)
    print(f"checked: {check.sampled_tensors} tensors ({check.sampled_weights:,} weights) finite, spread as meant")
    _print_routing(check)
    if check.forward_tokens:
        print(f"forward: {check.forward_tokens} tokens, logits finite, standard deviation {check.logit_std:.2f}")
    else:
        print("forward: left out, the model is too large for a quick one")


def _print_routing(check: "SynthCheck") -> None:
    if not check.routing:
        return
    idlest = min(share.idlest for share in check.routing)
    layers = ", ".join(str(share.layer) for share in check.routing)
    print(f"routing: busiest expert {check.busiest:.2f}, idlest {idlest:.2f} of the mean share (layers {layers})")
