"""A model as the planner sees it: bytes of each layer, nothing of what they mean."""

from dataclasses import dataclass

from offload.card_buffers import CardBuffers


@dataclass(frozen=True)
class LayerBytes:
    """A layer's weights that every token needs, and those of one of its experts (0 in a layer without)."""

    resident: int
    expert: int = 0


@dataclass(frozen=True)
class ModelBytes:
    """What is kept and read for a model of `layers`, with `n_experts` experts in each layer that has any.

    `outer_bytes` are the head's and the last norm's, `embedding_bytes` those of a table that is read a row a token.
    `cache_bytes` is what one token of context takes in all layers, were they all in RAM. `resident_weights` and
    `expert_weights` count weights: those that every token is multiplied with, and those of one expert. `pair_flops`
    are the operations of attention between one token and one token before it, in all layers. `buffers` are what cards
    take to compute, `vector_bytes` one token's stream in RAM.
    """

    name: str
    layers: tuple[LayerBytes, ...]
    outer_bytes: int
    embedding_bytes: int
    n_experts: int
    experts_per_token: int
    cache_bytes: int
    resident_weights: int
    expert_weights: int
    pair_flops: int
    context_tokens: int
    buffers: CardBuffers
    vector_bytes: int

    @property
    def resident_bytes(self) -> int:
        """Read for every token, wherever it lies."""
        return self.outer_bytes + sum(layer.resident for layer in self.layers)

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return sum(layer.expert > 0 for layer in self.layers)

    @property
    def expert_count(self) -> int:
        """Experts of all layers."""
        return self.expert_layers * self.n_experts

    @property
    def experts_bytes(self) -> int:
        """All experts of all layers."""
        return self.n_experts * sum(layer.expert for layer in self.layers)

    @property
    def mean_expert_bytes(self) -> float:
        """One expert; layers may differ in type."""
        return self.experts_bytes / self.expert_count if self.expert_count else 0.0

    @property
    def largest_expert_bytes(self) -> int:
        """The largest one."""
        return max((layer.expert for layer in self.layers), default=0)

    @property
    def total_bytes(self) -> int:
        """The whole model."""
        return self.resident_bytes + self.embedding_bytes + self.experts_bytes

    @property
    def routed_bytes_per_token(self) -> float:
        """What decoding reads of the experts."""
        return self.experts_per_token * sum(layer.expert for layer in self.layers)
