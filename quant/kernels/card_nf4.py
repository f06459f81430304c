"""Card kernels for NF4 weights, in front of others: bitsandbytes multiplies them, the same code that quantized them.

It wants codes and factors in one run each, and no distance between one factor and the next: blocks as the processor's
kernels take them would have to be copied for every product. So NF4 lies apart in a card's memory from the start: see
`quant.kernels.card.upload`, and `offload.kernel_card` for experts' slots.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from quant.errors import UnsupportedError
from quant.kernels.card import CardKernels, CardTensor, SlotTable
from quant.kernels.card_checks import check_heads, check_linear, check_rows
from quant.nf4.values import BLOCK, NF4, apart, nf4_table
from quant.types import BlockType

# With more tokens tensor cores win, which take 16 bits.
_FLOAT32_TOKENS = 8


class CardNf4:
    """See CardKernels. Its `experts` are the other kernels'. Works on the processor's memory too."""

    def __init__(self, others: CardKernels) -> None:
        """Raises UnsupportedError where bitsandbytes is missing."""
        try:
            import bitsandbytes
        except ImportError as error:
            raise UnsupportedError(f"NF4 on cards needs bitsandbytes (pip install bitsandbytes): {error}") from error
        self._library = bitsandbytes
        self._others = others
        self._tables: dict[torch.device, Tensor] = {}
        self._states: WeakKeyDictionary[CardTensor, tuple[Tensor, Any]] = WeakKeyDictionary()

    def serves(self, block: BlockType) -> bool:
        """See CardKernels.serves."""
        return block == NF4 or self._others.serves(block)

    def serves_experts(self, block: BlockType) -> bool:
        """See CardKernels.serves_experts."""
        return self._others.serves_experts(block)

    def linear(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear."""
        if w.type != NF4:
            return self._others.linear(x, w)
        check_linear(self, x, w)
        return self._product(x, w)

    def linear_heads(self, x: Tensor, w: CardTensor) -> Tensor:
        """See CardKernels.linear_heads."""
        if w.type != NF4:
            return self._others.linear_heads(x, w)
        check_heads(self, x, w)
        plain = self.rows(CardTensor(NF4, (w.rows, w.cols), w.data), torch.arange(w.rows, device=x.device))
        return torch.einsum("thc,hrc->thr", x.float(), plain.view(w.shape))

    def experts(self, x: Tensor, experts: SlotTable, slots: Tensor, weights: Tensor) -> Tensor:
        """See CardKernels.experts."""
        return self._others.experts(x, experts, slots, weights)

    def rows(self, w: CardTensor, ids: Tensor) -> Tensor:
        """See CardKernels.rows."""
        if w.type != NF4:
            return self._others.rows(w, ids)
        check_rows(self, w, ids)
        factors, codes = apart(w.data)
        some = factors.view(w.rows, -1)[ids].flatten(), codes.view(w.rows, -1)[ids].reshape(-1, 1)
        state = self._state(some[0], (len(ids), w.cols))
        found: Tensor = self._library.functional.dequantize_4bit(some[1], state)
        return found

    def _product(self, x: Tensor, w: CardTensor) -> Tensor:
        """x [T, cols] @ w.T, [T, rows] float32."""
        known = self._states.get(w)
        if known is None:
            # Made once: at one token a product of a narrow expert takes no longer than this.
            factors, codes = apart(w.data)
            known = self._states[w] = codes.view(-1, 1).t(), self._state(factors, (w.rows, w.cols))
        dtype = torch.bfloat16 if x.is_cuda and len(x) > _FLOAT32_TOKENS else torch.float32
        found: Tensor = self._library.matmul_4bit(x.to(dtype).contiguous(), *known)
        return found.float()

    def _state(self, factors: Tensor, shape: tuple[int, int]) -> Any:
        """How bitsandbytes describes weights of NF4. Its dtype is what they are decoded to; products have x's."""
        table = self._tables.setdefault(factors.device, nf4_table().to(factors.device))
        return self._library.functional.QuantState(
            absmax=factors, shape=torch.Size(shape), code=table, blocksize=BLOCK, quant_type="nf4", dtype=torch.float32
        )
