"""Train the shipped judge: a small GPT-2 on data=sotu, saved as transformers saves any model.

    python duo_ext/assets/make_judge.py OUTPUT_FOLDER [--steps 4000]

It sees the blocks that the diffusion models see. Prints the held-out perplexity at the end and
writes it, with the training log, to OUTPUT_FOLDER/training.json.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
import tqdm
import transformers

from duo_ext import corpus, host

LENGTH, BATCH, LEARNING_RATE, WARMUP = 128, 32, 2e-3, 200


def blocks(mode, tokenizer):
    dataloader = host.find().activate().module("dataloader")
    folder = str(corpus.text_dir("sotu32"))
    return dataloader.get_dataset(
        folder, tokenizer, True, mode, cache_dir=f"{folder}/tokens", block_size=LENGTH
    )


def loss_of(model, tokens_BL):
    with torch.autocast(tokens_BL.device.type, torch.bfloat16):
        logits_BLV = model(input_ids=tokens_BL).logits
    return torch.nn.functional.cross_entropy(
        logits_BLV[:, :-1].float().flatten(0, 1), tokens_BL[:, 1:].flatten()
    )


@torch.no_grad()
def held_out_nats(model, tokenizer):
    """Mean negative log-likelihood of the held-out blocks, the closing newline left out."""
    loader = torch.utils.data.DataLoader(blocks("validation", tokenizer), batch_size=64)
    total = count = 0.0
    for batch in loader:
        tokens_BL = batch["input_ids"][:, :-1]
        logits_BLV = model(input_ids=tokens_BL).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(
            logits_BLV.flatten(0, 1), tokens_BL[:, 1:].flatten(), reduction="sum"
        )
        total, count = total + nll.item(), count + tokens_BL[:, 1:].numel()
    return total / count


def learning_rate_factor(step, steps):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    options = parser.parse_args()
    torch.manual_seed(1)
    folder = corpus.asset("tokenizers/sotu32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=LENGTH - 1,
        starts_with_bos=True,  # as every block does, and so every text to score
        n_embd=160,
        n_layer=5,
        n_head=5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, options.steps)
    )
    loader = torch.utils.data.DataLoader(
        blocks("train", tokenizer), batch_size=BATCH, shuffle=True, drop_last=True
    )
    log, step = [], 0
    bar = tqdm.tqdm(total=options.steps, unit="step")
    while step < options.steps:
        for batch in loader:
            loss = loss_of(model, batch["input_ids"][:, :-1])  # the last is always EOS
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            step += 1
            bar.update()
            if step % 100 == 0:
                log.append({"step": step, "nats": round(loss.item(), 4)})
            if step % 500 == 0 or step == options.steps:
                model.save_pretrained(options.output)
                shutil.copytree(folder, options.output, dirs_exist_ok=True)
            if step == options.steps:
                break
    nats = held_out_nats(model.eval(), tokenizer)
    result = {"heldout_nats": nats, "heldout_ppl": math.exp(nats), "steps": step, "log": log}
    (options.output / "training.json").write_text(json.dumps(result, indent=1))
    print(f"held-out perplexity {math.exp(nats):.4f}, {nats / math.log(2):.4f} bits per character")


if __name__ == "__main__":
    main()
