"""results.json -> table.md and figure.png: ``python -m duo_ext.report FOLDER...``

Rows of one distillation that differ in its seed alone become one row.
"""

import argparse
import io
import sys

from duo_ext import Refused
from duo_ext.report.pages import render


def main(arguments: list[str] | None = None) -> int:
    """Render each folder; the exit code is 1 if one could not be."""
    parser = argparse.ArgumentParser(
        prog="python -m duo_ext.report", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("folder", nargs="+", help="a folder with results.json")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is none
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a character
    failed = 0
    for folder in parser.parse_args(arguments).folder:
        try:
            render(folder)
            print(f"{folder}: table.md, figure.png")
        except (ImportError, OSError, Refused) as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
