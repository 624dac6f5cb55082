"""Find and import the SEDD tree that the extension runs in.

A host is a directory with SEDD's flat modules (graph_lib, noise_lib, losses, sampling, data, model)
and its configs. Only these are used: SEDD's own training program wants CUDA, nccl, a cluster's
launcher and the hub's gpt2. One process serves one host, of SEDD or of Duo.
"""

import os
import sys
from pathlib import Path

from duo_ext.hosting import remedies, trees

STANDALONE = Path(__file__).parent / "standalone"
MODULES = ("graph_lib", "noise_lib", "losses", "sampling", "data", "utils", "model")
FILES = ("graph_lib.py", "noise_lib.py", "losses.py", "sampling.py", "data.py", "utils.py")
FILES += ("model/__init__.py", "model/ema.py", "model/utils.py", "configs/config.yaml")

_active = None


class Host(trees.Tree):
    """A SEDD tree on disk. ``name`` is "standalone" or "sedd"."""

    program = "SEDD"

    def activate(self):
        """Put the tree first on the module path and import it, with the stand-ins that it needs.

        Raises Refused if modules of another tree are loaded.
        """
        global _active
        self.require_own(MODULES)
        if _active != self:
            self.apply(remedies.BEFORE)
            sys.path.insert(0, str(self.root))
            with self.needing("sedd"):
                for name in MODULES:
                    self.module(name)
            remedies.withdraw_stand_ins()
            _active = self
        return _active


def find(path=None):
    """The tree to run in: ``path`` (--host), else $SEDD_ROOT, else the working directory if it is
    a SEDD checkout, else third_party/sedd if it is there, else the standalone tree.

    Raises Refused if a tree that was named is none, with what it lacks.
    """
    named = [("--host", path), ("SEDD_ROOT", os.environ.get("SEDD_ROOT"))]
    local = [Path.cwd(), trees.REPOSITORY / "third_party" / "sedd"]
    root = trees.locate("SEDD", FILES, named, local)
    if root in (None, STANDALONE.resolve()):
        return Host(STANDALONE.resolve(), "standalone", trees.own_commit())
    return Host(root, "sedd", trees.commit(root))


def active():
    """The host of this process."""
    assert _active is not None, "no host is active"
    return _active
