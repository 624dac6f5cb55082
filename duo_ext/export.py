"""Write a Duo checkpoint as a Hugging Face folder: ``python -m duo_ext.export --help``.

Duo's ``DIT.from_pretrained`` reads the folder (``commands.publishing``), and ``--for harness``
writes a checkpoint for Duo main's harness (``harness``).
"""

import omegaconf

from duo_ext import families, harness, host
from duo_ext.commands import publishing
from duo_ext.commands.publishing import KEY, Side
from duo_ext.weights import pretrained


def _process(config, given):
    return families.of(config["algo"]["name"], f"{KEY} is '{given}',")[0]


def _dit(config, weights):
    """Duo's DIT. It asks for scale_by_sigma, which it does not use."""
    config["model"] = {"scale_by_sigma": True} | config["model"]
    models = host.active().module("models")
    vocab_size = len(weights[pretrained.EMBEDDING])
    return models.dit.DIT(omegaconf.OmegaConf.create(config), vocab_size)


SIDE = Side(
    module="duo_ext.export",
    activate=lambda path: host.find(path).activate(),
    chosen=pretrained.in_run,
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
    formats={"harness": harness.write},
)


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    publishing.main(SIDE, arguments)


if __name__ == "__main__":
    main()
