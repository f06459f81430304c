"""What a user may ask of the quantizer, checked in one place."""

from dataclasses import dataclass
from pathlib import Path

from quant.errors import RequestError, UnsupportedError
from quant.recipe.recipe import recipe_named
from quant.recipe.type_overrides import TypeOverride

NF4 = "NF4"

# One layer of K2 takes 9.5 GB at 4.5 bits; a hundredth of that still holds any single tensor of the small models.
MIN_SHARD_BYTES = 1 << 20


@dataclass(frozen=True)
class QuantizeOptions:
    """`type` is a recipe's name or "NF4", None for what fits the source. `name` is what the model will be called.

    `overrides` come before the recipe. `allow_requantize` takes a GGUF file that has been rounded below 8 bits.
    Raises RequestError for what does not go together, UnsupportedError for an unknown type.
    """

    type: str | None = None
    name: str | None = None
    imatrix: Path | None = None
    overrides: tuple[TypeOverride, ...] = ()
    shard_bytes: int | None = None
    allow_requantize: bool = False
    double_quant: bool = False

    def __post_init__(self) -> None:
        if self.shard_bytes is not None and self.shard_bytes < MIN_SHARD_BYTES:
            raise RequestError(f"--shard-size is {self.shard_bytes:,} bytes, but must be at least {MIN_SHARD_BYTES:,}")
        if self.is_nf4:
            for option, value in (("--imatrix", self.imatrix), ("--tensor-type", self.overrides)):
                if value:
                    raise RequestError(f"{option} has no effect on NF4, one type without importance: leave it out")
            return
        if self.double_quant:
            raise RequestError("--double-quant is for --type NF4: leave it out")
        if self.type is not None:
            self._check_type(self.type)

    def _check_type(self, name: str) -> None:
        try:
            recipe_named(name)
        except UnsupportedError as error:
            raise UnsupportedError(f"{error}, {NF4}") from error

    @property
    def is_nf4(self) -> bool:
        """Whether the output is a folder in bitsandbytes' layout instead of a GGUF file."""
        return self.type is not None and self.type.upper() == NF4
