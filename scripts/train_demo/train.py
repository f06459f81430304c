"""Trains the demo model: `python -m scripts.train_demo.train --out FOLDER`. Stops and resumes at any checkpoint."""

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.train_demo.batches import Batch, batches
from scripts.train_demo.chat import as_text
from scripts.train_demo.compose import Composer, system_turn
from scripts.train_demo.initial import install_previous_token_head
from scripts.train_demo.intents import Dialogues, load_dialogues
from scripts.train_demo.measure import phrasing_cases, score, tool_cases
from scripts.train_demo.model import DemoModel
from scripts.train_demo.optimizers import Schedule, make_optimizers, rounded_parameters
from scripts.train_demo.rounding import rounded
from scripts.train_demo.shape import DemoShape
from scripts.train_demo.tool_dialogues import tool_dialogue
from scripts.train_demo.vocabulary import DemoTokenizer, train_vocabulary

VOCABULARY = 1536
CLIP_EVERY = 10  # steps between looks at the attention scores
CLIP_THRESHOLD = 60.0
BALANCE_RATE = 0.003


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the vocabulary and the checkpoints")
    parser.add_argument("--steps", type=int, default=510)
    parser.add_argument("--matrix-rate", type=float, default=4e-3, help="Muon's learning rate, in AdamW's measure")
    parser.add_argument("--other-rate", type=float, default=3e-3, help="AdamW's learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure-every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=50)
    return parser.parse_args()


def sample_texts(data: Dialogues, count: int, seed: int) -> list[str]:
    """Text in the mixture that training sees, for the vocabulary."""
    rng, composer = random.Random(seed), Composer(data)
    texts = [as_text(composer.conversation(6, rng)) for _ in range(count)]
    return texts + [as_text(tool_dialogue(data, system_turn(rng), rng)) for _ in range(count // 3)]


def vocabulary(folder: Path, data: Dialogues) -> DemoTokenizer:
    path = folder / "vocabulary.json"
    if not path.exists():
        DemoTokenizer(train_vocabulary(sample_texts(data, 1500, seed=3), VOCABULARY)).save(path)
    return DemoTokenizer.load(path)


def loss_of(model: DemoModel, batch: Batch) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.hidden_states(batch.ids, batch.positions)[:, :-1]
        used = batch.weights > 0
        logits = F.linear(hidden[used], model.lm_head)
    losses = F.cross_entropy(logits.float(), batch.ids[:, 1:][used], reduction="none")
    weights = batch.weights[used]
    return (losses * weights).sum() / weights.sum()


class Trainer:
    """One training run in `folder`: state.pt holds the model, the optimizers and the next step."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.out
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(options.seed)
        self.data = load_dialogues()
        self.tokenizer = vocabulary(self.folder, self.data)
        self.model = DemoModel(DemoShape(self.tokenizer.vocab_size))
        install_previous_token_head(self.model)
        self.optimizers = make_optimizers(self.model, options.matrix_rate, options.other_rate)
        self.schedule = Schedule(options.steps)
        self.rounded = rounded_parameters(self.model)
        self.step, self.seconds = 0, 0.0
        self.resume()

    def resume(self) -> None:
        path = self.folder / "state.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.folder / "state.new"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def train(self) -> None:
        stream = batches(Composer(self.data), self.tokenizer, self.options.seed, skip=self.step)
        while self.step < self.schedule.steps:
            begin = time.perf_counter()
            note = self.one_step(next(stream))
            self.step += 1
            self.seconds += time.perf_counter() - begin
            if self.step % 10 == 0:
                print(f"step {self.step} {note} {self.seconds:.0f} s", flush=True)
            if self.step % self.options.save_every == 0 or self.step == self.schedule.steps:
                self.save()
            if self.step % self.options.measure_every == 0 or self.step == self.schedule.steps:
                self.measure()

    def one_step(self, batch: Batch) -> str:
        factor = self.schedule.factor(self.step)
        watch = self.step % CLIP_EVERY == 0
        attentions = self.model.attentions()
        for attention in attentions:
            attention.watch = watch
        with rounded(self.rounded, 4 if self.schedule.rounds(self.step) else None):
            loss = loss_of(self.model, batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        spread = max(mixture.balance(BALANCE_RATE * factor) for mixture in self.model.mixtures())
        clipped = sum(attention.clip(CLIP_THRESHOLD) for attention in attentions) if watch else 0
        highest = max(float(attention.last_scores.max()) for attention in attentions)
        return f"loss {loss.item():.4f} rate {factor:.2f} busiest {spread:.1f}x score {highest:.0f} clipped {clipped}"

    def measure(self) -> None:
        cases = {
            "held out": phrasing_cases(self.data, held_out=True, count=192),
            "trained": phrasing_cases(self.data, held_out=False, count=96),
            "tools": tool_cases(self.data, 64),
        }
        self.model.eval()
        for name, case in cases.items():
            print(f"  {name}: {score(self.model, self.tokenizer, case)}", flush=True)
        self.model.train()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    Trainer(options).train()


if __name__ == "__main__":
    main()
