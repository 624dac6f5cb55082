"""Write a checkpoint as a Hugging Face folder: ``python -m duo_ext.export --help``.

The folder holds the EMA weights as model.safetensors, config.json and a model card, README.md.
Every setting of ours that takes a checkpoint reads it, and so does Duo's ``DIT.from_pretrained``.
"""

import argparse
import sys
from pathlib import Path

import huggingface_hub
import omegaconf

from duo_ext import checkpoints, corpus, host, pretrained, report
from duo_ext.__main__ import one_sentence
from duo_ext.evaluate import resolve

KEY = "CHECKPOINT"
SECTIONS = ("algo", "model", "data")
OF_THE_RUN = ("teacher_path", "trust_checkpoint", "class_path")  # in algo, not about the model


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m duo_ext.export", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("checkpoint", metavar=KEY, help="a checkpoint, or a folder of this kind")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new, or empty")
    parser.add_argument("--results", metavar="results.json", help="of evaluate, for the model card")
    parser.add_argument("--raw", action="store_true", help="the raw weights instead of their EMA")
    parser.add_argument("--trust-checkpoint", action="store_true", help="load any types")
    parser.add_argument("--host", metavar="PATH", help="the Duo tree whose network it is")
    return parser.parse_args(arguments)


def export(options):
    """Read, check and describe the checkpoint, then write the folder."""
    path = resolve(options.checkpoint)
    saved = pretrained.load(path, KEY, options.trust_checkpoint)
    config = published_config(saved.config, options.checkpoint)
    process = _process(config["algo"]["name"], options.checkpoint)
    dit = network(saved, config, average=not options.raw)
    if options.raw and options.results and saved.average is not None:
        raise ValueError("--raw and --results do not go together: evaluate samples the EMA weights")
    results = results_of(path, dit, options.results) if options.results else None
    facts = {"algo": config["algo"]["name"], "process": process} | _sizes(dit)
    facts["weights"] = "as given" if saved.average is None else "raw" if options.raw else "EMA"
    model_card = card(Path(options.output).name, facts, results)
    pretrained.write_folder(options.output, dit.state_dict(), config, dit.vocab_size, model_card)


def _sizes(dit):
    return {
        "parameters": sum(parameter.numel() for parameter in dit.parameters()),
        "vocabulary": dit.vocab_size,
        "length": dit.config.model.length,
    }


def published_config(config, given):
    """What the configuration of a run says about its model and its data."""
    missing = [section for section in SECTIONS if not isinstance(config.get(section), dict)]
    if missing or "name" not in config["algo"]:
        raise ValueError(
            f"{KEY} is '{given}'; its configuration must have algo.name, model and data, "
            f"and it lacks {', '.join(missing) or 'algo.name'}"
        )
    config = {section: dict(config[section]) for section in SECTIONS}
    for name in OF_THE_RUN:
        config["algo"].pop(name, None)
    config["model"].setdefault("scale_by_sigma", True)  # Duo's DIT asks for it and does not use it
    return config


def _process(name, given):
    from duo_ext.algorithms import FAMILIES  # imports the host, which is active by now

    for process, family in FAMILIES.items():
        if name in family.teachers:
            return process
    raise ValueError(
        f"{KEY} is '{given}', a checkpoint of algo={name}, which no family here samples"
    )


def network(saved, config, average):
    """The host's DIT with the raw weights, or with their EMA where ``average`` asks for it."""
    if pretrained.EMBEDDING not in saved.weights:
        raise ValueError(f"{KEY}: the checkpoint holds no DIT (no {pretrained.EMBEDDING})")
    vocab_size = len(saved.weights[pretrained.EMBEDDING])
    models = host.active().module("models")
    dit = models.dit.DIT(omegaconf.OmegaConf.create(config), vocab_size)
    checkpoints.check(saved, dit, KEY)
    checkpoints.load(dit, saved, average)
    return dit


def results_of(path, dit, results_path):
    """The results in a results.json, with those rows alone that are of the checkpoint ``path``."""
    folder, _, name = results_path.rpartition("/")
    if name != "results.json":
        raise ValueError(f"--results is '{results_path}'; it must be a results.json of evaluate")
    results = report.load(folder or ".")
    sha256 = checkpoints.sha256(path, dit)
    rows = [row for row in results["rows"] if row.get("checkpoint_sha256") == sha256]
    if not rows:
        raise ValueError(
            f"--results is '{results_path}'; none of its rows is of {KEY} '{path}' "
            f"(checkpoint_sha256 {sha256})"
        )
    return results | {"rows": rows}


def card(name, facts, results=None):
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
python -m duo_ext.evaluate --student FOLDER --output results
```

The network alone, inside a checkout of Duo:

```python
from models.dit import DIT

model = DIT.from_pretrained("FOLDER")
```
"""
    return f"{text}\n## Results\n\n{report.table(results)}" if results else text


def main(arguments=None):
    with one_sentence():
        options = parse(sys.argv[1:] if arguments is None else arguments)
        host.find(options.host).activate()
        corpus.register_resolvers()
        export(options)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
