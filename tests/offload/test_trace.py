"""Recorded routing: read as it was written, refused when it is something else."""

from pathlib import Path

import pytest

from offload.trace import TraceError, read_trace, trace_line


def recording(folder: Path, *lines: str) -> Path:
    path = folder / "routing.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = recording(
        tmp_path,
        trace_line(0, [[5, 1], [2, 3]], prompt=True),
        trace_line(1, [[0, 1], [9, 3]], prompt=False),
        trace_line(2, [[4, 7], [2, 8]], prompt=False),
    )
    trace = read_trace(path)
    assert trace.tokens[0] == ((1, 5), (2, 3))
    assert (trace.layers, trace.used_per_layer, trace.prompt_tokens, trace.experts) == (2, 2, 1, 16)
    assert read_trace(path, experts=10).experts == 10


def test_the_published_recordings_are_read(shared_data: Path) -> None:
    kimi = read_trace(shared_data / "traces" / "kimi-linear-48b.jsonl")
    assert (len(kimi.tokens), kimi.layers, kimi.experts, kimi.used_per_layer) == (200, 26, 256, 8)
    olmoe = read_trace(shared_data / "traces" / "olmoe-1b-7b.jsonl")
    assert (len(olmoe.tokens), olmoe.layers, olmoe.experts, olmoe.used_per_layer) == (299, 16, 64, 8)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["not json"], "line 1 is no JSON"),
        (["[1, 2]"], 'no "layers"'),
        (['{"layers": 3}'], 'no "layers"'),
        (['{"layers": []}'], "0 layers"),
        (['{"layers": [[1, 2]]}', '{"layers": [[1, 2], [3, 4]]}'], "line 2 has 2 layers instead of 1"),
        (['{"layers": [[1, 1]]}'], "not 2 different numbers"),
        (['{"layers": [[1, 2]]}', '{"layers": [[1, 2, 3]]}'], "line 2"),
        (['{"layers": [[1, 5000]]}'], "0 to 1023"),
        (['{"layers": [["a", 2]]}'], "numbers"),
        (['{"layers": [[]]}'], "some different"),
        (['{"layers": [[1]]}', '{"layers": [[1]], "prompt": true}'], "line 2 is of a prompt"),
        (['{"layers": [[1]], "prompt": true}'], "none of them decoded"),
    ],
)
def test_what_is_no_recording_is_refused_with_its_line(tmp_path: Path, lines: list[str], complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint):
        read_trace(recording(tmp_path, *lines))


def test_a_recording_of_another_model_is_refused(tmp_path: Path) -> None:
    path = recording(tmp_path, '{"layers": [[1, 300]]}')
    with pytest.raises(TraceError, match="uses expert 300, but there are 256"):
        read_trace(path, experts=256)
    assert read_trace(path).experts == 384


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b""])
def test_no_text_and_nothing_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "routing.jsonl"
    path.write_bytes(data)
    with pytest.raises(TraceError):
        read_trace(path)
    with pytest.raises(TraceError, match="cannot read"):
        read_trace(tmp_path / "missing.jsonl")
