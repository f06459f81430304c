"""The table of recipes: a default type and the rules that differ from it, the first one that applies wins.

Each is what llama.cpp's quantizer does for the file type of that name, but for those after the comment at the end. A
new recipe is one more entry.
"""

from dataclasses import dataclass

from quant.recipe.rules import (
    Rule,
    attention_output,
    down,
    eight_experts,
    embedding,
    expert,
    first_downs,
    first_eighth,
    first_sixteenth,
    full_query,
    gate_or_up,
    head,
    imatrix,
    middle,
    more_bits,
    no_imatrix,
    odd_width,
    query,
    rule,
    shared_expert,
    stacked,
)

_WORTHLESS_WITHOUT_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")


@dataclass(frozen=True)
class Recipe:
    """How a file is quantized. `file_type` is its number for general.file_type.

    Tensors of types in `needs_importance` are worthless when the importance of their columns is not known. The
    embedding and the head are exempt where their encoder is: nothing is collected for them.
    """

    name: str
    file_type: int
    default: str
    rules: tuple[Rule, ...] = ()
    needs_importance: tuple[str, ...] = _WORTHLESS_WITHOUT_IMPORTANCE


ALIASES = {"MXFP4_MOE": "MXFP4"}

_HEAD = (rule("Q8_0", head, odd_width), rule("Q6_K", head))
_HEAD_OF_FEW_BITS = (rule("Q8_0", head, odd_width), rule("Q5_K", head))
_OUTPUT_OF_EIGHT = rule("Q5_K", attention_output, eight_experts)


def _few_bits(embedding_type: str, down_type: str, output_type: str | None) -> tuple[Rule, ...]:
    """The rules that all types of 1 and 2 bits share."""
    output = (rule(output_type, attention_output),) if output_type else ()
    return (
        *_HEAD_OF_FEW_BITS,
        rule(embedding_type, embedding),
        rule(down_type, down, first_downs),
        _OUTPUT_OF_EIGHT,
        *output,
    )


_IQ4 = (*_HEAD, rule("Q5_K", down, first_eighth, no_imatrix), _OUTPUT_OF_EIGHT)

# What every token reads and is large: at Q8_0 it would cost more time than quality. See docs/recipes.md.
_WIDE_AROUND_EXPERTS = tuple(rule("Q6_K", role) for role in (head, query, attention_output, shared_expert))

_TABLE = (
    Recipe("F32", 0, "F32"),
    Recipe("F16", 1, "F16"),
    Recipe("BF16", 32, "BF16"),
    Recipe("Q8_0", 7, "Q8_0"),
    Recipe("Q6_K", 18, "Q6_K", _HEAD),
    Recipe("Q5_K_M", 17, "Q5_K", (*_HEAD, rule("Q6_K", down, more_bits))),
    Recipe("Q5_K_S", 16, "Q5_K", _HEAD),
    Recipe("Q5_0", 8, "Q5_0", (*_HEAD, rule("Q5_1", down, first_eighth, imatrix))),
    Recipe("Q5_1", 9, "Q5_1", _HEAD),
    Recipe("Q4_K_M", 15, "Q4_K", (*_HEAD, rule("Q6_K", down, more_bits), _OUTPUT_OF_EIGHT)),
    Recipe("Q4_K_S", 14, "Q4_K", (*_HEAD, rule("Q5_K", down, first_eighth), _OUTPUT_OF_EIGHT)),
    Recipe("Q4_0", 2, "Q4_0", (*_HEAD, rule("Q4_1", down, first_eighth, imatrix))),
    Recipe("Q4_1", 3, "Q4_1", _HEAD),
    Recipe("IQ4_NL", 25, "IQ4_NL", _IQ4),
    Recipe("IQ4_XS", 30, "IQ4_XS", _IQ4),
    Recipe("MXFP4", 38, "Q8_0", (rule("MXFP4", stacked),)),
    Recipe(
        "Q3_K_L",
        13,
        "Q3_K",
        (*_HEAD, rule("Q5_K", down), rule("Q3_K", eight_experts), rule("Q5_K", attention_output)),
    ),
    Recipe(
        "Q3_K_M",
        12,
        "Q3_K",
        (
            *_HEAD,
            rule("Q5_K", down, first_sixteenth),
            rule("Q4_K", down),
            _OUTPUT_OF_EIGHT,
            rule("Q4_K", attention_output),
        ),
    ),
    Recipe("Q3_K_S", 11, "Q3_K", (*_HEAD, _OUTPUT_OF_EIGHT)),
    Recipe(
        "IQ3_M",
        27,
        "IQ3_S",
        (
            *_HEAD,
            rule("Q4_K", down, first_eighth),
            rule("Q4_K", down, eight_experts, more_bits),
            _OUTPUT_OF_EIGHT,
            rule("Q4_K", attention_output),
        ),
    ),
    Recipe("IQ3_S", 26, "IQ3_S", (*_HEAD, _OUTPUT_OF_EIGHT)),
    Recipe(
        "IQ3_XS",
        22,
        "IQ3_S",
        (
            *_HEAD,
            rule("IQ3_XXS", full_query),
            rule("IQ3_XXS", gate_or_up, middle),
            _OUTPUT_OF_EIGHT,
        ),
    ),
    Recipe(
        "IQ3_XXS",
        23,
        "IQ3_XXS",
        (
            *_HEAD_OF_FEW_BITS,
            rule("IQ3_S", embedding),
            rule("IQ2_S", full_query),
            rule("Q4_K", down, first_eighth, no_imatrix),
            rule("Q3_K", down, no_imatrix),
            _OUTPUT_OF_EIGHT,
            rule("IQ3_S", attention_output),
        ),
    ),
    Recipe(
        "Q2_K_S",
        21,
        "Q2_K",
        (*_HEAD, rule("Q4_K", down, first_eighth)),
        needs_importance=(*_WORTHLESS_WITHOUT_IMPORTANCE, "Q2_K"),
    ),
    Recipe("Q2_K", 10, "Q2_K", (*_HEAD, rule("Q3_K", down), _OUTPUT_OF_EIGHT, rule("Q3_K", attention_output))),
    Recipe("IQ2_M", 29, "IQ2_S", _few_bits("IQ3_S", "IQ3_S", "IQ3_S")),
    Recipe("IQ2_S", 28, "IQ2_XS", _few_bits("IQ3_S", "IQ3_S", "IQ3_S")),
    Recipe("IQ2_XS", 20, "IQ2_XS", _few_bits("Q2_K", "Q2_K", None)),
    Recipe("IQ2_XXS", 19, "IQ2_XXS", _few_bits("Q2_K", "Q2_K", None)),
    Recipe("IQ1_M", 31, "IQ1_M", _few_bits("Q2_K", "Q2_K", "IQ2_XXS")),
    Recipe("IQ1_S", 24, "IQ1_S", _few_bits("Q2_K", "Q2_K", "IQ2_XXS")),
    # k2lite's own. Their file types are those of llama.cpp whose main type they share.
    Recipe("INT4", 2, "Q8_0", (rule("Q4_0", expert),)),
    Recipe("LOSSLESS", 2, "BF16", (rule("Q4_0", expert),)),
    Recipe("K2_4", 15, "Q8_0", (rule("Q4_K", expert), *_WIDE_AROUND_EXPERTS)),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _TABLE}
