"""Texts of a SEDD checkpoint, with a prompt or holes: ``python -m sedd_ext.generate --help``."""

from duo_ext.commands import generating
from sedd_ext.evaluate import SIDE


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    generating.main(SIDE, "sedd_ext.generate", arguments)


if __name__ == "__main__":
    main()
