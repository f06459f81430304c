"""Types that the user chose for some tensors, as REGEX=TYPE."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from quant.errors import RequestError
from quant.recipe.rules import stays_f32
from quant.types import BLOCK_TYPES, BlockType

_NEAR_NAMES = 3
_SYNTAX = re.compile(r"\\.|[\^$*+?()\[\]{}|]")


@dataclass(frozen=True)
class TypeOverride:
    """Tensors in whose name `pattern` is found anywhere get `type`. Of several overrides the first that matches wins,
    as in llama.cpp."""

    pattern: re.Pattern[str]
    type: BlockType

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "REGEX=TYPE", as in "attn_.*=q8_0". Raises RequestError."""
        regex, separator, name = text.rpartition("=")
        if not separator or not regex or not name:
            raise RequestError(f"{text!r} is not REGEX=TYPE: write it as in 'ffn_down_shexp=Q8_0'")
        types = {block.name: block for block in BLOCK_TYPES}
        if name.strip().upper() not in types:
            raise RequestError(f"{text!r} asks for an unknown tensor type {name!r}: known are {', '.join(types)}")
        try:
            pattern = re.compile(regex)
        except (re.error, OverflowError, RecursionError) as error:
            raise RequestError(f"{regex!r} is not a regular expression ({error}): a literal dot is \\.") from error
        return cls(pattern, types[name.strip().upper()])

    def matches(self, name: str) -> bool:
        """Whether this is meant for the tensor `name`."""
        return self.pattern.search(name) is not None

    def __str__(self) -> str:
        return f"{self.pattern.pattern}={self.type}"


def apply_overrides(
    tensors: Sequence[tuple[str, tuple[int, ...]]], types: Sequence[BlockType], overrides: Sequence[TypeOverride]
) -> list[BlockType]:
    """The types with the overrides in them.

    Norms, biases and the router stay F32 whatever matches, so that a regex for a whole layer can be written. Raises
    RequestError for an override without effect (it matches nothing, nothing that may be changed, or nothing that an
    earlier one left) and for a type whose blocks do not fit a row.
    """
    chosen, used = list(types), set()
    for index, (name, shape) in enumerate(tensors):
        override = next((override for override in overrides if override.matches(name)), None)
        if override is None or stays_f32(name, shape):
            continue
        if not override.type.fits(shape[-1]):
            raise RequestError(
                f"{override} does not fit {name}: its rows of {shape[-1]} weights are not a multiple of the block of "
                f"{override.type.block_weights}; give it another type with an override before this one"
            )
        chosen[index] = override.type
        used.add(override)
    for override in overrides:
        if override not in used:
            _refuse_without_effect(override, tensors, overrides)
    return chosen


def _refuse_without_effect(
    override: TypeOverride, tensors: Sequence[tuple[str, tuple[int, ...]]], overrides: Sequence[TypeOverride]
) -> None:
    """Say why nothing got the type of `override`. Silent when that is what was asked for: norms that stay F32."""
    matched = [(name, shape) for name, shape in tensors if override.matches(name)]
    if not matched:
        near = _near([name for name, _ in tensors], override)
        hint = f"did you mean {', '.join(near)}?" if near else "`k2lite inspect` lists the names"
        raise RequestError(f"{override.pattern.pattern!r} matches none of the {len(tensors)} tensors: {hint}")
    free = [name for name, shape in matched if not stays_f32(name, shape)]
    if free:
        earlier = next(other for other in overrides if other.matches(free[0]))
        raise RequestError(f"{override} has no effect, {earlier} takes {free[0]} before it: change their order")
    if override.type.name != "F32":
        raise RequestError(
            f"{override} has no effect: {matched[0][0]} stays F32, as norms, biases and the router always do"
        )


def _near(names: Iterable[str], override: TypeOverride) -> list[str]:
    """One example each of the tensors whose names are most like the regex."""
    wanted = _bare(_SYNTAX.sub("", override.pattern.pattern))
    examples: dict[str, str] = {}
    for name in names:
        examples.setdefault(_bare(name), name)
    return [examples[name] for name in difflib.get_close_matches(wanted, examples, _NEAR_NAMES, cutoff=0.5)]


def _bare(name: str) -> str:
    """The part of a tensor's name that says what it is."""
    return re.sub(r"^(blk\.?\d*\.?)|(\.?weight)$", "", name)
