"""Write a checkpoint as a Hugging Face folder: ``python -m duo_ext.export --help``.

The folder holds the EMA weights as model.safetensors, config.json and a model card, README.md.
Every setting of ours that takes a checkpoint reads it, and so does Duo's ``DIT.from_pretrained``.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import omegaconf

from duo_ext import Refused, checkpoints, corpus, host, pretrained, report
from duo_ext.evaluation import resolve
from duo_ext.line import one_sentence

KEY = "CHECKPOINT"
OF_THE_RUN = ("teacher_path", "trust_checkpoint", "class_path", "guard")  # not about the model


@dataclass(frozen=True)
class Program:
    """What differs between hosts: the module that is run, how a host is made active (the path or
    None), how a checkpoint is read, which sections of its configuration describe the model, which
    process it has (configuration, path), the host's network (configuration, weights), the
    content of config.json (configuration, network), and what the card says of loading it."""

    module: str
    activate: Callable
    read: Callable
    sections: tuple
    process: Callable
    network: Callable
    described: Callable
    usage: str


def parse(program, arguments):
    parser = argparse.ArgumentParser(
        prog=f"python -m {program.module}",
        description="Write a checkpoint as a Hugging Face folder: the EMA weights as "
        "model.safetensors, config.json and a model card, README.md.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar=KEY, help="a checkpoint, or a folder of this kind")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new, or empty")
    parser.add_argument("--results", metavar="results.json", help="of evaluate, for the model card")
    parser.add_argument("--raw", action="store_true", help="the raw weights instead of their EMA")
    parser.add_argument("--trust-checkpoint", action="store_true", help="load any types")
    parser.add_argument("--host", metavar="PATH", help="the tree whose network it is")
    return parser.parse_args(arguments)


def export(program, options):
    """Read, check and describe the checkpoint, then write the folder."""
    path = resolve(options.checkpoint)
    saved = program.read(path, KEY, options.trust_checkpoint)
    config = published_config(program, saved.config, options.checkpoint)
    process = program.process(config, options.checkpoint)
    if pretrained.EMBEDDING not in saved.weights:
        raise Refused(f"{KEY}: the checkpoint holds no DIT (no {pretrained.EMBEDDING})")
    network = program.network(config, saved.weights)
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
    model_card = card(program, Path(options.output).name, facts, results)
    described = program.described(config, network)
    pretrained.write_folder(options.output, network.state_dict(), described, model_card)


def published_config(program, config, given):
    """What the configuration of a run says about its model and its data."""
    missing = [section for section in program.sections if section not in config]
    if missing or "name" not in config["algo"]:
        raise Refused(
            f"{KEY} is '{given}'; its configuration must have algo.name, model and data, "
            f"and it lacks {', '.join(missing) or 'algo.name'}"
        )
    config = {section: copy.copy(config[section]) for section in program.sections}
    for name in OF_THE_RUN:
        config["algo"].pop(name, None)
    return config


def results_of(path, network, results_path):
    """The results in a results.json, with those rows alone that are of the checkpoint ``path``."""
    folder, _, name = results_path.rpartition("/")
    if name != "results.json":
        raise Refused(f"--results is '{results_path}'; it must be a results.json of evaluate")
    results = report.load(folder or ".")
    sha256 = checkpoints.sha256(path, network)
    rows = [row for row in results["rows"] if row.get("checkpoint_sha256") == sha256]
    if not rows:
        raise Refused(
            f"--results is '{results_path}'; none of its rows is of {KEY} '{path}' "
            f"(checkpoint_sha256 {sha256})"
        )
    return results | {"rows": rows}


def card(program, name, facts, results=None):
    """The model card: what the model is, how it is sampled and, with ``results``, how well."""
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
python -m {program.module.replace("export", "evaluate")} --student FOLDER --output results
```

{program.usage}
"""
    return f"{text}\n## Results\n\n{report.table(results)}" if results else text


def main(program, arguments=None):
    with one_sentence():
        options = parse(program, sys.argv[1:] if arguments is None else arguments)
        program.activate(options.host)
        corpus.register_resolvers()
        export(program, options)
    print(f"written: {options.output}")


# ------------------------------------------------------------------------------------------- Duo


def _process(config, given):
    from duo_ext.algorithms import FAMILIES  # imports the host, which is active by now

    name = config["algo"]["name"]
    for process, family in FAMILIES.items():
        if name in family.teachers:
            return process
    raise Refused(f"{KEY} is '{given}', a checkpoint of algo={name}, which no family here samples")


def _dit(config, weights):
    """Duo's DIT. It asks for scale_by_sigma, which it does not use."""
    config["model"] = {"scale_by_sigma": True} | config["model"]
    models = host.active().module("models")
    vocab_size = len(weights[pretrained.EMBEDDING])
    return models.dit.DIT(omegaconf.OmegaConf.create(config), vocab_size)


DUO = Program(
    module="duo_ext.export",
    activate=lambda path: host.find(path).activate(),
    read=pretrained.load,
    sections=("algo", "model", "data"),
    process=_process,
    network=_dit,
    described=lambda config, dit: {"config": config, "vocab_size": dit.vocab_size},
    usage="""The network alone, inside a checkout of Duo:

```python
from models.dit import DIT

model = DIT.from_pretrained("FOLDER")
```""",
)


if __name__ == "__main__":
    main(DUO)
