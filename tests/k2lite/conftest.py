"""Tokenizers that several tests share: the real vocabulary where it is at hand, and a tiny one of the same make."""

import json
from pathlib import Path
from typing import Any

import pytest

from k2lite.tokenizer import Tokenizer
from tests.tiny_tokenizer import write_tokenizer


@pytest.fixture(scope="session")
def kimi_data(shared_data: Path) -> Path:
    """Folder with Kimi's tokenizer, templates and golden values."""
    return shared_data / "kimi"


@pytest.fixture(scope="session")
def golden(kimi_data: Path) -> dict[str, Any]:
    return json.loads((kimi_data / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def kimi_tokenizer(kimi_data: Path) -> Tokenizer:
    """The vocabulary of Kimi K2.5, 163,840 ids."""
    return Tokenizer.from_folder(kimi_data)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """640 ids, with tokens for thinking."""
    folder = tmp_path_factory.mktemp("tiny_tokenizer")
    write_tokenizer(folder, thinking_names=True)
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def first_release_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """640 ids; `<think>` is plain text, as in July 2025."""
    folder = tmp_path_factory.mktemp("first_release_tokenizer")
    write_tokenizer(folder, thinking_names=False)
    return Tokenizer.from_folder(folder)
