"""Damaging a model file on purpose: where its fields are, and a process that survives what reading them may do."""

import json
import os
import random
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from k2lite.environment import child_environment

ANSWER_WITHIN_S = 60
WHOLE_NUMBERS = (0, 1, 2, 3, 7, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63, 2**64 - 1)
FLOATS = (0.0, -1.0, 1.0, 0.5, 1e38, 1e-45, float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True)
class Place:
    """A field of the header: `size` bytes from `start` on. `name` says of what, and which part of it."""

    name: str
    start: int
    size: int

    def extremes(self, content: bytes) -> list[bytes]:
        """Bytes to put there: numbers at their limits and beside what is there, or noise for a text."""
        if self.size not in (1, 2, 4, 8):
            return [bytes(self.size), b"\xff" * self.size, b"a" * self.size]
        old, limit = int.from_bytes(content[self.start : self.start + self.size], "little"), 1 << 8 * self.size
        numbers = [*WHOLE_NUMBERS, old + 1, old - 1, 2 * old, old // 2, len(content)]
        values = [(number % limit).to_bytes(self.size, "little") for number in numbers]
        if self.size == 4:
            values += [struct.pack("<f", number) for number in FLOATS]
        return list(dict.fromkeys(values))

    def replaced(self, content: bytes, value: bytes) -> bytes:
        return content[: self.start] + value + content[self.start + self.size :]


def header_places(path: Path) -> list[Place]:
    """Every field of the header as the gguf package finds it: counts, lengths, types, values, shapes, offsets."""
    reader = gguf.GGUFReader(path)
    fields = [*reader.fields.values(), *(tensor.field for tensor in reader.tensors)]
    first = _address(reader.data)
    return [
        Place(f"{field.name}[{number}]", _address(part) - first, part.nbytes)
        for field in fields
        for number, part in enumerate(field.parts)
    ]


def sampled(places: list[Place], generator: random.Random, strings: int) -> list[Place]:
    """All places but for the long lists of the vocabulary, of which `strings` are drawn."""
    lists = [place for place in places if place.name.startswith("tokenizer.ggml.") and _number(place) > 10]
    return [place for place in places if place not in set(lists)] + generator.sample(lists, strings)


def _number(place: Place) -> int:
    return int(place.name[place.name.rindex("[") + 1 : -1])


def _address(values: np.ndarray) -> int:
    return values.__array_interface__["data"][0]


class Reader:
    """A process of tests.k2lite.mutation_worker, started again when a file has killed it."""

    def __init__(self, valid: Path, folder: Path) -> None:
        self._valid = valid
        self._file = folder / "mutated.gguf"
        self._log = folder / "stderr.txt"
        self._process = self._started()

    def outcome(self, content: bytes) -> tuple[str, str]:
        """What came of a file with this content: "answered", "refused", "failed" or "died", and the details."""
        self._file.write_bytes(content)
        return self.outcome_of(self._file)

    def outcome_of(self, path: Path) -> tuple[str, str]:
        outcome = _asked(self._process, path)
        if outcome[0] == "died":
            outcome = "died", f"{outcome[1]}: {self._log.read_text()[-2000:]}"
            self.close()
            self._process = self._started()
        return outcome

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        environment = child_environment() | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.k2lite.mutation_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            text=True,
            env=environment,
        )
        outcome = _asked(process, self._valid)
        if outcome != ("answered", ""):
            raise AssertionError(f"the file without any damage: {outcome}, {self._log.read_text()}")
        return process


def _asked(process: subprocess.Popen[str], path: Path) -> tuple[str, str]:
    assert process.stdin is not None and process.stdout is not None
    timer = threading.Timer(ANSWER_WITHIN_S, process.kill)
    timer.start()
    try:
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    finally:
        timer.cancel()
    if not line:
        return "died", f"exit status {process.wait()}"
    outcome, detail = json.loads(line)
    return outcome, detail
