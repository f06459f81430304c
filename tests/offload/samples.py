"""Models and machines for tests of the planner."""

from offload.card_buffers import CardBuffers
from offload.cards import card_named
from offload.machine import GIB, Machine
from offload.model_bytes import LayerBytes, ModelBytes


def k2(expert_bytes: int = 24_772_608) -> ModelBytes:
    """Kimi K2 with everything at 4.5 bits, as its published arithmetic has it."""
    resident = 4_660_000_000 // 61
    return ModelBytes(
        name="k2",
        layers=(LayerBytes(resident), *[LayerBytes(resident, expert_bytes)] * 60),
        outer_bytes=660_000_000,
        embedding_bytes=660_000_000,
        n_experts=384,
        experts_per_token=8,
        cache_bytes=140_544,
        resident_weights=10_550_000_000,
        expert_weights=44_040_192,
        pair_flops=2 * 64 * 1088 * 61,
        context_tokens=131072,
        buffers=CardBuffers(
            fixed=2_475_196_816,
            token=115_968,
            position=1280,
            other=421_527_552,
            attention=272_629_760,
            attended=109_440,
            most_attended=375_809_280,
        ),
        vector_bytes=4 * 7168,
    )


def machine(cards: int, ram_gib: float, ram_gb_s: float, drive_gb_s: float | None) -> Machine:
    """So many RTX 4090s beside so much memory."""
    drive = None if drive_gb_s is None else drive_gb_s * 1e9
    return Machine(int(ram_gib * GIB), ram_gb_s * 1e9, drive, 3e12, (card_named("RTX4090"),) * cards)
