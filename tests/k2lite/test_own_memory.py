"""What the budget counts for buffers, beside what a process really takes; sizes that can be added up by hand."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from k2lite.config_gguf import config_from_gguf
from k2lite.config_json import config_from_json
from k2lite.environment import child_environment
from k2lite.own_memory import ALLOWED_BYTES, PromptMemory, budget_for, own_bytes, without_own
from k2lite.synth.families import shape_named
from k2lite.synth.shapes import Changes
from k2lite.synth.synth import SynthRequest, plan_synthetic, write_synthetic
from quant.gguf.gguf_file import GgufFile

PROMPTS = (256, 512, 1024)
MB = 1_000_000
K2 = config_from_json(shape_named("k2").config, name="k2")

# A process of its own: what another test has left in the heap would be used again, and nothing would be seen.
MEASURE = """
import json, sys
from pathlib import Path
import torch
from k2lite.load import load_model
from offload.memory_options import MemoryOptions

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

path, budget, *prompts = sys.argv[1:]
memory = MemoryOptions(ram_budget_bytes=int(budget), context_tokens=4096)
model = load_model(Path(path), threads=2, memory=memory).model
cache, ram = model.new_cache(4096), model._experts._tiers.ram
model.forward(torch.arange(4), cache)
slots = lambda: ram._residency.ram.capacity_bytes - ram.promised_bytes - ram.lent_bytes
before, peaks, most = status("VmRSS") - slots(), [], 0
for tokens in map(int, prompts):
    cache.truncate(0)
    Path("/proc/self/clear_refs").write_text("5")
    model.forward(torch.randint(1000, (tokens,)), cache)
    peaks.append(status("VmHWM") - slots() - before)
    if tokens <= model.prefill_tokens:
        most = max(most, status("VmHWM"))
print(json.dumps({"peaks": peaks, "most": most, "cache": cache.nbytes}))
"""


@pytest.fixture(scope="module")
def wide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few weights, but activations that are large beside what else a process takes and gives back."""
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    changes = Changes(layers=2, experts=16, hidden=4096, expert_width=256, dense_width=1024, vocab=1024)
    write_synthetic(plan_synthetic(SynthRequest(path, shape_named("k2"), "k2", changes, recipe="Q4_K_S")))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory was taken")
def test_prompts_take_what_is_counted(wide_file: Path) -> None:
    with GgufFile.open(wide_file) as file:
        config = config_from_gguf(file.metadata)
        budget = sum(info.nbytes for info in file.tensors.values()) + 100 * MB  # too little for all experts and buffers
    command = [sys.executable, "-c", MEASURE, str(wide_file), str(budget), *map(str, PROMPTS)]
    answer = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert 0 < found["most"] <= budget + 300 * MB + found["cache"]
    counted = [PromptMemory(config, 2).bytes_of(tokens) for tokens in PROMPTS]
    for tokens, peak, count in zip(PROMPTS, found["peaks"], counted, strict=True):
        assert 0.6 * count < peak < count + 2 * MB, f"{tokens} tokens took {peak}, {count} were counted"
    growth = (found["peaks"][2] - found["peaks"][1]) / (counted[2] - counted[1])
    assert 0.4 < growth < 1.1, f"a longer prompt takes {growth:.2f} of what is counted for it"


def test_buffers_of_k2() -> None:
    memory = PromptMemory(K2, 2)
    # Five vectors of 7168 floats; of a part of the attention one more, 64 queries of 192 and 64 results of 128.
    assert memory.passing_bytes(1) == 4 * (6 * 7168 + 64 * (192 + 128))
    assert memory.passing_bytes(513) - memory.passing_bytes(512) == 4 * 5 * 7168
    assert (
        memory.kept_bytes(4096)
        > memory.kept_bytes(512)
        > PromptMemory(replace(K2, dense_width=1024), 2).kept_bytes(512)
    )
    assert memory.bytes_of(64, longest=1024) == memory.passing_bytes(64) + memory.kept_bytes(1024)


def test_a_chunk_is_as_long_as_there_is_room_for_it() -> None:
    memory = PromptMemory(K2, 2)
    assert memory.longest_chunk(0, 4096) == 512
    tenth = 1700 * 4 * 5 * 7168
    assert memory.longest_chunk(10 * tenth, 4096) == 1536
    assert memory.longest_chunk(1 << 40, 4096) == 4096
    # Two cards that experts are sent to have four vectors each on their way.
    assert PromptMemory(K2, 2, cards=2).longest_chunk(10 * tenth, 4096) == 1700 * 5 // 13 // 512 * 512


def test_a_budget_pays_for_what_the_process_takes_beyond_the_allowance() -> None:
    small = replace(K2, vocab_size=1)
    assert own_bytes(small, ALLOWED_BYTES // 2) == 0
    own = own_bytes(small, ALLOWED_BYTES + 50 * MB)
    assert own - 50 * MB < 1000
    assert own_bytes(K2, ALLOWED_BYTES) > 80 * MB, "the tokenizer's tables are still to come"
    assert without_own(100_000 * MB, own) == 100_000 * MB - own
    assert without_own(16 * MB, own) == 15 * MB, "a small model can be paged by any process"


@pytest.mark.parametrize("needed", [1, 17, 10 * MB, 750 * MB, 751 * MB, 10_000 * MB])
def test_the_least_budget_is_enough(needed: int) -> None:
    own = 50 * MB
    least = budget_for(needed, own)
    assert needed <= without_own(least, own) <= needed + 2
