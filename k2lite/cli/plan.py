"""`k2lite plan`: what goes where on a machine and how fast it will be, before anything is loaded or downloaded."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from k2lite.cli.machine_options import add_machine_options, machine_of
from k2lite.cli.notes import print_note
from k2lite.cli.options import UsageError, add_context_option, add_option, add_switch, thread_count
from k2lite.engine_options import EngineOptions
from k2lite.environment import cache_folder
from quant.errors import UnsupportedError
from quant.files.paths import is_file
from quant.recipe.recipe import RECIPES, recipe_named

if TYPE_CHECKING:
    from offload.machine import Machine
    from offload.model_bytes import ModelBytes
    from offload.plan import Plan
    from offload.plan_trace import Replayed

DESCRIPTION = """Say what goes where on this machine or on a described one, how fast it will be, what limits it, and
what to change for more speed. Needs no weights: a family's name or a config.json is enough. What is not described is
measured here, which takes a few seconds. Speeds are predictions, from the worse case to the better one.
Exit status 1, with the bytes that are missing, when the model cannot run."""
EXAMPLES = """examples:
  k2lite plan                                                  Kimi K2 on this machine
  k2lite plan k2.gguf --ctx 32k                                a file that is there
  k2lite plan k2 --gpus 4xRTX4090 --ram 512G --ram-bw 330G/s --drive 12G/s
  k2lite plan k2-thinking --gpus 2x24G,1x16G --ram 256G --drive none
  k2lite plan k2.gguf --trace routing.jsonl                    with the hits of a recorded answer
  k2lite plan ./DeepSeek-V3/config.json --type Q3_K_M --json

Families: k2, k2-thinking, k2.5, deepseek-v3, moonlight, v2-lite. G of memory is 1024^3 bytes, G/s is 1000^3."""

_DEFAULT_MODEL = "k2"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_option(
        parser,
        "model",
        nargs="?",
        default=_DEFAULT_MODEL,
        metavar="MODEL",
        help="GGUF file, folder, config.json or the name of a family (default: k2)",
    )
    add_option(parser, "--type", type=str.upper, metavar="TYPE", help=f"how it is quantized: {', '.join(RECIPES)}")
    add_machine_options(parser)
    add_context_option(parser)
    add_option(
        parser, "--trace", type=Path, metavar="FILE", help="replay a routing recorded by k2lite run --record-routing"
    )
    add_option(parser, "--threads", type=thread_count, metavar="N", help="threads that measure (default: all cores)")
    add_switch(parser, "--json", help="one JSON object")


def execute(options: argparse.Namespace) -> int:
    _check_type(options.type)
    from k2lite.cli.plan_lines import plan_lines, plan_record
    from offload.plan import Workload, make_plan, next_steps

    model = _model(options)
    context = EngineOptions(options.ctx).context_for(model.context_tokens)
    machine = _machine(options)
    plan = make_plan(machine, model, Workload.of_context(context))
    steps, replayed = next_steps(plan), _replayed(options.trace, plan)
    if options.json:
        print(json.dumps(plan_record(plan, steps, replayed)))
    else:
        print("\n".join(plan_lines(plan, steps, replayed)))
    return 0 if plan.placement.fits else 1


def _replayed(trace: Path | None, plan: "Plan") -> "Replayed | None":
    from offload.plan_trace import replay_plan
    from offload.trace import read_trace

    return None if trace is None or not plan.placement.fits else replay_plan(plan, read_trace(trace))


def _check_type(name: str | None) -> None:
    if name is None:
        return
    try:
        recipe_named(name)
    except UnsupportedError as error:
        raise UsageError(str(error)) from error


def _model(options: argparse.Namespace) -> "ModelBytes":
    from k2lite.plan_model import model_named

    return model_named(options.model, options.type)


def _machine(options: argparse.Namespace) -> "Machine":
    path = Path(options.model)
    machine = machine_of(options, path if is_file(path) and path.suffix != ".json" else _existing(cache_folder()))
    assumed = [name for name, origin in machine.origins.items() if origin == "assumed"]
    if assumed:
        print_note(f"assumed, as it was not given: {', '.join(assumed)}")
    return machine


def _existing(folder: Path) -> Path:
    """`folder`, or what is there of the way to it: on the same drive, most often."""
    return next(candidate for candidate in (folder, *folder.parents) if candidate.is_dir())
