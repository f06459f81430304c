"""Which types K2_4 gives to the tensors around the experts: divergence of the demo model against bytes.

    python -m benchmarks.recipe_choice

rounds one group of tensors at a time to Q4_K, Q5_K, Q6_K and Q8_0, measures how far the predictions move, and sets what
a step saves against what it costs in a file of Kimi K2's size. The steps are then taken greedily, and whole recipes are
measured as they run. Prints Markdown.

A step has two prices: bytes of the file (disk and memory), and bytes read for every token (time). An expert's byte is
read for one token in 48, any other's for each. What a byte can buy at best among the experts is the bar that a step
elsewhere has to clear in both.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.demo_divergence import Demo, Divergence, opened_demo, total_bytes
from k2lite.config import ModelConfig
from k2lite.config_json import config_from_json
from k2lite.synth.families import shape_named
from k2lite.tensor_layout import tensor_layouts
from offload.probe_host import usable_cores
from quant.recipe.recipe import Recipe, fitting_type, plan_types, recipe_named
from quant.recipe.rules import down, expert, more_bits, rule
from quant.types import BlockType

TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0")

NamedShapes = Sequence[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Group:
    """Tensors that get a type together. `read_share` of their bytes are read for a token of K2."""

    name: str
    pattern: str
    read_share: float = 1.0
    is_routed: bool = False

    def of(self, tensors: NamedShapes) -> NamedShapes:
        """The tensors of a model that are in this group."""
        return [(name, shape) for name, shape in tensors if re.search(self.pattern, name)]

    def nbytes(self, tensors: NamedShapes, type_name: str) -> int:
        """Bytes of the group in a model, in this type or what replaces it for rows that it does not fit."""
        shapes = [shape for _, shape in self.of(tensors)]
        return total_bytes(shapes, [fitting_type(type_name, shape[-1]) for shape in shapes])


@dataclass(frozen=True)
class Step:
    """A group from one type to the next larger one. Bytes are those of K2."""

    group: Group
    before: str
    after: str
    saved_kl: float
    demo_bytes: int
    file_bytes: int
    read_bytes: float

    @property
    def saved_per_file_gb(self) -> float:
        """Nats per token that a GB (10^9 bytes) more on disk and in memory saves."""
        return self.saved_kl / self.file_bytes * 1e9

    @property
    def saved_per_read_gb(self) -> float:
        """Nats per token that a GB more to read for each token saves."""
        return self.saved_kl / self.read_bytes * 1e9 if self.read_bytes else float("inf")


def groups(config: ModelConfig) -> tuple[Group, ...]:
    """All matrices of a model."""
    routed = config.experts_per_token / config.n_experts
    return (
        Group("embedding", r"^token_embd\.", read_share=0.0),
        Group("head", r"^output\.weight"),
        Group("attention q", r"attn_q(_a|_b)?\.weight"),
        Group("attention kv_a", r"attn_kv_a_mqa\."),
        Group("attention k_b, v_b", r"attn_[kv]_b\."),
        Group("attention output", r"attn_output\."),
        Group("dense layer", r"ffn_(gate|up|down)\.weight"),
        Group("shared expert gate, up", r"ffn_(gate|up)_shexp\."),
        Group("shared expert down", r"ffn_down_shexp\."),
        Group("experts gate, up", r"ffn_(gate|up)_exps\.", routed, is_routed=True),
        Group("experts down", r"ffn_down_exps\.", routed, is_routed=True),
    )


def main() -> int:
    options = _options()
    k2 = config_from_json(shape_named("k2").config, name="Kimi K2")
    full = [(layout.name, layout.shape) for layout in tensor_layouts(k2)]
    with opened_demo(options.tokens, options.threads) as demo:
        print(f"{demo.tokens:,} tokens of the demo's text; KL in 10^-6 nats per token\n")
        alone = {(group.name, name): _rounded(demo, group, name) for group in groups(k2) for name in TYPES}
        steps = list(_steps(alone, demo.tensors, full, k2))
        _print_groups(alone, full, k2)
        routed = [step for step in steps if step.group.is_routed]
        bars = max(step.saved_per_file_gb for step in routed), max(step.saved_per_read_gb for step in routed)
        _print_steps(steps, bars)
        _print_choice(steps, bars, full, k2)
        _print_recipes(demo, full, k2)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, metavar="N", help="at most N tokens (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), metavar="N", help="threads that compute (default: %(default)s)"
    )
    return parser.parse_args()


def _rounded(demo: Demo, group: Group, type_name: str) -> Divergence:
    print(f"{group.name} at {type_name}", file=sys.stderr, flush=True)
    return demo.rounded_alone({name: fitting_type(type_name, shape[-1]) for name, shape in group.of(demo.tensors)})


def _steps(
    alone: dict[tuple[str, str], Divergence], demo: NamedShapes, full: NamedShapes, k2: ModelConfig
) -> Iterator[Step]:
    for group in groups(k2):
        for before, after in pairwise(TYPES):
            file_bytes = group.nbytes(full, after) - group.nbytes(full, before)
            yield Step(
                group,
                before,
                after,
                alone[group.name, before].mean - alone[group.name, after].mean,
                group.nbytes(demo, after) - group.nbytes(demo, before),
                file_bytes,
                file_bytes * group.read_share,
            )


def _print_groups(alone: dict[tuple[str, str], Divergence], full: NamedShapes, k2: ModelConfig) -> None:
    print("One group rounded, all else exact\n")
    _print_row("group", *(f"KL at {name}" for name in TYPES), "GB in K2 at Q4_K")
    _print_row("---", *("---:" for _ in TYPES), "---:")
    for group in groups(k2):
        kl = [alone[group.name, name] for name in TYPES]
        _print_row(group.name, *map(_micro, kl), f"{group.nbytes(full, 'Q4_K') / 1e9:.2f}")


def _print_steps(steps: Sequence[Step], bars: tuple[float, float]) -> None:
    print("\nSteps by what a GB of K2's file saves, in 10^-6 nats; the demo's own bytes beside it\n")
    _print_row("group", "step", "KL saved", "KiB in the demo", "GB in K2", "saved per GB", "saved per GB read a token")
    _print_row("---", "---", *["---:"] * 5)
    for step in sorted(steps, key=lambda step: -step.saved_per_file_gb):
        _print_row(
            step.group.name,
            f"{step.before} to {step.after}",
            f"{1e6 * step.saved_kl:.1f}",
            f"{step.demo_bytes / 1024:.0f}",
            f"{step.file_bytes / 1e9:.2f}",
            f"{1e6 * step.saved_per_file_gb:.2f}",
            f"{1e6 * step.saved_per_read_gb:.0f}" if step.read_bytes else "-",
        )
    print(f"\nThe best of the experts' steps saves {1e6 * bars[0]:.1f} per GB and {1e6 * bars[1]:.0f} per GB read.")


def _print_choice(steps: Sequence[Step], bars: tuple[float, float], full: NamedShapes, k2: ModelConfig) -> None:
    """The type of each group: the last one up to which all of its steps clear both bars.

    What K2_4 has instead is beside it: nothing around the experts goes below Q6_K, where steps are small and near the
    bar, and their order changes from one draw to the next.
    """
    print("\nTypes that follow, and those of K2_4:\n")
    types = _types(full, recipe_named("K2_4"))
    for group in groups(k2):
        chosen = TYPES[0]
        for step in (step for step in steps if step.group == group and not group.is_routed):
            if step.saved_per_file_gb <= bars[0] or step.saved_per_read_gb <= bars[1]:
                break
            chosen = step.after
        now = sorted({types[name].name for name, _ in group.of(full)})
        print(f"* {group.name}: {chosen} ({', '.join(now)})")


def candidates() -> dict[str, Recipe]:
    """Whole recipes to be compared, K2_4 first."""
    around = {f"experts Q4_K, all else {name}": Recipe("", 15, name, (rule("Q4_K", expert),)) for name in TYPES[1:]}
    bumped = Recipe("", 15, "Q8_0", (rule("Q6_K", expert, down, more_bits), rule("Q4_K", expert)))
    return {
        "K2_4": recipe_named("K2_4"),
        "all Q4_K": Recipe("", 15, "Q4_K"),
        **around,
        "experts as in Q4_K_M, all else Q8_0": bumped,
        **{name: recipe_named(name) for name in ("Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")},
    }


def _print_recipes(demo: Demo, full: NamedShapes, k2: ModelConfig) -> None:
    print("\nWhole recipes, as they run\n")
    _print_row("recipe", "KL", "more than K2_4", "GB of K2", "GB read a token")
    _print_row("---", *["---:"] * 4)
    first: Divergence | None = None
    for name, recipe in candidates().items():
        print(name, file=sys.stderr, flush=True)
        kl = demo.as_file(_types(demo.tensors, recipe))
        first = first or kl
        file_bytes, read_bytes = _sizes(full, recipe, k2)
        more = _micro(kl.minus(first)) if kl is not first else "-"
        _print_row(name, _micro(kl), more, f"{file_bytes / 1e9:.1f}", f"{read_bytes / 1e9:.1f}")


def _micro(kl: Divergence) -> str:
    return f"{1e6 * kl.mean:.0f} ± {1e6 * kl.error:.0f}"


def _types(tensors: NamedShapes, recipe: Recipe) -> dict[str, BlockType]:
    return {name: block for (name, _), block in zip(tensors, plan_types(tensors, recipe), strict=True)}


def _sizes(full: NamedShapes, recipe: Recipe, k2: ModelConfig) -> tuple[int, float]:
    """Bytes of the file, and bytes read for a token."""
    types = _types(full, recipe)
    sizes = {name: total_bytes([shape], [types[name]]) for name, shape in full}
    read = sum(group.read_share * sizes[name] for group in groups(k2) for name, _ in group.of(full))
    return sum(sizes.values()), read


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
