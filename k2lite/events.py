"""What an engine is asked and what it answers: small frozen records, shared by screen, command line and tests.

Nothing here imports torch: the chat app reads this module.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from quant.errors import RequestError

Channel = Literal["think", "answer", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]

SEED_LIMIT = 2**63


@dataclass(frozen=True)
class ToolCall:
    """A call as the model wrote it. `id` has the form functions.NAME:INDEX; `arguments` is the JSON text, unchecked."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One entry of a conversation. `reasoning` is what was thought before `content` (assistant only)."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 takes the most probable token.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repeat_penalty` 1 switch the respective step off.
    """

    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0

    def __post_init__(self) -> None:
        checks = (
            ("temperature", 0 <= self.temperature <= 100, "between 0 and 100"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("min_p", 0 <= self.min_p < 1, "at least 0 and below 1"),
            ("repeat_penalty", 0 < self.repeat_penalty <= 10, "above 0 and at most 10"),
        )
        for name, valid, rule in checks:
            if not valid:
                raise RequestError(f"{name} is {getattr(self, name)}, but must be {rule}")


@dataclass(frozen=True)
class Request:
    """One answer to be generated: either `messages` (rendered by the chat template) or `raw_prompt` as it is.

    `sampling` None means the model's default for this `thinking`; `max_tokens` None means up to the end of the context;
    `thinking` None means the model's default; `seed`, 0 or more and
    below SEED_LIMIT, None draws one.
    """

    messages: tuple[Message, ...] = ()
    raw_prompt: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool | None = None
    sampling: Sampling | None = None
    max_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class LoadProgress:
    """Weights made ready so far. Sent before the first request is served.

    `stage` is "quantize" while the built-in demo model is made at the first start.
    """

    done_bytes: int
    total_bytes: int
    stage: Literal["quantize", "load"] = "load"


@dataclass(frozen=True)
class PrefillProgress:
    """Prompt tokens processed so far; `cached_tokens` of them were reused from the turn before."""

    done_tokens: int
    total_tokens: int
    cached_tokens: int
    elapsed_s: float


@dataclass(frozen=True)
class Token:
    """One generated token. `text` is empty while its bytes or a possible marker are incomplete.

    `id` is None for text that was held back and comes without a new token: at the end of an answer, or when one token
    ends one channel and begins another.
    """

    id: int | None
    text: str
    channel: Channel


@dataclass(frozen=True)
class Finished:
    """The end of an answer. `text`, `reasoning` and `tool_calls` are the whole of what was generated."""

    reason: FinishReason
    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prefill_s: float
    decode_s: float
    seed: int
    tiers: dict[str, int] = field(default_factory=dict)

    @property
    def decode_tokens_per_s(self) -> float:
        """Decode rate; the first token comes out of the prefill and is not counted."""
        return (self.completion_tokens - 1) / self.decode_s if self.decode_s > 0 and self.completion_tokens > 1 else 0.0

    @property
    def prefill_tokens_per_s(self) -> float:
        """Rate over the prompt tokens that were not cached."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s > 0 else 0.0


@dataclass(frozen=True)
class TierReport:
    """What one tier holds and has done for routed experts since the model was loaded; decoding and prefill together.

    `roof_bytes_per_s` is the highest rate that the tier has kept up for a while, in RAM of decoding; None before it had
    enough to do. `name` is "card 0", "RAM", "drive".
    """

    name: str
    capacity_bytes: int
    used_bytes: int
    hits: int
    bytes: int
    busy_s: float
    roof_bytes_per_s: float | None = None


@dataclass(frozen=True)
class ExpertReport:
    """Where the routed experts are and how much they are used: for a screen, a log, `--json`.

    `places` and `heat` have one text per layer with experts, from `first_layer` on, and in it one character per expert:
    a place is "." on the drive, "r" in RAM, "0" to "9" the number of a card; heat goes from "0" (cold) to "9".
    `used` are the experts of the latest token, per layer. Counters run since the model was loaded.
    """

    first_layer: int
    places: tuple[str, ...]
    heat: tuple[str, ...]
    used: tuple[tuple[int, ...], ...]
    tier_reports: tuple[TierReport, ...]
    evictions: int = 0
    promotions: int = 0
    stall_s: float = 0.0
    queue_depth: float = 0.0
    lookahead_reads: int = 0
    lookahead_used: int = 0
    notes: tuple[str, ...] = ()


AnswerEvent = PrefillProgress | Token | ExpertReport | Finished
Event = LoadProgress | AnswerEvent


@dataclass(frozen=True)
class EngineInfo:
    """What is loaded, for a title line, and how its answers are drawn when nobody says otherwise.

    `instant_sampling` is the advice for answers without thinking, None where that is no other.
    """

    model_name: str
    context_tokens: int
    weight_bytes: int
    quantization: str
    default_sampling: Sampling
    instant_sampling: Sampling | None = None

    def sampling_for(self, thinking: bool | None) -> Sampling:
        """The default for a request with this `thinking`."""
        return self.instant_sampling or self.default_sampling if thinking is False else self.default_sampling


class Engine(Protocol):
    """Generates answers one at a time. `generate` may be called again only after its iterator has ended."""

    def load(self) -> Iterator[LoadProgress]:
        """Load the model; the iterator ends when it is ready. Raises K2Error."""

    def info(self) -> EngineInfo:
        """Facts about the loaded model. Only after `load` has ended."""

    def generate(self, request: Request, stop: threading.Event) -> Iterator[AnswerEvent]:
        """Answer `request`. The last event is Finished; K2Error is raised when the request cannot be served.

        `stop` is looked at between tokens, prefill chunks and expert loads; what was generated stays usable.
        """

    def close(self) -> None:
        """Free the model. Safe to call twice."""
