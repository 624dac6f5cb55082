"""Runs a script in a checkout of Duo or SEDD, with the remedies that this machine needs:
``python -m duo_ext.compat main.py key=value``.

Remedies that change Duo's main.py are left out: it is not imported, it is run.
"""

import runpy
import sys
from pathlib import Path

from duo_ext.host import Host
from duo_ext.hosting.duo import AFTER
from duo_ext.hosting.remedies import BEFORE


def main() -> None:
    """Run the script that the first argument names, as ``python SCRIPT ...`` would."""
    del sys.argv[0]
    if not sys.argv:
        sys.exit("usage: python -m duo_ext.compat SCRIPT [key=value ...]")
    root = Path(sys.argv[0]).absolute().parent
    tree = Host(root, "", None)
    tree.apply(BEFORE)
    sys.path.insert(0, str(root))
    there = [remedy for remedy in AFTER if (root / f"{remedy.module}.py").is_file()]
    tree.apply(remedy for remedy in there if remedy.module != "main")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
