"""What ``mode=`` may be: train, sample, eval. Each is called with (configuration, run's folder)."""

import json
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor

from duo_ext import Refused
from duo_ext.core import samplers
from duo_ext.core.networks import Tempered
from duo_ext.data import prompts
from duo_ext.data.texts import Tokenizer
from duo_ext.files import write_whole
from duo_ext.measuring import draws, metrics
from duo_ext.measuring.subject import HOST, trained_for
from duo_ext.weights import checkpoints
from sedd_ext import data, given, host, runs, workers
from sedd_ext.looks import noise_removal_of, process_of
from sedd_ext.parts import Parts
from sedd_ext.sampler import Way, sampler
from sedd_ext.train import train


def load(config: DictConfig) -> tuple[Parts, Tokenizer]:
    """(``Parts`` with the EMA weights of ``config.checkpoint``, the tokenizer)."""
    device, _ = workers.join(config.device)
    tokenizer = data.tokenizer_of(config)
    saved = runs.denoiser(config.checkpoint, "checkpoint")
    noise = ("type", "sigma_min", "sigma_max") if config.noise.type == "geometric" else ("type",)
    checkpoints.check_config(saved, config, "checkpoint", tuple(f"noise.{key}" for key in noise))
    return Parts.trained(config, device, saved, "checkpoint"), tokenizer


def projector(
    config: DictConfig, tokenizer: Tokenizer, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """project(x (B, L)) -> x with ``sampling.prefix`` and ``sampling.suffix`` in their places.

    SEDD's conditional sampling calls it before every step. Raises Refused if prefix and suffix
    leave no room for other tokens, or have what the model has no tokens for.
    """
    length = config.model.length
    frame = prompts.Frame(tokenizer, length, config.tokens)
    ends = [
        frame.ids(config.sampling[name] or "", f"sampling.{name}") for name in ("prefix", "suffix")
    ]
    taken = sum(map(len, ends))
    if taken >= length:
        raise Refused(
            f"sampling.prefix and sampling.suffix have {taken} tokens; together they must have "
            f"less than model.length {length}"
        )
    places = [*range(len(ends[0])), *range(length - len(ends[1]), length)]
    prompt = torch.tensor(ends[0] + ends[1], dtype=torch.int64, device=device)

    def project(x_BL):
        x_BL[:, places] = prompt
        return x_BL

    return project


def sample(config: DictConfig, folder: str) -> None:
    """Draw ``sampling.samples`` texts by SEDD's own sampler, or by the core's that ``algo.sampler``
    and ``algo.grid`` name, and write samples/samples.json.

    The judge's GenPPL and the entropy stand there, too.
    """
    parts, tokenizer = load(config)
    project = projector(config, tokenizer, parts.device)
    if trained_for(config.algo) == HOST:
        draw, _ = sampler(parts, Way.configured(config.sampling), project)
    else:
        draw = by_core(parts, project)
    judge = parts.judge()
    torch.manual_seed(config.seed)
    tokens_NL = draws.stream(draw, config.sampling.samples, parts.at_a_time)
    texts = tokenizer.batch_decode(tokens_NL)
    ppl = metrics.gen_ppl(*judge.nll(texts), config.seed)
    entropy = metrics.sample_entropy(tokens_NL)
    print(f"GenPPL {ppl.value:.3f} [{ppl.low:.3f}, {ppl.high:.3f}]  entropy {entropy:.4f}")
    result = {"genppl": ppl._asdict(), "entropy": entropy, "judge": judge.name, "texts": texts}
    path = f"{folder}/samples/samples.json"
    write_whole(path, json.dumps(result, indent=1).encode())
    print(f"written: {path}")


def by_core(parts: Parts, project: Callable[[Tensor], Tensor]) -> draws.Draw:
    """draw(size) -> tokens (size, L) by the sampler and on the times that ``algo`` names.

    ``project`` puts prompts into tokens, as ``projector`` says.
    """
    config = parts.config
    sample = samplers.find(config.algo.sampler)
    times_K = samplers.grids.times(config.algo.grid, config.sampling.steps)
    process = process_of(parts)
    student = Tempered.of(process, parts.model, True)
    removal = noise_removal_of(config)

    def draw(size):
        x0_BL, given_BL = samplers.blank(student, (size, config.model.length))
        given_BL = project(x0_BL - 1) >= 0
        return sample(process, student, project(x0_BL), given_BL, times_K, removal)

    return draw


def bound(config: DictConfig, folder: str) -> None:
    """Print SEDD's bound on the likelihood of ``data.valid``, and write it to eval.json.

    ``nll`` is in nats a token, ``bpd`` in bits a token, ``ppl`` the perplexity.
    """
    parts, tokenizer = load(config)
    graph = given.Given(parts.graph)
    loss = host.active().module("losses").get_loss_fn(parts.noise, graph, train=False)
    torch.manual_seed(config.seed)
    total, count = 0.0, 0
    blocks = data.blocks(config, "validation", tokenizer)
    loader = torch.utils.data.DataLoader(blocks, parts.at_a_time)
    for batch in loader:
        with torch.no_grad():
            x_BL, graph.given_BL = given.of(batch, parts.device)
            total += loss(parts.model, x_BL).sum().item()
            count += x_BL.numel() if graph.given_BL is None else int((~graph.given_BL).sum())
    nats = torch.tensor(total / count, dtype=torch.float64)
    found = {"nll": nats.item(), "bpd": (nats / torch.log(torch.tensor(2.0))).item()}
    found |= {"ppl": nats.exp().item(), "tokens": count}
    print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    write_whole(f"{folder}/eval.json", json.dumps(found, indent=1).encode())


MODES = {"train": train, "sample": sample, "eval": bound}
