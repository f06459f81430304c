"""From a checkpoint or a GGUF file to a quantized model: which tensors, in which types, with which metadata."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from k2lite import __version__
from k2lite.quantize.nf4 import SHARD_BYTES, nf4_job
from k2lite.quantize.options import QuantizeOptions
from k2lite.quantize.source import open_source, plan_source
from k2lite.quantize.source_base import QuantizeSource
from quant.convert.codec import BlockCodec
from quant.convert.job import convert
from quant.convert.job_types import ConvertJob, ConvertProgress, ConvertReport, PlannedTensor
from quant.convert.report import OutputReport, ReportFacts, report_of, report_path
from quant.convert.report_file import save_report
from quant.encode.encode import encoder_identity
from quant.errors import RequestError
from quant.gguf.gguf_layout import gguf_layout
from quant.gguf.gguf_writer import TensorSpec
from quant.imatrix.imatrix import Imatrix, unseen_lines
from quant.recipe.recipe import Recipe, check_importance, plan_types, recipe_named
from quant.types import BlockType

_EXACT_RECIPES = ("INT4", "LOSSLESS")


@dataclass(frozen=True)
class OpenedJob:
    """A job whose source is open. `type` is what was asked for, or else what fits the source.

    `notes` are for the user before the work begins. `stored` says how the source keeps its weights, in bytes by kind;
    `complete` is False where they are not there and only a plan can be made. `inexact_scales` counts, by tensor, the
    INT4 scales that a lossless repack had to round, and is to be called after the work.
    """

    job: ConvertJob
    type: str
    notes: tuple[str, ...]
    stored: Mapping[str, int]
    options: Mapping[str, str]
    complete: bool = True
    unseen_experts: Mapping[str, int] | None = None
    inexact_scales: Callable[[], Mapping[str, int]] = dict


@dataclass(frozen=True)
class Quantized:
    """A finished output: what the job says, and the report that was saved beside it."""

    outcome: ConvertReport
    report: OutputReport
    report_path: Path


def quantize(
    source: Path,
    destination: Path,
    options: QuantizeOptions | None = None,
    *,
    threads: int | None = None,
    progress: Callable[[ConvertProgress], None] | None = None,
    stop: threading.Event | None = None,
    started: Callable[[OpenedJob], None] | None = None,
    verify: bool = True,
    restart: bool = False,
) -> Quantized:
    """Write the model in `source` to `destination`, which appears only when it is complete and verified.

    What a run that was stopped has written is taken up again. `started` is told of the job before it begins. A report
    is saved beside the output. Raises K2Error.
    """
    with opened_job(source, destination, options or QuantizeOptions()) as opened:
        if started is not None:
            started(opened)
        outcome = convert(opened.job, threads=threads, progress=progress, stop=stop, verify=verify, restart=restart)
        inexact = opened.inexact_scales()
        facts = ReportFacts(
            program=f"k2lite {__version__}",
            encoder=encoder_identity(),
            source=str(source),
            options=opened.options,
            source_bytes=sum(opened.stored.values()),
            inexact_scales=sum(inexact.values()) if "INT4" in opened.stored else None,
            unseen_experts=opened.unseen_experts or {},
            notes=opened.notes,
        )
        report, path = report_of(opened.job, outcome, facts), report_path(destination)
        save_report(report, path)
        return Quantized(outcome, report, path)


@contextmanager
def opened_job(
    source: Path, destination: Path, options: QuantizeOptions, *, planning: bool = False
) -> Iterator[OpenedJob]:
    """The job that `options` ask for, with its files open until the block ends. Nothing is written.

    `planning` accepts a folder whose weights are not there. Raises K2Error.
    """
    build = _nf4 if options.is_nf4 else _gguf
    with ExitStack() as stack:
        yield build(source, destination, options, planning, stack)


def _nf4(source: Path, destination: Path, options: QuantizeOptions, planning: bool, stack: ExitStack) -> OpenedJob:
    made = stack.enter_context(
        nf4_job(
            source,
            destination,
            double_quant=options.double_quant,
            shard_bytes=options.shard_bytes or SHARD_BYTES,
            planning=planning,
        )
    )
    told = {"type": "NF4", "double quantization": "yes" if options.double_quant else "no"}
    return OpenedJob(made.job, "NF4", made.notes, made.stored_bytes, told, made.complete)


def _gguf(source: Path, destination: Path, options: QuantizeOptions, planning: bool, stack: ExitStack) -> OpenedJob:
    open_it = plan_source if planning else open_source
    opened = stack.enter_context(open_it(source, allow_requantize=options.allow_requantize))
    recipe = recipe_named(options.type or opened.default_recipe)
    _check_int4(recipe, opened)
    imatrix = stack.enter_context(Imatrix.open(options.imatrix)) if options.imatrix else None
    types = _types(opened, recipe, options, imatrix)
    if not planning:
        _check_exactness(recipe, opened, types)
    metadata = opened.metadata(options.name, recipe.file_type) + (imatrix.metadata() if imatrix else [])
    specs = [TensorSpec(tensor.name, kind, tensor.shape) for tensor, kind in zip(opened.tensors, types, strict=True)]
    planned = tuple(PlannedTensor(each, BlockCodec(kind)) for each, kind in zip(opened.tensors, types, strict=True))
    told = _told(recipe, options)
    fingerprint = {**told, "encoder": encoder_identity(), **opened.fingerprint()}
    if imatrix is not None:
        fingerprint["importance"] = imatrix.digest
    layout = gguf_layout(destination, metadata, specs, options.shard_bytes)
    job = ConvertJob(planned, layout, fingerprint, imatrix.importance if imatrix else None)
    repacked = [each.source.name for each in planned if each.codec.name == "Q4_0" and "Q4_0" in each.source.exact]
    return OpenedJob(
        job,
        recipe.name,
        (*opened.notes, *_imatrix_notes(imatrix, opened)),
        {name: total.nbytes for name, total in opened.storages.items()},
        told,
        opened.complete,
        {name: len(experts) for name, experts in imatrix.unseen().items()} if imatrix else None,
        lambda: opened.count_inexact_scales(repacked),
    )


def _check_int4(recipe: Recipe, source: QuantizeSource) -> None:
    """Raise RequestError when a repack without loss is asked of a source that has nothing to repack."""
    if recipe.name in _EXACT_RECIPES and "INT4" not in source.storages:
        stored = ", ".join(source.storages)
        raise RequestError(
            f"--type {recipe.name.lower()} repacks INT4 weights without loss, but {source.path} holds {stored}: choose "
            "Q8_0, or BF16 for a BF16 source, or leave --type out"
        )


def _check_exactness(recipe: Recipe, source: QuantizeSource, types: Sequence[BlockType]) -> None:
    """Raise RequestError when experts that are promised without loss are not stored as INT4 all."""
    if recipe.name not in _EXACT_RECIPES:
        return
    for tensor, kind in zip(source.tensors, types, strict=True):
        if tensor.name.endswith("_exps.weight") and kind.name == "Q4_0" and "Q4_0" not in tensor.exact:
            raise RequestError(
                f"{tensor.name} is not stored as INT4 throughout, so it cannot be repacked without loss: give it "
                f"another type, as in --tensor-type '{tensor.name.removesuffix('.weight')}=Q8_0'"
            )


def _types(
    source: QuantizeSource, recipe: Recipe, options: QuantizeOptions, imatrix: Imatrix | None
) -> list[BlockType]:
    shapes = [(tensor.name, tensor.shape) for tensor in source.tensors]
    types = plan_types(shapes, recipe, options.overrides, imatrix is not None)
    check_importance(shapes, types, recipe, imatrix.covers if imatrix else _knows_nothing)
    return types


def _knows_nothing(name: str) -> bool:
    return False


def _told(recipe: Recipe, options: QuantizeOptions) -> dict[str, str]:
    """The options that decide the output, in words: for the report, and so that another run can tell a difference."""
    told = {"type": recipe.name}
    if options.overrides:
        told["tensor types"] = ", ".join(map(str, options.overrides))
    if options.imatrix is not None:
        told["importance matrix"] = str(options.imatrix)
    return told


def _imatrix_notes(imatrix: Imatrix | None, source: QuantizeSource) -> list[str]:
    if imatrix is None:
        return []
    notes = [
        f"{line} never got a token when importance was collected: all columns count the same"
        for line in unseen_lines(imatrix.unseen())
    ]
    known = [tensor.name for tensor in source.tensors if imatrix.covers(tensor.name)]
    if not known:
        raise RequestError(f"{imatrix.path} names none of the tensors of {source.path}: it is of another model")
    return notes
