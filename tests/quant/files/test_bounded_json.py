"""JSON that is too long, too deep, repeated or of the wrong kind is refused in one line."""

from pathlib import Path

import pytest

from quant.errors import CheckpointError
from quant.files.bounded_json import parse_json_object, read_json_object, read_optional_json


def test_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": {"b": [1, "ä"]}}')
    assert read_json_object(path, 100) == {"a": {"b": [1, "ä"]}}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: No such file"):
        read_json_object(tmp_path / "config.json", 100)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{" + " " * 100 + "}")
    assert read_json_object(path, 102) == {}
    with pytest.raises(CheckpointError, match="more than 101 bytes"):
        read_json_object(path, 101)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' appears twice"),
        (b'{"a": {"c": 1, "c": 1}}', "the key 'c' appears twice"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"[1, 2]", "holds a list"),
        (b"null", "holds a NoneType"),
    ],
)
def test_anything_but_a_sound_object_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_json_object(raw, "test")


def test_an_optional_file_may_be_absent_but_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    assert read_optional_json(path) == {}
    path.write_text('{"a": 1}')
    assert read_optional_json(path) == {"a": 1}
    path.write_text('{"a": 1, "a": 2}')
    with pytest.raises(CheckpointError, match="appears twice"):
        read_optional_json(path)
