"""A process that loads one model file after another and says how each went. Run by tests.k2lite.test_mutated_files.

First line on stdin: a valid file, to warm up with; from then on address space may grow by EXTRA_BYTES at most. Every
line after it: a file to try. One JSON list [outcome, detail] on stdout for each line: "answered", "refused" with the
K2Error's text, or "failed" with the name and text of whatever else was raised.
"""

import gc
import json
import resource
import sys
import warnings
from pathlib import Path

import torch

from k2lite.engine_options import EngineOptions
from k2lite.events import Message
from k2lite.load import load_model
from k2lite.sampling import sample
from quant.errors import K2Error

EXTRA_BYTES = 64 << 20


def answer(path: Path) -> None:
    """Load, render a chat where there is a template, read four tokens, draw one and decode it. Raises K2Error."""
    loaded = load_model(path, threads=1)
    try:
        cache = loaded.model.new_cache(EngineOptions().context_for(loaded.model.config.context_length))
        logits = loaded.model.forward(torch.arange(4), cache)
        generator = torch.Generator().manual_seed(0)
        token = sample(logits[-1], loaded.info.default_sampling, [1, 2], generator)
        loaded.tokenizer.token_text(token)
        loaded.tokenizer.encode_marked("the fox <|im_end|>")
        loaded.chat_format.render([Message("user", "the fox")])
    finally:
        loaded.close()


def attempt(path: Path) -> tuple[str, str]:
    try:
        answer(path)
    except K2Error as error:
        return "refused", str(error)
    except BaseException as error:  # a panic of the tokenizer library is no Exception
        return "failed", f"{type(error).__name__}: {error}"
    return "answered", ""


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # a warning would be a second line on a user's screen
    for number, line in enumerate(sys.stdin):
        print(json.dumps(attempt(Path(line.rstrip("\n")))), flush=True)
        gc.collect()  # what a deep error holds in cycles is no growth
        if number == 0:
            limit_memory()


if __name__ == "__main__":
    main()
