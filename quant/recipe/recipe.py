"""Recipes: which block type each tensor of a file gets, as llama.cpp's quantizer decides it.

Quantizing a tensor is somebody else's work; here is only the decision, from names and shapes alone.
"""

from collections.abc import Callable, Sequence

from quant.errors import EncodeError, UnsupportedError
from quant.recipe.rules import Place, is_down, layer_of, stays_f32
from quant.recipe.table import ALIASES, RECIPES, Recipe
from quant.recipe.type_overrides import TypeOverride, apply_overrides
from quant.types import BlockType, block_type

__all__ = ["RECIPES", "Recipe", "check_importance", "missing_importance", "plan_types", "recipe_named"]

NamedShape = tuple[str, tuple[int, ...]]

# What a type becomes when its blocks of 256 do not divide a row: the next larger type with blocks of 32.
_SMALL_BLOCKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
}

_NEVER_COLLECTED = ("token_embd.weight", "output.weight")
_CANNOT_DO_WITHOUT = ("IQ1_S", "IQ2_XXS", "IQ2_XS")  # their encoders end the process
_NAMED_IN_ERRORS = 3


def recipe_named(name: str) -> Recipe:
    """The recipe called `name`, in any case. Raises UnsupportedError that lists the known ones."""
    known = ALIASES.get(name.upper(), name.upper())
    if known not in RECIPES:
        raise UnsupportedError(f"unknown recipe {name!r}: known are {', '.join(RECIPES)}")
    return RECIPES[known]


def plan_types(
    tensors: Sequence[NamedShape], recipe: Recipe, overrides: Sequence[TypeOverride] = (), imatrix: bool = False
) -> list[BlockType]:
    """The type of each tensor (GGUF name, numpy shape) of a whole model, in the same order.

    `imatrix` says that the importance of columns is known: some recipes then trust it and spend fewer bits. Overrides
    come last and change nothing but the tensors they name; where none applies, a type that does not fit a row gives
    way to one that does. Raises RequestError for overrides that cannot be followed, see `quant.recipe.type_overrides`.
    """
    picks = [_pick(recipe, place) for place in _places(tensors, imatrix)]
    return apply_overrides(tensors, picks, overrides)


def missing_importance(
    tensors: Sequence[NamedShape], types: Sequence[BlockType], recipe: Recipe, known: Callable[[str], bool]
) -> list[str]:
    """The tensors whose type is worthless without the importance of columns, among those that `known` denies."""
    return [
        name
        for (name, _), block in zip(tensors, types, strict=True)
        if block.name in (_CANNOT_DO_WITHOUT if name in _NEVER_COLLECTED else recipe.needs_importance)
        and not known(name)
    ]


def check_importance(
    tensors: Sequence[NamedShape], types: Sequence[BlockType], recipe: Recipe, known: Callable[[str], bool]
) -> None:
    """Raise EncodeError that names the tensors of `missing_importance`, if there are any."""
    missing = missing_importance(tensors, types, recipe, known)
    if missing:
        shown = ", ".join(missing[:_NAMED_IN_ERRORS]) + (" ..." if len(missing) > _NAMED_IN_ERRORS else "")
        kinds = {name: block.name for (name, _), block in zip(tensors, types, strict=True)}
        needed = sorted({kinds[name] for name in missing})
        raise EncodeError(
            f"{len(missing)} tensors of type {', '.join(needed)} need an importance matrix that covers them ({shown}): "
            "give one (--imatrix), made by `k2lite imatrix`, or choose a type of 3 bits or more such as Q3_K_M"
        )


def _places(tensors: Sequence[NamedShape], imatrix: bool) -> list[Place]:
    """Every tensor within its model, in the order of `tensors`."""
    layers = 1 + max((layer for name, _ in tensors if (layer := layer_of(name)) is not None), default=-1)
    experts = max((shape[0] for name, shape in tensors if name.endswith("_exps.weight") and len(shape) == 3), default=0)
    tied = all(name != "output.weight" for name, _ in tensors)
    # Counted as llama.cpp goes through a file, whatever the order in it: by layer, then by name.
    downs = sorted((name for name, _ in tensors if is_down(name)), key=lambda name: (layer_of(name) or 0, name))
    before = {name: count for count, name in enumerate(downs)}
    return [
        Place(name, shape, layer_of(name), layers, experts, before.get(name, 0), tied, imatrix)
        for name, shape in tensors
    ]


def _pick(recipe: Recipe, place: Place) -> BlockType:
    if stays_f32(place.name, place.shape):
        return block_type("F32")
    rule = next((rule for rule in recipe.rules if rule.applies(place)), None)
    return fitting_type(rule.type if rule else recipe.default, place.shape[-1])


def fitting_type(name: str, cols: int) -> BlockType:
    """The type called `name`, or the nearest one whose blocks divide a row of `cols` weights."""
    for candidate in (name, _SMALL_BLOCKS.get(name, "F16")):
        if block_type(candidate).fits(cols):
            return block_type(candidate)
    return block_type("F16")
