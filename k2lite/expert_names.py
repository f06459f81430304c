"""Which tensors of a model hold routed experts, by their names. Imports no torch."""

_MARK = "_exps."


def is_expert_tensor(name: str) -> bool:
    """Whether a tensor holds routed experts."""
    return _MARK in name
