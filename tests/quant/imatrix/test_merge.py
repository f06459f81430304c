"""Several importance matrices as one."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from quant.errors import ImatrixError, OutputError
from quant.imatrix.imatrix_file import ImatrixHeader, Statistics, open_statistics
from quant.imatrix.merge import merge_imatrices
from tests.quant.imatrix_samples import DOWN, GATE, QUERY, legacy_bytes, random_statistics, sample, write_gguf


def test_sums_and_counts_add_up_and_texts_are_united(tmp_path: Path) -> None:
    other = {
        GATE: random_statistics(3, 8, [5, 1, 0], seed=2),
        "blk.2.attn_q.weight": random_statistics(1, 8, [9], seed=3),
    }
    paths = [
        write_gguf(tmp_path / "a", sample(), ImatrixHeader(("a.txt", "b.txt"), 3, 512)),
        write_gguf(tmp_path / "b", other, ImatrixHeader(("b.txt", "c.txt"), 5, 512)),
    ]
    header = merge_imatrices(paths, tmp_path / "c")
    with closing(open_statistics(tmp_path / "c")) as merged:
        assert merged.header == header == ImatrixHeader(("a.txt", "b.txt", "c.txt"), 8, 512)
        assert set(merged.names) == {*sample(), *other}
        assert np.allclose(merged.read(GATE).sums, sample()[GATE].sums + other[GATE].sums, rtol=1e-6)
        assert merged.read(GATE).counts.tolist() == [7, 1, 4]
        assert np.array_equal(merged.read(QUERY).sums, sample()[QUERY].sums)
        assert merged.read("blk.2.attn_q.weight").counts.tolist() == [9]


def test_chunks_of_other_sizes_are_counted_in_those_of_the_first(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "a", sample(), ImatrixHeader((), 3, 512))
    second = write_gguf(tmp_path / "b", sample(), ImatrixHeader((), 8, 128))
    assert merge_imatrices([first, second], tmp_path / "c").chunk_count == 5


def test_other_models_are_refused(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "a", sample())
    second = write_gguf(tmp_path / "b", {DOWN: random_statistics(3, 8, [1, 1, 1])})
    with pytest.raises(ImatrixError, match=r"ffn_down_exps.* 3 x 8 numbers in .*b, but 3 x 4 in .*a"):
        merge_imatrices([first, second], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    bad = Statistics(np.full((1, 8), np.nan, np.float32), np.ones(1, np.float32))
    with pytest.raises(ImatrixError, match="run from nan"):
        merge_imatrices([write_gguf(tmp_path / "a", {QUERY: bad})], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_the_older_form_has_no_counts_to_add(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(legacy_bytes({QUERY: (4, [8, 12])}))
    with pytest.raises(ImatrixError, match="merge GGUF files only"):
        merge_imatrices([tmp_path / "a.dat"], tmp_path / "c")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a", sample())
    with pytest.raises(OutputError, match="exists already"):
        merge_imatrices([path, path], path)
