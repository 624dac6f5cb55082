"""Runs a script in a checkout of Duo or SEDD, with the remedies that this machine needs:
``python -m duo_ext.compat main.py key=value``.

Remedies that change Duo's main.py are left out: it is not imported, it is run.
"""

import importlib.machinery
import os
import sys
import types
from pathlib import Path

from duo_ext.host import Host
from duo_ext.hosting.duo import AFTER
from duo_ext.hosting.remedies import BEFORE

# The script, for the other processes of a run. Lightning starts them by ``__main__.__spec__``, as
# ``python -m duo_ext.compat`` with the words behind the script.
SCRIPT = "IDLM_COMPAT_SCRIPT"


def main() -> None:
    """Run the script that the first argument names, as ``python SCRIPT ...`` would."""
    if not sys.argv[1:] and SCRIPT not in os.environ:
        sys.exit("usage: python -m duo_ext.compat SCRIPT [key=value ...]")
    if sys.argv[1:] and (os.path.isfile(sys.argv[1]) or SCRIPT not in os.environ):
        os.environ[SCRIPT] = os.path.abspath(sys.argv[1])
        del sys.argv[0]
    else:
        sys.argv[0] = os.environ[SCRIPT]
    script = Path(os.environ[SCRIPT])
    if not script.is_file():
        sys.exit(f"error: SCRIPT is '{sys.argv[0]}'; there is no such file")
    root = script.parent
    tree = Host(root, "", None)
    tree.apply(BEFORE)
    sys.path.insert(0, str(root))
    there = [remedy for remedy in AFTER if (root / f"{remedy.module}.py").is_file()]
    tree.apply(remedy for remedy in there if remedy.module != "main")
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    program.__file__ = str(script)
    program.__spec__ = importlib.machinery.ModuleSpec("duo_ext.compat", None)
    exec(compile(script.read_bytes(), script, "exec", dont_inherit=True), program.__dict__)


if __name__ == "__main__":
    main()
