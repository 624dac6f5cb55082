"""Find, check and import the Duo tree that the extension runs in.

A host is a directory with Duo's flat modules (main, algo, trainer_base, dataloader, ...) and its
configs. What differs between hosts is answered here and nowhere else.
"""

import importlib
import importlib.resources
import sys
from dataclasses import dataclass
from pathlib import Path

STANDALONE = Path(__file__).parent / "standalone"
MODULES = ("main", "algo", "trainer_base", "dataloader", "metrics", "utils", "models")


@dataclass(frozen=True)
class Host:
    """A Duo tree on disk."""

    root: Path
    name: str

    @property
    def configs(self):
        return self.root / "configs"

    def module(self, name):
        """One of the host's top-level modules; ``activate`` comes first."""
        return importlib.import_module(name)

    def activate(self):
        """Put the tree first on the module path. One process serves one host."""
        root = str(self.root)
        for name in MODULES:
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if loaded and not loaded.startswith(root):
                raise ValueError(
                    f"module '{name}' of {loaded} is loaded; {root} needs it as its own"
                )
        if sys.path[0] != root:
            sys.path.insert(0, root)
        return self


def find():
    """The standalone tree that ships with the package."""
    return Host(STANDALONE, "standalone")


def overlay():
    """The folder of our own Hydra configs for Duo."""
    return Path(str(importlib.resources.files("duo_ext.configs")))
