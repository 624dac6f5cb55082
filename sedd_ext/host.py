"""Find and import the SEDD tree that the extension runs in.

A host is a directory with SEDD's flat modules (graph_lib, noise_lib, losses, sampling, data, model)
and its configs. Only these are used: SEDD's own training program wants CUDA, nccl, a cluster's
launcher and the hub's gpt2. One process serves one host, of SEDD or of Duo.
"""

import importlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from duo_ext import compat
from duo_ext.host import REPOSITORY, commit, own_commit

STANDALONE = Path(__file__).parent / "standalone"
MODULES = ("graph_lib", "noise_lib", "losses", "sampling", "data", "utils", "model")
FILES = ("graph_lib.py", "noise_lib.py", "losses.py", "sampling.py", "data.py", "utils.py")
FILES += ("model/__init__.py", "model/ema.py", "model/utils.py", "configs/config.yaml")

_active = None


@dataclass(frozen=True)
class Host:
    """A SEDD tree on disk."""

    root: Path
    name: str
    commit: str | None
    remedies: list = field(default_factory=list, compare=False)

    def __str__(self):
        where = "" if self.name == "standalone" else f" in {self.root}"
        return f"{self.name}{where}, commit {self.commit or 'unknown'}"

    @property
    def configs(self):
        return self.root / "configs"

    def module(self, name):
        """One of the host's modules; ``activate`` comes first."""
        return importlib.import_module(name)

    def activate(self):
        """Put the tree first on the module path and import it, with the stand-ins that it needs.

        Raises ValueError if modules of another tree are loaded.
        """
        global _active
        for name in MODULES:
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if loaded and not loaded.startswith(f"{self.root}{os.sep}"):
                raise ValueError(
                    f"module '{name}' of {loaded} is loaded; {self.root} needs it as its own"
                )
        if _active != self:
            for remedy in compat.BEFORE:
                if remedy.needed(self):
                    remedy.apply(self)
                    self.remedies.append(remedy)
            sys.path.insert(0, str(self.root))
            for name in MODULES:
                self.module(name)
            compat.withdraw_stand_ins()
            _active = self
        return self


def find(given=None):
    """The tree to run in: ``given`` (--host), else $SEDD_ROOT, else the working directory if it is
    a SEDD checkout, else third_party/sedd if it is there, else the standalone tree.

    Raises ValueError if a tree that was named is none, with what it lacks.
    """
    for key, named in (("--host", given), ("SEDD_ROOT", os.environ.get("SEDD_ROOT"))):
        if named:
            root = Path(named).expanduser().absolute()
            if lacks(root):
                raise ValueError(
                    f"{key} is '{named}'; it is no SEDD tree: it lacks {', '.join(lacks(root))}"
                )
            return _host(root)
    for root in (Path.cwd(), REPOSITORY / "third_party" / "sedd"):
        if not lacks(root):
            return _host(root)
    return _host(STANDALONE)


def lacks(root):
    """The files of a SEDD tree that a directory has not."""
    return [name for name in FILES if not (root / name).is_file()]


def _host(root):
    root = root.resolve()
    if root == STANDALONE.resolve():
        return Host(root, "standalone", own_commit())
    return Host(root, "sedd", commit(root))


def active():
    """The host of this process."""
    assert _active is not None, "no host is active"
    return _active
