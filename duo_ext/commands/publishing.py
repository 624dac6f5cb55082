"""Writing a checkpoint as a Hugging Face folder: what Duo's and SEDD's ``export`` share.

The folder holds the EMA weights as model.safetensors, config.json and a model card, README.md.
Every setting of ours that takes a checkpoint reads it, and so does the host's own class of its
network.
"""

import argparse
import copy
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import torch

from duo_ext import Refused
from duo_ext.commands.line import one_sentence, resolve
from duo_ext.data import corpus
from duo_ext.report import tables
from duo_ext.report.results import load
from duo_ext.weights import adapter_folder, checkpoints, pretrained

KEY = "CHECKPOINT"
# What a configuration says that is not about the model.
OF_THE_RUN = ("teacher_path", "trust_checkpoint", "class_path", "guard", "adapter")


@dataclass(frozen=True)
class Side:
    """Duo's or SEDD's side of the command."""

    module: str  # what is run, as python -m takes it
    activate: Callable  # activate(path or None) makes a host active
    chosen: Callable  # chosen(path) -> a run's kept checkpoint, any other path as it is
    read: Callable  # read(path, key, trust) -> a checkpoint as ``Saved``
    sections: tuple  # of its configuration: those that describe the model
    process: Callable  # process(configuration, path) -> the name of the process
    network: Callable  # network(configuration, weights) -> the host's network
    described: Callable  # described(configuration, network) -> the content of config.json
    usage: str  # what the card says of loading the folder
    formats: dict = field(default_factory=dict)  # {--for: write(options)} beside the folder


def parse(side: Side, arguments: list[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {side.module}",
        description="Write a checkpoint as a Hugging Face folder: the EMA weights as "
        "model.safetensors, config.json and a model card, README.md.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar=KEY, help="a checkpoint, or a folder of this kind")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new, or empty")
    parser.add_argument(
        "--for", dest="format", choices=("hub", *side.formats), default="hub", help="who reads it"
    )
    parser.add_argument(
        "--adapter", action="store_true", help="the adapters alone, as peft's own folder"
    )
    parser.add_argument("--results", metavar="results.json", help="of evaluate, for the model card")
    parser.add_argument("--raw", action="store_true", help="the raw weights instead of their EMA")
    parser.add_argument("--trust-checkpoint", action="store_true", help="load any types")
    parser.add_argument("--host", metavar="PATH", help="the tree whose network it is")
    return parser.parse_args(arguments)


def export(side: Side, options: argparse.Namespace) -> None:
    """Read, check and describe the checkpoint, then write the folder.

    Raises Refused where the checkpoint, the results or the folder do not fit.
    """
    path = side.chosen(resolve(options.checkpoint))
    saved = side.read(path, KEY, options.trust_checkpoint)
    if options.adapter:
        adapter_folder.write(options.output, saved, options.raw, f"{KEY} is '{options.checkpoint}'")
        return
    config = published_config(side, saved.config, options.checkpoint)
    process = side.process(config, options.checkpoint)
    if pretrained.EMBEDDING not in saved.weights:
        raise Refused(f"{KEY}: the checkpoint holds no DIT (no {pretrained.EMBEDDING})")
    network = side.network(config, saved.weights)
    checkpoints.check(saved, network, KEY)
    checkpoints.load(network, saved, average=not options.raw)
    if options.raw and options.results and saved.average is not None:
        raise Refused("--raw and --results do not go together: evaluate samples the EMA weights")
    results = results_of(path, network, options.results) if options.results else None
    facts = {"algo": config["algo"]["name"], "process": process}
    facts |= {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "vocabulary": len(saved.weights[pretrained.EMBEDDING]),
        "length": network.config.model.length,
        "weights": "as given" if saved.average is None else "raw" if options.raw else "EMA",
    }
    model_card = card(side, Path(options.output).name, facts, results)
    described = side.described(config, network)
    pretrained.write_folder(options.output, network.state_dict(), described, model_card)


def published_config(side: Side, config: dict, given: str) -> dict:
    """What the configuration of a run says about its model and its data.

    Raises Refused, with the path as ``given``, where it says too little.
    """
    missing = [section for section in side.sections if section not in config]
    if missing or "name" not in config["algo"]:
        raise Refused(
            f"{KEY} is '{given}'; its configuration must have algo.name, model and data, "
            f"and it lacks {', '.join(missing) or 'algo.name'}"
        )
    config = {section: copy.copy(config[section]) for section in side.sections}
    for name in OF_THE_RUN:
        config["algo"].pop(name, None)
    return config


def results_of(path: str, network: torch.nn.Module, results_path: str) -> dict:
    """The results in the file ``results_path``, with the rows alone that are of the checkpoint
    ``path``. Raises Refused where there are none."""
    folder, _, name = results_path.rpartition("/")
    if name != "results.json":
        raise Refused(f"--results is '{results_path}'; it must be a results.json of evaluate")
    results = load(folder or ".")
    sha256 = checkpoints.sha256(path, network)
    rows = [row for row in results["rows"] if row.get("checkpoint_sha256") == sha256]
    if not rows:
        raise Refused(
            f"--results is '{results_path}'; none of its rows is of {KEY} '{path}' "
            f"(checkpoint_sha256 {sha256})"
        )
    return results | {"rows": rows}


def card(side: Side, name: str, facts: dict, results: dict | None = None) -> str:
    """The model card: what the model is, how it is sampled and, with ``results``, what they are.

    ``name`` is the heading, ``facts`` are what the card's head and table list.
    """
    tags = ["diffusion-language-model", "pytorch_model_hub_mixin", facts["algo"], facts["process"]]
    head = huggingface_hub.ModelCardData(
        library_name="idlm", pipeline_tag="text-generation", tags=tags, **facts
    )
    table = "\n".join(f"| {fact} | {value} |" for fact, value in facts.items())
    text = f"""---
{head.to_yaml()}
---

# {name}

A discrete diffusion language model: the denoiser (a DiT) of {facts["process"]} noise that
`algo={facts["algo"]}` trained.

| | |
|---|---|
{table}

## Sampling

With IDLM, where FOLDER is this folder or its name on the hub:

```
python -m {side.module.replace("export", "evaluate")} --student FOLDER --output results
```

{side.usage}
"""
    return f"{text}\n## Results\n\n{tables.table(results)}" if results else text


def main(side: Side, arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    with one_sentence():
        options = parse(side, sys.argv[1:] if arguments is None else arguments)
        if options.adapter and (options.results or options.format != "hub"):
            raise Refused("--adapter goes with neither --results nor --for: it is a folder of peft")
        side.activate(options.host)
        corpus.register_resolvers()
        side.formats.get(options.format, functools.partial(export, side))(options)
    print(f"written: {options.output}")
