"""Sizes are read as people write them."""

import pytest

from k2lite.sizes import format_bytes, format_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("32k", 32 * 1024),
        ("32K", 32 * 1024),
        ("24G", 24 * 1024**3),
        ("24GiB", 24 * 1024**3),
        ("24 GB", 24 * 1024**3),
        ("512M", 512 * 1024**2),
        ("1.5T", 3 * 2**39),
        ("100B", 100),
        ("0", 0),
    ],
)
def test_a_size_is_read(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "G", "-1", "1e3", "24X", "24GG", "1,000", "٣k", "1_000"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="24G or 32k"):
        parse_size(text)


@pytest.mark.parametrize("text", ["9" * 400, "8388608T"])
def test_a_size_beyond_all_machines_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than any machine has"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1536, "1.50 KiB"), (20 * 2**20, "20.0 MiB"), (2**50, "1024 TiB")],
)
def test_bytes_are_written_with_three_digits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (85, "1:25"), (3600, "1:00:00"), (7285, "2:01:25")])
def test_durations_are_written_as_clocks_do(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "rate"), [("300G/s", 300e9), ("7GB/s", 7e9), ("3.5g", 3.5e9), ("2T/s", 2e12), ("900M/s", 9e8), ("12", 12)]
)
def test_a_speed_is_read_in_steps_of_a_thousand(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1G/s", "fast", "7G/h", "1e9", "9999999999T"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"speed|faster"):
        parse_rate(text)
