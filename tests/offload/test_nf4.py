"""Experts of NF4 folders: read in pieces and put together, they answer to the last bit as those in memory do."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from k2lite.cli.main import main
from k2lite.config_json import config_from_json
from k2lite.load import load_model
from k2lite.nf4_experts import nf4_tensors
from k2lite.plan_model import model_named
from offload.memory_options import MemoryOptions
from offload.nf4_slabs import Nf4Matrix, Nf4Stack
from offload.resident import FileRange
from quant.errors import RequestError, StoreError
from quant.nf4.nf4_file import Nf4Folder
from quant.nf4.values import decode_blocks, decode_nf4, encode_nf4
from tests.offload.test_same_answer import check, keys, named_settings
from tests.offload.tiny_models import Setting, TinyNf4Model
from tests.tiny import write_checkpoint


@pytest.fixture(scope="module", params=["plain", "nested"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("nf4")
    write_checkpoint(base / "source", "k2", layers=3, experts=16)
    options = ["--double-quant"] if request.param == "nested" else []
    arguments = ["quantize", str(base / "source"), str(base / "nf4"), "--type", "NF4", "--no-verify", *options]
    assert main(arguments) == 0
    return base / "nf4"


@pytest.fixture(scope="module")
def nf4(folder: Path) -> Iterator[TinyNf4Model]:
    model = TinyNf4Model(folder)
    yield model
    model.close()


def test_paged_virtual_and_mixed_runs_answer_as_the_one_in_memory(nf4: TinyNf4Model) -> None:
    check(nf4, named_settings(nf4), prompt_tokens=50, tokens=20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_settings_answer_alike(nf4: TinyNf4Model) -> None:
    rng = random.Random(7)
    check(nf4, [nf4.random_setting(rng) for _ in range(25)], prompt_tokens=90, tokens=64)


def test_other_kernels_answer_alike_too(folder: Path) -> None:
    model = TinyNf4Model(folder, "reference")
    try:
        check(model, named_settings(model)[1:4:2], prompt_tokens=10, tokens=3)
    finally:
        model.close()


def test_what_is_read_is_what_is_stored(nf4: TinyNf4Model) -> None:
    with nf4.placed(Setting(nf4.layout.total_bytes // 3)) as experts:
        nf4.greedy(nf4.prompt(40), 30)
        ram, compared = experts._tiers.ram, 0
        for layer, expert in keys(nf4):
            if (layer, expert) in experts._tiers.residency.ram:
                read, kept = ram.weights((layer, expert)), nf4.mapped._layers[layer].expert(expert)
                for one, other in ((read.gate, kept.gate), (read.up, kept.up), (read.down, kept.down)):
                    assert np.array_equal(one.data, other.data.reshape(-1)) and one.shape == other.shape
                compared += 1
        assert compared > 3
        state = experts.state()
    assert {tier.name for tier in state.tiers} == {"RAM", "drive"}
    assert "." in "".join(state.places.values()), "some are on the drive only"


def test_a_folder_takes_a_budget(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"is too small: .*give --ram-budget (\d+) or more") as told:
        load_model(folder, threads=1, memory=MemoryOptions(ram_budget_bytes=1))
    budget = int(str(told.value).split("--ram-budget ")[1].split(" or")[0])
    ids = torch.arange(40)
    logits = []
    for memory in (MemoryOptions(), MemoryOptions(ram_budget_bytes=budget)):
        loaded = load_model(folder, threads=1, memory=memory)
        try:
            logits.append(loaded.model.forward(ids, loaded.model.new_cache(40)))
            drives = [tier.name for tier in loaded.model.experts_state().tiers if tier.name == "drive"]
            assert drives == ([] if memory.ram_budget_bytes is None else ["drive"])
        finally:
            loaded.close()
    assert torch.equal(*logits)


def test_a_folder_that_changes_is_noticed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    model = TinyNf4Model(copy)
    try:
        with model.placed(Setting(model.layout.smallest_budget_bytes)):
            for path in copy.glob("*.safetensors"):
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size // 2)
            with pytest.raises(StoreError, match=r"was changed|ends in the middle"):
                model.greedy(model.prompt(8), 4)
    finally:
        model.close()


def stack_of(path: Path, rows: int, cols: int, block: int, offset: int) -> tuple[Nf4Stack, torch.Tensor]:
    """A stack of one random matrix, and what it decodes to; `offset` moves it within the file."""
    generator = torch.Generator().manual_seed(rows + cols)
    codes, factors = encode_nf4(torch.randn(rows, cols, generator=generator))
    factors = np.ascontiguousarray(factors[:: block // 64])
    path.write_bytes(bytes(offset) + codes.tobytes() + bytes(7) + factors.tobytes())
    at = offset + codes.nbytes + 7
    matrix = Nf4Matrix(FileRange(path, offset, codes.nbytes), FileRange(path, at, factors.nbytes), block)
    return Nf4Stack((1, rows, cols), [matrix]), decode_nf4(codes, factors, rows * cols, block).view(rows, cols)


def room_as_read(stack: Nf4Stack, path: Path) -> np.ndarray:
    room, content = np.full(stack.room_bytes, 0xEE, np.uint8), np.frombuffer(path.read_bytes(), np.uint8)
    for found in stack.ranges(0):
        first = found.place + found.offset % 4096
        room[first : first + found.nbytes] = content[found.offset : found.offset + found.nbytes]
    return room


@pytest.mark.parametrize("offset", [0, 1, 4095, 123_457])
@pytest.mark.parametrize(("rows", "cols", "block"), [(1, 64, 64), (3, 64, 64), (640, 1024, 64), (16, 4096, 4096)])
def test_pieces_of_any_size_are_put_together(tmp_path: Path, rows: int, cols: int, block: int, offset: int) -> None:
    stack, expected = stack_of(tmp_path / "file", rows, cols, block, offset)
    room = room_as_read(stack, tmp_path / "file")
    stack.finish(0, room)
    found = decode_blocks(room[: stack.slab_bytes].reshape(rows, -1))
    assert torch.equal(found, expected)


def test_a_factor_that_is_no_number_is_refused(tmp_path: Path) -> None:
    stack, _ = stack_of(tmp_path / "file", 4, 64, 64, 0)
    room, factors = room_as_read(stack, tmp_path / "file"), stack.ranges(0)[1]
    first = factors.place + factors.offset % 4096
    room[first : first + 4] = np.frombuffer(np.float32("nan").tobytes(), np.uint8)
    with pytest.raises(StoreError, match="NaN or infinite"):
        stack.finish(0, room)


def test_a_folder_is_planned_with_its_own_types(folder: Path) -> None:
    planned = model_named(str(folder), None)
    with Nf4Folder(folder) as opened:
        found = nf4_tensors(opened, config_from_json(opened.config, name="tiny"))
        sizes = {name: tensor.nbytes for name, tensor in found.items()}
    assert planned.total_bytes == sum(sizes.values())
    stacks = [f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "up", "down")]
    assert planned.largest_expert_bytes == sum(sizes[name] // 16 for name in stacks)
    with pytest.raises(RequestError, match="leave out --type"):
        model_named(str(folder), "Q4_K_M")
