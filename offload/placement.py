"""What goes where on a machine: resident weights and cache first, experts into what is left, fastest place first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from offload.chunk_in_ram import chunk_in_ram
from offload.layer_ranges import divide_layers
from offload.machine import GIB, Card, Machine
from offload.model_bytes import ModelBytes

# The interpreter with torch, activations, and buffers of the drive's reads.
RAM_BUFFER_BYTES = 3 * GIB // 2
# Fewer slots than two tokens of a layer use, and every read waits for a slot.
_LEAST_SLOTS_IN_PICKS = 2


@dataclass(frozen=True)
class Place:
    """Bytes of one card, or of RAM. `layers` is how many layers' resident weights and cache lie there.

    `expert_count` experts take `expert_bytes`. `free_bytes` is what is left; less than 0 where it does not fit.
    """

    name: str
    memory_bytes: int
    usable_bytes: int
    layers: int
    resident_bytes: int
    cache_bytes: int
    buffer_bytes: int
    expert_count: int
    expert_bytes: int

    @property
    def free_bytes(self) -> int:
        """Usable bytes that nothing takes."""
        taken = self.resident_bytes + self.cache_bytes + self.buffer_bytes + self.expert_bytes
        return self.usable_bytes - taken


@dataclass(frozen=True)
class Placement:
    """`places` are the cards, then RAM. `drive_experts` are in no other place.

    `chunk_tokens` is how much of a prompt goes through all layers at once, where cards decide that.
    `mapped`: RAM holds every expert, cards hold copies. Else an expert is in one fast place, which adds up.
    `missing_bytes` is what the machine lacks to run the model at all, and `missing_where` says of what.
    """

    places: tuple[Place, ...]
    mapped: bool
    drive_experts: int
    drive_expert_bytes: int
    missing_bytes: int = 0
    missing_where: str = ""
    chunk_tokens: int | None = None

    @property
    def cards(self) -> tuple[Place, ...]:
        """All but RAM."""
        return self.places[:-1]

    @property
    def ram(self) -> Place:
        """The host's memory."""
        return self.places[-1]

    @property
    def fits(self) -> bool:
        """Whether it can run."""
        return self.missing_bytes == 0


def place_model(machine: Machine, model: ModelBytes, context_tokens: int) -> Placement:
    """Where everything goes when `context_tokens` tokens of cache are kept. Touches nothing."""
    parts = _parts(model, context_tokens, 1.0)
    found = place_layers(machine.cards, model, context_tokens)
    cards, ranges = _fill_alike(found.places, model), found.ranges
    left = model.expert_count - sum(place.expert_count for place in cards)
    behind = range(ranges[-1].stop if ranges else 0, len(parts))
    ram = _place("RAM", machine.ram_bytes, machine.usable_ram_bytes, RAM_BUFFER_BYTES, parts, behind)
    ram = replace(ram, resident_bytes=ram.resident_bytes + model.embedding_bytes)
    room_bytes = ram.free_bytes
    mapped = room_bytes >= model.experts_bytes
    ram = _filled(ram, model, model.expert_count if mapped else left)
    on_drive = 0 if mapped else left - ram.expert_count
    drive_bytes = int(on_drive * model.mean_expert_bytes)
    missing, where = _missing(machine, model, room_bytes, drive_bytes)
    chunk = found.chunk_tokens
    if chunk is not None:
        chunk = chunk_in_ram(machine.usable_ram_bytes, model.vector_bytes, found.sending, chunk)
    return Placement((*cards, ram), mapped, on_drive, drive_bytes, missing, where, chunk)


@dataclass(frozen=True)
class CardPlaces:
    """Each card with its layers and cache and no experts yet, and which layers those are; the last part is the head.

    A chunk of a prompt has at most `chunk_tokens`, for which all cards have buffers: None where none is a real one.
    `sending` cards are real.
    """

    places: list[Place]
    ranges: list[range]
    chunk_tokens: int | None
    sending: int


def place_layers(machine_cards: Sequence[Card], model: ModelBytes, context_tokens: int) -> CardPlaces:
    """What each card is given before there are experts. Touches nothing."""
    real, buffers = [card for card in machine_cards if not card.is_virtual], model.buffers
    chunk = min((buffers.longest_chunk(card.usable_bytes, context_tokens) for card in real), default=None)
    taken = [
        0 if card.is_virtual or chunk is None else buffers.bytes_of(chunk, context_tokens) for card in machine_cards
    ]
    rooms = [max(0, card.usable_bytes - nbytes) for card, nbytes in zip(machine_cards, taken, strict=True)]
    largest = _parts(model, context_tokens, max((card.cache_share for card in machine_cards), default=1.0))
    ranges = divide_layers([resident + cache for resident, cache in largest], rooms)
    places = []
    for number, (card, held, nbytes) in enumerate(zip(machine_cards, ranges, taken, strict=True)):
        parts = _parts(model, context_tokens, card.cache_share)
        places.append(_place(f"card {number}", card.memory_bytes, card.usable_bytes, nbytes, parts, held))
    return CardPlaces(places, ranges, chunk, len(real))


def _parts(model: ModelBytes, context_tokens: int, cache_share: float) -> list[tuple[int, int]]:
    """(resident bytes, cache bytes) of every layer where the cache takes a share, and of the head behind them."""
    cache = ceil(model.cache_bytes * context_tokens * cache_share / len(model.layers))
    return [*((layer.resident, cache) for layer in model.layers), (model.outer_bytes, 0)]


def _place(
    name: str, memory_bytes: int, usable_bytes: int, buffer_bytes: int, parts: list[tuple[int, int]], held: range
) -> Place:
    """A place with the parts `held` and no experts yet. The last part is the head, which is no layer."""
    resident, cache = (sum(part[kind] for part in parts[held.start : held.stop]) for kind in (0, 1))
    layers = len(range(held.start, min(held.stop, len(parts) - 1)))
    return Place(name, memory_bytes, usable_bytes, layers, resident, cache, buffer_bytes, 0, 0)


def _fill_alike(cards: list[Place], model: ModelBytes) -> list[Place]:
    """The cards filled, each by the same share of its room where they hold all experts together."""
    full = [_filled(place, model, model.expert_count) for place in cards]
    rooms = [place.expert_count for place in full]
    left = model.expert_count
    if sum(rooms) <= left:
        return full
    filled = []
    for number, place in enumerate(cards):
        share = -(-left * rooms[number] // max(1, sum(rooms[number:])))
        filled.append(_filled(place, model, share))
        left -= share
    return filled


def _filled(place: Place, model: ModelBytes, most: int) -> Place:
    """`place` with as many experts as it has room for, and no more than `most`."""
    if not model.expert_count:
        return place
    count = min(most, max(0, int(place.free_bytes / model.mean_expert_bytes)))
    return replace(place, expert_count=count, expert_bytes=int(count * model.mean_expert_bytes))


def _missing(machine: Machine, model: ModelBytes, room_bytes: int, drive_bytes: int) -> tuple[int, str]:
    """Bytes that are missing, and a word about where: (0, "") when the model can run."""
    slots = _LEAST_SLOTS_IN_PICKS * model.experts_per_token * model.largest_expert_bytes if drive_bytes else 0
    if room_bytes < slots:
        return slots - room_bytes, "RAM"
    if drive_bytes and machine.drive_bytes_per_s is None:
        return drive_bytes, "cards and RAM together, as there is no drive to read experts from"
    return 0, ""
