"""Find and import the SEDD tree that the extension runs in (``hosting.trees``).

A host is a directory with SEDD's flat modules (graph_lib, noise_lib, losses, sampling, data, model)
and its configs. Its training program is not used, because it wants CUDA, nccl, a cluster's launcher
and the hub's gpt2. One process serves one host.
"""

from pathlib import Path

from duo_ext.hosting import trees
from sedd_ext.remedies import AFTER

STANDALONE = Path(__file__).parent / "standalone"
MODULES = ("graph_lib", "noise_lib", "losses", "sampling", "data", "utils", "model")
FILES = ("graph_lib.py", "noise_lib.py", "losses.py", "sampling.py", "data.py", "utils.py")
FILES += ("model/__init__.py", "model/ema.py", "model/utils.py", "configs/config.yaml")


class Host(trees.Tree):
    """A SEDD tree on disk. ``name`` is "standalone" or "sedd"."""

    program, standalone, modules, files = "SEDD", STANDALONE, MODULES, FILES
    imported = MODULES

    def after_import(self) -> None:
        self.apply(AFTER)


find, active = Host.find, Host.active
