"""Texts of a Duo checkpoint, with a prompt or holes: ``python -m duo_ext.generate --help``."""

from duo_ext.commands import generating
from duo_ext.evaluate import SIDE


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    generating.main(SIDE, "duo_ext.generate", arguments)


if __name__ == "__main__":
    main()
