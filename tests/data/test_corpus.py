"""The shipped corpus: folding, the split, the cached texts, the assets and the tokenizers."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from duo_ext import Refused
from duo_ext.data import corpus

transformers = pytest.importorskip("transformers")
hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies
no_deadline = hypothesis.settings(deadline=None)

SYMBOLS = st.text(alphabet=corpus.ALPHABET, max_size=80)
# Plain text rarely meets the rules of `fold`; these pieces do.
PIECES = st.sampled_from(
    ["\r\n", "\u2028", "--", " . ", "1,000.5", "20th", "3-", "'", "É", "—", "’", "½", "…", "İ", "ß"]
)
ANY_TEXT = st.lists(st.one_of(PIECES, SYMBOLS, st.text(max_size=10)), max_size=8).map("".join)


@pytest.fixture(scope="module")
def addresses():
    return corpus.addresses()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def characters():
    return transformers.AutoTokenizer.from_pretrained(corpus.asset("tokenizers/sotu32"))


@pytest.fixture(scope="module")
def subwords():
    return transformers.AutoTokenizer.from_pretrained(corpus.asset("tokenizers/sotu_bpe2048"))


def test_alphabet_is_32_symbols():
    assert len(corpus.ALPHABET) == len(set(corpus.ALPHABET)) == 32


def test_alphabet_has_the_most_frequent_marks(addresses):
    text = "".join(address.text for address in addresses).translate(corpus._TO_ASCII)
    marks = {char for char in text if not (char.isalnum() or char.isspace())}
    frequent = sorted(marks, key=text.count, reverse=True)[:4]
    assert set(frequent) == {char for char in corpus.ALPHABET if not char.isalpha()} - set("\n ")


@no_deadline
@given(ANY_TEXT)
def test_fold_is_idempotent_and_within_the_alphabet(text):
    folded = corpus.fold(text)
    assert set(folded) <= set(corpus.ALPHABET)
    assert corpus.fold(folded) == folded
    assert not re.search(r"  | \n|\n |\n\n|^\s|\s$", folded)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Été, Naïve!", "ete, naive"),
        ("“Don’t” — we said–so", "don't - we said-so"),
        ("in 1790.", "in."),
        ("$1,234.50 and 5,000, or more", "and, or more"),
        ("On the 20th, a 10-mile 1920's road", "on the, a mile road"),
        ("a. . . b -- c ...", "a. b - c."),
        ("Year - 12 - 67% - May", "year - may"),
        (" one \r\n\n two\tthree \n", "one\ntwo three"),
    ],
)
def test_fold_examples(text, folded):
    assert corpus.fold(text) == folded


def test_tidy_keeps_characters_and_one_paragraph_a_line():
    assert corpus.tidy("\n  Été,  “12”\t— x \n\n y\n") == "Été, “12” — x\ny"


def test_addresses_are_whole_and_in_order(addresses):
    assert len(addresses) == len({address.name for address in addresses}) == 233
    assert addresses == sorted(addresses)
    assert addresses[0].name.startswith("1790") and addresses[-1].name.startswith("2021")
    assert all(len(address.text) > 5000 for address in addresses)


def test_split_is_disjoint_complete_and_spread_over_the_years(addresses):
    train, held_out = corpus.split(addresses)
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(addresses)
    assert corpus.split(reversed(addresses)) == (train, held_out)
    assert 11 <= len(addresses) / len(held_out) <= 13
    years = [1790, *(int(address.name[:4]) for address in held_out), 2021]
    assert all(0 < later - earlier <= 14 for earlier, later in itertools.pairwise(years))


@pytest.mark.parametrize(("name", "clean"), [("sotu32", corpus.fold), ("sotu", corpus.tidy)])
def test_text_dir_holds_the_split_one_address_a_line(name, clean, cache, addresses):
    directory = corpus.text_dir(name, cache)
    assert directory.is_absolute() and directory.parent == cache
    for part, members in zip(("train", "validation"), corpus.split(addresses), strict=True):
        text = (directory / f"{part}.txt").read_bytes().decode()
        assert text.endswith("\n") and text.count("\n") == len(members)
        assert text.split("\n")[0] == clean(members[0].text)
        assert text.split("\n")[-2] == clean(members[-1].text)
        if name == "sotu32":
            assert set(text) == set(corpus.ALPHABET)


def test_text_dir_is_made_once(cache, monkeypatch):
    first = corpus.text_dir("sotu32", cache)
    monkeypatch.setattr(corpus, "addresses", lambda: pytest.fail("made again"))
    assert corpus.text_dir("sotu32", cache) == first
    assert sorted(path.name for path in first.iterdir()) == ["train.txt", "validation.txt"]


def test_text_dir_of_a_new_corpus_is_a_new_directory(cache, tmp_path, monkeypatch):
    old = corpus.text_dir("sotu32", cache)
    changed = tmp_path / "addresses"
    changed.write_bytes(b"another corpus")
    monkeypatch.setattr(corpus, "asset", lambda relative: str(changed))
    monkeypatch.setattr(
        corpus, "addresses", lambda: [corpus.Address(f"{i:02}", "a") for i in range(9)]
    )
    assert corpus.text_dir("sotu32", cache) != old


def test_text_dir_when_two_processes_race(tmp_path):
    # Both see no directory, then wait for each other just before either renames.
    code = """
import sys, time
from pathlib import Path
from duo_ext.data import corpus
rename, here = Path.rename, Path(sys.argv[1])
def meet(self, target):
    (here / f"ready-{sys.argv[2]}").touch()
    while len(list(here.glob("ready-*"))) < 2:
        time.sleep(0.01)
    return rename(self, target)
Path.rename = meet
corpus.addresses = lambda: [corpus.Address(f"{year}", "Some text.") for year in range(24)]
print(corpus.text_dir("sotu32", here / "cache"))
"""
    root = Path(corpus.__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(i)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        results = [racer.communicate(timeout=60) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    assert [racer.returncode for racer in racers] == [0, 0], results
    (made,) = {out.strip() for out, _ in results}
    assert list((tmp_path / "cache").iterdir()) == [Path(made)]
    assert (Path(made) / "validation.txt").read_text() == "some text.\n" * 2


def test_text_dir_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(corpus.TEXTS, "sotu32", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        corpus.text_dir("sotu32", tmp_path)
    assert not list(tmp_path.iterdir())


def test_cache_directory_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "addresses", lambda: [corpus.Address("1800", "a")] * 7)
    monkeypatch.setenv("IDLM_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert corpus.text_dir("sotu").parent == tmp_path / "mine"
    monkeypatch.delenv("IDLM_CACHE")
    assert corpus.text_dir("sotu").parent == tmp_path / "xdg" / "idlm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert corpus.text_dir("sotu").parent == tmp_path / "home" / ".cache" / "idlm"


def test_a_cache_that_cannot_be_written_or_found_says_how_to_choose_another(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("IDLM_CACHE", str(tmp_path / "file"))
    corpus.register_resolvers()
    told = f"the cache {tmp_path}/file cannot be written .*; set IDLM_CACHE to a folder that can"
    for use in (lambda: corpus.text_dir("sotu"), lambda: corpus._integral(5)):
        with pytest.raises(Refused, match=told):
            use()

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("IDLM_CACHE", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(Refused, match="no home folder for the cache; set IDLM_CACHE to a folder"):
        corpus.text_dir("sotu")


def test_a_relative_cache_gives_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "addresses", lambda: [corpus.Address("1800", "a")])
    monkeypatch.chdir(tmp_path)
    assert corpus.text_dir("sotu", "here").parent == tmp_path / "here"


def test_unknown_text_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"got 'lm1b', want one of sotu, sotu32$"):
        corpus.text_dir("lm1b", tmp_path)


def test_asset_is_an_absolute_path_under_assets():
    path = Path(corpus.asset("sotu/LICENSE.md"))
    assert path.is_absolute() and path.is_file()
    assert Path(corpus.asset("tokenizers/sotu32")).is_dir()


@pytest.mark.parametrize("relative", ["tokenizers/none", "../corpus.py"])
def test_unknown_asset_is_a_clear_error(relative):
    with pytest.raises(ValueError, match=f"got '{relative}', want a file or folder under"):
        corpus.asset(relative)


def test_resolvers(cache, monkeypatch):
    omegaconf = pytest.importorskip("omegaconf")
    monkeypatch.setenv("IDLM_CACHE", str(cache))
    corpus.register_resolvers()
    corpus.register_resolvers()
    config = omegaconf.OmegaConf.create(
        {"text": "${idlm_text:sotu32}", "tokenizer": "${idlm_asset:tokenizers/sotu32}"}
    )
    assert config.text == str(corpus.text_dir("sotu32", cache))
    assert config.tokenizer == corpus.asset("tokenizers/sotu32")


def test_character_tokenizer_is_the_alphabet(characters):
    assert len(characters) == characters.vocab_size == 32
    assert characters.is_fast
    assert characters.convert_ids_to_tokens(range(32)) == list(corpus.ALPHABET)
    assert characters.mask_token is None
    assert characters.bos_token == characters.eos_token == characters.pad_token == "\n"
    assert characters.bos_token_id == 0
    assert characters.unk_token == " "
    assert characters.model_max_length > 10**9


@no_deadline
@given(text=SYMBOLS)
def test_characters_round_trip_from_text(characters, text):
    ids = characters.encode(text)
    assert len(ids) == len(text)
    assert characters.decode(ids) == text
    assert characters(text)["input_ids"] == ids
    assert characters.encode(text, add_special_tokens=False) == ids


@no_deadline
@given(ids=st.lists(st.integers(0, 31), max_size=80))
def test_characters_round_trip_from_ids(characters, ids):
    text = characters.decode(ids, skip_special_tokens=False)
    assert characters.encode(text) == ids
    assert characters.batch_decode([ids]) == [text]


@pytest.mark.parametrize("text", ["  a  b ", "\n\na\n", "n.t 'm , . don 't", " \n \n", "a\n b"])
def test_characters_keep_layout(characters, text):
    assert characters.decode(characters.encode(text)) == text


def test_characters_normalise_as_fold_does_and_keep_layout(characters):
    marks = "".join(corpus.TYPOGRAPHY.values())
    for text in ["Été Naïve", "Don’t—ever", f"a{marks}b", "ﬁne"]:
        kept = characters.decode(characters.encode(text))
        assert corpus.fold(kept) == corpus.fold(text)
    assert characters.decode(characters.encode("É 12!\t’—x")) == "e     '-x"


def test_subword_tokenizer(subwords):
    assert len(subwords) == subwords.vocab_size == 2048
    assert subwords.is_fast and subwords.mask_token is None
    special = {subwords.bos_token, subwords.eos_token, subwords.pad_token, subwords.unk_token}
    assert special == {"<|endoftext|>"}
    assert subwords.model_max_length > 10**9


@no_deadline
@given(text=ANY_TEXT)
def test_subwords_round_trip(subwords, text):
    assert subwords.decode(subwords.encode(text)) == text


def test_subwords_compress_the_held_out_text(subwords, cache):
    text = (corpus.text_dir("sotu", cache) / "validation.txt").read_text(encoding="utf-8")[:50_000]
    assert len(text) / len(subwords.encode(text)) > 3
