"""What differs between the model families in how they are talked to: sampling defaults and the order of tool keys.

A family is known by its chat template, the one thing that every checkpoint and every GGUF file carries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from k2lite.events import Sampling


@dataclass(frozen=True)
class Family:
    """`marks` are the texts that all occur in the family's templates.

    `sampling` is what its publisher advises, `instant_sampling` the advice for answers without thinking where that
    differs. `sorts_tools` says whether the published tokenizer puts the keys of tool declarations in order.
    """

    name: str
    marks: tuple[str, ...]
    sampling: Sampling
    instant_sampling: Sampling | None = None
    sorts_tools: bool = True


# The first one whose marks all occur is meant, so the more particular ones come first.
FAMILIES = (
    Family(
        "Kimi K2.5 and later",
        ("<|im_middle|>", "tools_ts_str"),
        Sampling(temperature=1.0, top_p=0.95),
        instant_sampling=Sampling(temperature=0.6, top_p=0.95),
    ),
    Family("Kimi K2 Thinking", ("<|im_middle|>", "reasoning_content"), Sampling(temperature=1.0)),
    Family("Kimi K2 0905", ("<|im_middle|>", "You are Kimi"), Sampling(temperature=0.6)),
    Family("Kimi K2", ("<|im_middle|>", "tool_declare"), Sampling(temperature=0.6), sorts_tools=False),
    Family("other", (), Sampling(), sorts_tools=False),
)


def family_of(template: str | None) -> Family:
    """The family that a chat template belongs to."""
    return next(family for family in FAMILIES if all(mark in (template or "") for mark in family.marks))


def default_sampling(family: Family, stated: Mapping[str, float]) -> Sampling:
    """How tokens are drawn when nobody says otherwise: the family's advice, and over it what the model itself states.

    `stated` is described in `generation_config`, which has checked it.
    """
    return replace(family.sampling, **stated)  # type: ignore[arg-type]  # top_k is a whole number where it is read
