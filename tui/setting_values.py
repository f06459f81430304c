"""The settings of answers as text: from the fields of a form or a command, checked, and what has no effect."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from k2lite.cli.options import UsageError, number, positive, seed, whole_number
from k2lite.events import EngineInfo, Sampling
from quant.errors import K2Error
from tui.conversation import ChatSettings
from tui.errors import SettingsError

_SAMPLING: dict[str, Callable[[str], Any]] = {
    "temperature": number,
    "top_p": number,
    "top_k": whole_number,
    "min_p": number,
    "repeat_penalty": number,
}


def _thinking(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"{text!r} must be on or off")
    return text == "on"


_OTHERS: dict[str, Callable[[str], Any]] = {"system": str, "thinking": _thinking, "max_tokens": positive, "seed": seed}

SETTING_NAMES = (*_SAMPLING, *_OTHERS)
SAMPLING_NAMES = tuple(_SAMPLING)


def changed_settings(settings: ChatSettings, name: str, text: str) -> ChatSettings:
    """The settings with one of them as `text` says; "" gives it back to the model. Raises SettingsError."""
    name = name.replace("-", "_")
    parse = _SAMPLING.get(name) or _OTHERS.get(name)
    if parse is None:
        raise SettingsError(f"there is no setting {name}: there are {', '.join(SETTING_NAMES)}")
    try:
        value = parse(text) if text else None
        if name not in _SAMPLING:
            changes: dict[str, Any] = {name: value}
            return replace(settings, **changes)
        sampling = {key: known for key, known in settings.sampling.items() if key != name}
        if value is not None:
            sampling[name] = value
        replace(Sampling(), **sampling)
    except (ValueError, UsageError, K2Error) as error:
        raise SettingsError(f"{name}: {error}") from error
    return replace(settings, sampling=sampling)


def value_text(settings: ChatSettings, name: str) -> str:
    """What has been set, "" when it is the model's own."""
    value = settings.sampling.get(name) if name in _SAMPLING else getattr(settings, name)
    if value is None:
        return ""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def default_text(info: EngineInfo | None, settings: ChatSettings, name: str) -> str:
    """What holds when it is not set, in words."""
    if name in _SAMPLING:
        return (
            "the model's own"
            if info is None
            else f"{getattr(info.sampling_for(settings.thinking), name)} (the model's)"
        )
    return {
        "system": "none",
        "thinking": "the model's choice",
        "max_tokens": "up to the context's end",
        "seed": "drawn",
    }[name]


def without_effect(settings: ChatSettings, info: EngineInfo | None) -> list[str]:
    """What was set and does nothing beside something else that was set, one sentence each."""
    own = info.sampling_for(settings.thinking) if info is not None else Sampling()
    sampling = replace(own, **settings.sampling)
    notes = []
    if sampling.temperature == 0:
        idle = [name for name in ("top_p", "top_k", "min_p") if name in settings.sampling]
        idle += ["seed"] if settings.seed is not None else []
        if idle:
            notes.append(f"{', '.join(idle)}: no effect at temperature 0, which takes the most probable token")
    return notes


assert {field.name for field in fields(Sampling)} == set(_SAMPLING), "every sampling field can be set"
