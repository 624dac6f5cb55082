"""mode=sample: tokens by SEDD's own sampler, beginnings and ends given, scored by the judge."""

import json

import torch

from duo_ext import Refused
from duo_ext.files import write_whole
from duo_ext.measuring import draws, metrics
from duo_ext.weights import checkpoints
from sedd_ext import algorithms, host, processes, program


def load(config, key="checkpoint"):
    """(parts with the EMA weights of ``config.checkpoint``, the tokenizer)."""
    device, _ = processes.join(config.device)
    tokenizer = program.tokenizer_of(config)
    parts = program.build(config, device)
    saved = algorithms.read(config.checkpoint, key)
    program.check(saved, parts, key)
    checkpoints.load(parts.model, saved)
    parts.model.eval()
    return parts, tokenizer


def projector(config, tokenizer, device):
    """Puts ``sampling.prefix`` and ``sampling.suffix`` back in their places, as SEDD's does.

    Raises Refused if they leave no room.
    """
    ends = [_ids(tokenizer, config.sampling[name]) for name in ("prefix", "suffix")]
    length, taken = config.model.length, sum(map(len, ends))
    if taken >= length:
        raise Refused(
            f"sampling.prefix and sampling.suffix have {taken} tokens; together they must have "
            f"less than model.length {length}"
        )
    places = [*range(len(ends[0])), *range(length - len(ends[1]), length)]
    given = torch.tensor(ends[0] + ends[1], dtype=torch.int64, device=device)

    def project(x_BL):
        x_BL[:, places] = given
        return x_BL

    return project


def _ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids if text else []


def sample(config, folder):
    """Write ``sampling.samples`` texts to samples/samples.json, with GenPPL and entropy."""
    parts, tokenizer = load(config)
    project = projector(config, tokenizer, parts.device)
    draw, _ = program.sampler(parts, program.Way.configured(config.sampling), project)
    judge = program.judge(config, parts.device)
    torch.manual_seed(config.seed)
    at_a_time = program.at_a_time(config, parts.graph)
    tokens_NL = draws.stream(draw, config.sampling.samples, at_a_time)
    texts = tokenizer.batch_decode(tokens_NL)
    ppl = metrics.gen_ppl(*judge.nll(texts), config.seed)
    entropy = metrics.sample_entropy(tokens_NL)
    print(f"GenPPL {ppl.value:.3f} [{ppl.low:.3f}, {ppl.high:.3f}]  entropy {entropy:.4f}")
    result = {"genppl": ppl._asdict(), "entropy": entropy, "judge": judge.name, "texts": texts}
    path = f"{folder}/samples/samples.json"
    write_whole(path, json.dumps(result, indent=1).encode())
    print(f"written: {path}")


def bound(config, folder):
    """mode=eval: print the likelihood bound on data.valid, nats and bits a token, perplexity."""
    parts, tokenizer = load(config)
    loss = host.active().module("losses").get_loss_fn(parts.noise, parts.graph, train=False)
    torch.manual_seed(config.seed)
    total, count = 0.0, 0
    blocks = program.blocks(config, "validation", tokenizer)
    loader = torch.utils.data.DataLoader(blocks, program.at_a_time(config, parts.graph))
    for batch in loader:
        with torch.no_grad():
            x_BL = batch["input_ids"].to(parts.device)
            total += loss(parts.model, x_BL).sum().item()
            count += x_BL.numel()
    nats = torch.tensor(total / count, dtype=torch.float64)
    found = {"nll": nats.item(), "bpd": (nats / torch.log(torch.tensor(2.0))).item()}
    found |= {"ppl": nats.exp().item(), "tokens": count}
    print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    write_whole(f"{folder}/eval.json", json.dumps(found, indent=1).encode())
