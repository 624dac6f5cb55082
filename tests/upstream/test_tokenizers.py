"""Two tokenizers and one text in the real checkouts: each tree in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from duo_ext.data import corpus

TEXT = "we the people of the united states, in order to form a more perfect union\n" * 8
SCRIPTS = {
    "duo": """if True:
        import json, sys
        from duo_ext import host
        from duo_ext.data import corpus
        root, folder, *names = sys.argv[1:]
        tree = host.find(root).activate()
        dataloader, settings = tree.module("dataloader"), ["algo=mdlm", "data=sotu", "model=sotu"]

        def block(name):
            key = "data.tokenizer_name_or_path"
            config = tree.compose([*settings, f"{key}={folder}/{name}"])
            tokenizer = dataloader.get_tokenizer(config)
            options = {"cache_dir": f"{folder}/tokens", "block_size": 16, "num_proc": 1}
            made = dataloader.get_dataset(f"{folder}/text", tokenizer, True, "train", **options)
            return tokenizer.decode(made[0]["input_ids"][1:-1])
    """,
    "sedd": """if True:
        import json, sys
        import omegaconf
        from duo_ext.data import corpus
        from sedd_ext import data as sedd_data
        from sedd_ext import host
        root, folder, *names = sys.argv[1:]
        host.find(root).activate()

        def block(name):
            data = {"tokenizer": f"{folder}/{name}", "train": f"{folder}/text"}
            data["cache_dir"] = f"{folder}/tokens"
            given = {"tokens": 32, "data": data, "model": {"length": 14}}
            config = omegaconf.OmegaConf.create(given)
            tokenizer = sedd_data.tokenizer_of(config)
            return tokenizer.decode(sedd_data.blocks(config, "train", tokenizer)[0]["input_ids"])
    """,
}
EACH = """
        corpus.register_resolvers()
        found = []
        for name in names:
            try:
                found.append(block(name))
            except ValueError as error:
                found.append(f"{type(error).__name__}: {error}")
        json.dump(found, open(f"{folder}/found.json", "w"))
"""


@pytest.fixture
def folder(tmp_path):
    """A text and three tokenizers: sotu32, the same elsewhere, one with letters exchanged."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text(TEXT)
    (tmp_path / "text" / "validation.txt").write_text(TEXT)
    own = Path(corpus.asset("tokenizers/sotu32"))
    for name in ("first", "same", "other"):
        (tmp_path / name).mkdir()
        for path in own.iterdir():
            (tmp_path / name / path.name).write_text(path.read_text())
    path = tmp_path / "other" / "tokenizer.json"
    rules = json.loads(path.read_text())
    ids = rules["model"]["vocab"]
    ids["e"], ids["t"] = ids["t"], ids["e"]
    path.write_text(json.dumps(rules))
    return tmp_path


def blocks(script, root, folder, *names):
    """The first block's text, or the error, by each tokenizer in turn."""
    command = [sys.executable, "-c", SCRIPTS[script] + EACH, str(root), str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


def test_duos_tokens_of_another_tokenizer_are_refused(checkout, folder):
    first, same, other, again = blocks(
        "duo", checkout.root, folder, "first", "same", "other", "first"
    )
    assert first == same == again == TEXT[:14]
    assert other.startswith("Refused: data.cache_dir: '") and "of another tokenizer" in other


def test_sedds_tokens_are_each_tokenizers_own(sedd_root, folder):
    assert blocks("sedd", sedd_root, folder, "first", "other", "first") == [TEXT[:14]] * 3
