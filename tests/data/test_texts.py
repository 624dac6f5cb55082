"""duo_ext.data.texts: tokenizers and what decides their ids, kept blocks, files of text."""

import os
import subprocess
import sys

import numpy
import pytest
import tokenizers
import transformers

from duo_ext import Refused
from duo_ext.data import texts
from duo_ext.data.corpus import asset

PROTEINS = "ACDEFGHIKLMNPQRSTVWY"


def characters(alphabet=PROTEINS, special=("<s>", "</s>"), bos="<s>", eos="</s>", **more):
    """A tokenizer of one character a token, without [UNK]."""
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    words.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=bos, eos_token=eos, **more
    )


def lower_case():
    tokenizer = characters()
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    return tokenizer


def with_added(token):
    tokenizer = characters()
    tokenizer.add_tokens([token])
    return tokenizer


# tokenizers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt2", "bert", "t5", "gemma", "mbart", "xlnet", "clip"])
def test_a_model_folder_without_a_tokenizer_has_none(tmp_path, model):
    """transformers makes one of special tokens alone."""
    transformers.AutoConfig.for_model(model).save_pretrained(tmp_path)
    with pytest.raises(Refused, match=rf"^key is '{tmp_path}'; it must be .*vocabulary is empty"):
        texts.tokenizer(str(tmp_path), "key")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_one_sentence(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(Refused, match=rf"^key is '{tmp_path}'; it must be a tokenizer's"):
        texts.tokenizer(str(tmp_path), "key")


OTHERS = {
    "permuted": lambda: characters(PROTEINS[::-1]),
    "BOS and EOS exchanged": lambda: characters(bos="</s>", eos="<s>"),
    "another EOS": lambda: characters(eos="A"),
    "a rule": lower_case,
    "an added token": lambda: with_added("CA"),
    "another added token": lambda: with_added("AC"),
    "in Python": transformers.ByT5Tokenizer,
    "in Python with fewer additions": lambda: transformers.ByT5Tokenizer(extra_ids=3),
}


def test_a_fingerprint_tells_tokenizers_apart():
    found = {texts.fingerprint(make()) for make in (characters, *OTHERS.values())}
    assert len(found) == 1 + len(OTHERS)


def test_a_fingerprint_is_the_same_in_another_process_folder_and_after_calls(tmp_path):
    made = (characters(unk_token="A"), transformers.ByT5Tokenizer())
    script = "import sys, transformers as t; from duo_ext.data import texts;"
    script += "print(texts.fingerprint(t.AutoTokenizer.from_pretrained(sys.argv[1])))"
    for number, tokenizer in enumerate(made):
        tokenizer.save_pretrained(tmp_path / f"{number}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / f"{number}")
        known = texts.fingerprint(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
        padded = texts.fingerprint(tokenizer)
        tokenizer(["AC", "A"], padding="max_length", truncation=True, max_length=9)
        assert texts.fingerprint(tokenizer) == padded
        (tmp_path / f"{number}").rename(tmp_path / f"moved{number}")
        command = [sys.executable, "-c", script, f"{tmp_path}/moved{number}"]
        assert subprocess.check_output(command, text=True).strip() == known


def test_ids_beyond_a_vocabulary_are_refused():
    tokenizer = with_added("CA")
    texts.require_ids(tokenizer, 23, "key")
    texts.require_ids(tokenizer, 22, "key", besides=["CA"])
    with pytest.raises(Refused, match=r"key is .*'CA' has the id 22; there are 22 tokens, .* 21$"):
        texts.require_ids(tokenizer, 22, "key")


def test_text_that_needs_no_unknown_token_is_encoded():
    assert texts.encode(characters(), ["ACD", "YW"], "key") == [[2, 3, 4], [21, 20]]
    assert texts.encode(characters(), [], "key") == []


def words(*vocabulary):
    known = {word: index for index, word in enumerate(vocabulary)}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(known))
    found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found)


@pytest.mark.parametrize(
    ("tokenizer", "text", "piece"),
    [(characters(), "ACDxEF", "x"), (words("we", "the"), "we the people", "people")],
)
def test_text_that_needs_an_unknown_token_is_refused_with_what_does(tokenizer, text, piece):
    with pytest.raises(Refused, match=rf"^key is .* it cannot encode '{piece}', which is in the"):
        texts.encode(tokenizer, [text], "key")


def test_a_text_is_explained_only_where_it_is_why(tmp_path):
    (tmp_path / "train.txt").write_text("ACx\n")
    with pytest.raises(Refused, match="cannot encode 'x'"):
        texts.explain(str(tmp_path), "train", characters(), "key")
    (tmp_path / "train.txt").write_text("AC\n")
    texts.explain(str(tmp_path), "train", characters(), "key")
    texts.explain("openwebtext", "train", characters(), "key")


# kept blocks -------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """``kept(tokenizer, source)``: (the blocks, whether they were made)."""
    made = []

    def call(tokenizer, source=("text", 4)):
        before = len(made)
        block = texts.encode(tokenizer, ["QRCL"], "key")

        def make():
            made.append(1)
            return numpy.array(block)

        return texts.kept(tmp_path, "train", source, tokenizer, make).tolist(), len(made) > before

    return call


def test_blocks_are_kept_for_one_tokenizer_and_one_source(kept):
    first, other = characters(), characters(PROTEINS[::-1])
    assert kept(first) == ([[15, 16, 3, 11]], True)
    assert kept(other) == ([[8, 7, 20, 12]], True)
    assert kept(first) == ([[15, 16, 3, 11]], False)
    assert kept(first, ("text", 5))[1]


@pytest.mark.parametrize("length", [0, 5, 64, 100, -1])
def test_a_cut_file_is_made_anew(kept, tmp_path, length):
    kept(characters())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:length])
    assert kept(characters()) == ([[15, 16, 3, 11]], True)
    assert kept(characters()) == ([[15, 16, 3, 11]], False)


def test_many_processes_leave_one_whole_file(tmp_path):
    script = f"""if True:
        import numpy, transformers
        from duo_ext.data import texts
        tokenizer = transformers.AutoTokenizer.from_pretrained("{asset("judge")}")
        make = lambda: numpy.arange(400_000).reshape(-1, 4)
        for turn in range(20):
            found = texts.kept("{tmp_path}", "train", turn, tokenizer, make)
            assert (found == make()).all()
    """
    started = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 20


# files of text -----------------------------------------------------------------------------------


def read(folder, content):
    (folder / "train.txt").write_bytes(content)
    return texts.lines(str(folder), "train")


def test_lines_are_those_that_hold_text(tmp_path):
    assert read(tmp_path, b"a b\n\n \t\n c\n") == ["a b", " c"]
    assert read(tmp_path, b"\xef\xbb\xbfa\r\nb\r\n") == ["a", "b"]  # a BOM, lines of Windows
    assert read(tmp_path, "a\n\u00a0\u2003\u3000\n\x0c\n".encode()) == ["a"]
    assert read(tmp_path, b"a" * 3_000_000) == ["a" * 3_000_000]
    assert read(tmp_path, "na\u00efve".encode()) == ["na\u00efve"]


@pytest.mark.parametrize("content", ["na\u00efve".encode("latin-1"), "we".encode("utf-16")])
def test_another_encoding_is_refused(tmp_path, content):
    with pytest.raises(Refused, match=rf"'{tmp_path}/train.txt' cannot be read; .* in UTF-8"):
        read(tmp_path, content)


def test_nul_characters_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"train.txt' holds NUL characters; it must be .* in UTF-8"):
        read(tmp_path, "we".encode("utf-16-le"))


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(Refused, match=r"train.txt' cannot be read; .*Is a directory"):
        texts.lines(str(tmp_path), "train")
    (tmp_path / "file").write_text("text")
    with pytest.raises(Refused, match=r"file/train.txt' "):
        texts.lines(str(tmp_path / "file"), "train")
    with pytest.raises(Refused, match=r"nope://x/train.txt' cannot be read; .*nope"):
        texts.lines("nope://x", "train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "train.txt").write_text("text")
    (tmp_path / "train.txt").chmod(0)
    with pytest.raises(Refused, match=r"train.txt' cannot be read; .*Permission denied"):
        texts.lines(str(tmp_path), "train")
