"""Train a judge, a small GPT-2, as the shipped ones of data=sotu and data=sotu_bpe were trained.

    python duo_ext/assets/make_judge.py OUTPUT_FOLDER [--data sotu_bpe] [--steps 4000]

It sees the blocks that the diffusion models see, on a GPU if there is one, and is saved as
transformers saves any model. Prints the held-out perplexity at the end and writes it, with the
training log, to OUTPUT_FOLDER/training.json.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tqdm
import transformers
from torch import Tensor

from duo_ext import host
from duo_ext.commands.line import one_sentence
from duo_ext.data import corpus

BATCH, WARMUP, HEAD_WIDTH = 32, 200, 32


@dataclass(frozen=True)
class Recipe:
    """What the judges of different data differ in: the network, its training, what a token is."""

    width: int
    layers: int
    dropout: float
    learning_rate: float
    steps: int
    token: str


RECIPES = {
    "sotu": Recipe(160, 5, dropout=0.0, learning_rate=2e-3, steps=4000, token="character"),
    "sotu_bpe": Recipe(160, 5, dropout=0.1, learning_rate=2e-3, steps=3000, token="token"),
}


class Text:
    """The blocks, tokenizer and length of data=NAME model=NAME."""

    def __init__(self, name: str):
        tree = host.find().activate()
        corpus.register_resolvers()
        config = tree.compose([f"data={name}", f"model={name}"])
        self.data, self.length = config.data, config.model.length
        self.folder = self.data.tokenizer_name_or_path
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        self.dataloader = tree.module("dataloader")

    def loader(self, mode: str, **options) -> torch.utils.data.DataLoader:
        """A DataLoader of the blocks; ``mode`` is train or validation, ``options`` are its own."""
        data = self.data
        blocks = self.dataloader.get_dataset(
            data.train, self.tokenizer, True, mode, cache_dir=data.cache_dir, block_size=self.length
        )
        return torch.utils.data.DataLoader(blocks, **options)


def new_model(text: Text, options: argparse.Namespace) -> transformers.GPT2LMHeadModel:
    """A GPT-2 with random weights, for blocks without their closing EOS."""
    config = transformers.GPT2Config(
        vocab_size=len(text.tokenizer),
        n_positions=text.length - 1,
        starts_with_bos=True,  # as every block does, and so every text to score
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.width // HEAD_WIDTH,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), RECIPES[options.data].dropout),
        bos_token_id=text.tokenizer.bos_token_id,
        eos_token_id=text.tokenizer.eos_token_id,
    )
    return transformers.GPT2LMHeadModel._from_config(config, attn_implementation="eager")


def loss_of(model: transformers.GPT2LMHeadModel, tokens_BL: Tensor) -> Tensor:
    """Mean negative log-likelihood of a batch, in nats a token, a scalar."""
    tokens_BL = tokens_BL.to(model.device)
    with torch.autocast(tokens_BL.device.type, torch.bfloat16):
        logits_BLV = model(input_ids=tokens_BL).logits
    return torch.nn.functional.cross_entropy(
        logits_BLV[:, :-1].float().flatten(0, 1), tokens_BL[:, 1:].flatten()
    )


@torch.no_grad()
def held_out_nats(model: transformers.GPT2LMHeadModel, text: Text) -> float:
    """Mean negative log-likelihood of the held-out blocks, the closing EOS left out."""
    total = count = 0.0
    for batch in text.loader("validation", batch_size=64):
        tokens_BL = batch["input_ids"][:, :-1].to(model.device)
        logits_BLV = model(input_ids=tokens_BL).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(
            logits_BLV.flatten(0, 1), tokens_BL[:, 1:].flatten(), reduction="sum"
        )
        total, count = total + nll.item(), count + tokens_BL[:, 1:].numel()
    return total / count


def learning_rate_factor(step: int, steps: int) -> float:
    """Of the largest learning rate: a linear warm-up, then a cosine down to 0."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def batches(loader: torch.utils.data.DataLoader, count: int) -> Iterator[Tensor]:
    """``count`` batches, in as many passes over the data as it takes."""
    while count > 0:
        for batch in loader:
            yield batch["input_ids"]
            count -= 1
            if count == 0:
                return


def train(
    model: transformers.GPT2LMHeadModel, text: Text, options: argparse.Namespace
) -> list[dict]:
    """The training log: [{"step": ..., "nats": ...}]. Saves the model on the way and at the end."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RECIPES[options.data].learning_rate, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, options.steps)
    )
    loader = text.loader("train", batch_size=BATCH, shuffle=True, drop_last=True)
    log, bar = [], tqdm.tqdm(batches(loader, options.steps), total=options.steps, unit="step")
    for step, tokens_BL in enumerate(bar, start=1):
        loss = loss_of(model, tokens_BL[:, :-1])  # the last is always EOS
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 100 == 0:
            log.append({"step": step, "nats": round(loss.item(), 4)})
        if step % 500 == 0 or step == options.steps:
            model.save_pretrained(options.output)
            shutil.copytree(text.folder, options.output, dirs_exist_ok=True)
    return log


def parse() -> argparse.Namespace:
    """The options, with the recipe's values where none are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", choices=RECIPES, default="sotu")
    for name in ("steps", "width", "layers"):
        parser.add_argument(f"--{name}", type=int, help="by default what the data asks for")
    options = parser.parse_args()
    for name, value in vars(options).items():
        if value is None:
            setattr(options, name, getattr(RECIPES[options.data], name))
    for name in ("steps", "width", "layers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    if options.width % HEAD_WIDTH:
        parser.error(f"--width is {options.width}; it must be a multiple of {HEAD_WIDTH}")
    return options


def main() -> None:
    """Train, save and measure the judge."""
    options = parse()
    with one_sentence():
        torch.manual_seed(1)
        text = Text(options.data)
        model = new_model(text, options).to("cuda" if torch.cuda.is_available() else "cpu")
        log = train(model, text, options)
        nats = held_out_nats(model.eval(), text)
        ppl, bits = math.exp(nats), nats / math.log(2)
        result = {"heldout_nats": nats, "heldout_ppl": ppl, "steps": options.steps, "log": log}
        (options.output / "training.json").write_text(json.dumps(result, indent=1))
        token = RECIPES[options.data].token
        print(f"held-out perplexity {ppl:.4f}, {bits:.4f} bits per {token}")


if __name__ == "__main__":
    main()
