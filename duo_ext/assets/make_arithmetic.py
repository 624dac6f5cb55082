"""Write ``data.arithmetic``'s word problems: python -m duo_ext.assets.make_arithmetic FOLDER"""

import argparse

from duo_ext.commands.line import one_sentence
from duo_ext.data import arithmetic


def main(arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    parser = argparse.ArgumentParser(description=arithmetic.__doc__)
    parser.add_argument("folder")
    for name, number in (("train", 20_000), ("validation", 500), ("test", 1000), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = vars(parser.parse_args(arguments))
    with one_sentence():
        arithmetic.write(**options)
        print(f"written: {options['folder']}: train.jsonl, validation.jsonl, test.jsonl, tokenizer")


if __name__ == "__main__":
    main()
