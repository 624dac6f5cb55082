"""Write a SEDD checkpoint as a Hugging Face folder: ``python -m sedd_ext.export --help``.

SEDD's own ``SEDD.from_pretrained`` and ``load_model`` read the folder, and ``teacher=`` takes it.
"""

import omegaconf

from duo_ext.commands import publishing
from sedd_ext import host, runs

SECTIONS = ("algo", "tokens", "graph", "noise", "model", "data")


def _process(config, path):
    return {"absorb": "absorbing"}.get(config["graph"]["type"], "uniform")


def _network(config, weights):
    return host.active().module("model").SEDD(omegaconf.OmegaConf.create(config))


SIDE = publishing.Side(
    module="sedd_ext.export",
    activate=lambda path: host.find(path).activate(),
    chosen=runs.in_run,
    read=runs.denoiser,
    sections=SECTIONS,
    process=_process,
    network=_network,
    described=lambda config, network: config,
    usage="""In a checkout of SEDD:

```python
from load_model import load_model

model, graph, noise = load_model("FOLDER", device)
```""",
)


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    publishing.main(SIDE, arguments)


if __name__ == "__main__":
    main()
