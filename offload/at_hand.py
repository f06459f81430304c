"""Keeping what native code and cards look up in step with who is where."""

from collections.abc import Mapping

from offload.pool import Pool
from offload.ram_tier import RamTier
from offload.residency import RAM, Residency
from offload.slots import ExpertKey
from quant.kernels.expert_records import ExpertRecords


class AtHand:
    """Writes every move into the records of experts in RAM, and into the tables of cards that look up by themselves."""

    def __init__(
        self, residency: Residency, ram: RamTier, pool: Pool, records: Mapping[int, ExpertRecords]
    ) -> None:
        """`records` by layer, as things are now."""
        self._residency, self._ram, self._pool, self._records = residency, ram, pool, records
        residency.watch(self.moved)

    def moved(self, key: ExpertKey, left: int | None) -> None:
        """An expert has another place now, and may have left a card for it."""
        layer, expert = key
        place = self._residency.place(key)
        self._pool.moved(key, place, left)
        records = self._records.get(layer)
        if records is None:
            return
        if place == RAM:
            records.put(expert, self._ram.weights(key))
        else:
            records.remove(expert, elsewhere=place >= 0 and place == self._pool.sharing_home(layer))
