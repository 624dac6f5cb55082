"""``generate``, Duo's and SEDD's: what it writes, what it keeps, what it refuses."""

import argparse
import json

import pytest
import torch

import duo_ext.generate
from duo_ext import evaluate, host, load_student
from duo_ext.commands import generating, playback

PROMPT, HOLES = "we the", "a ___ b ___ of"


@pytest.fixture
def run(standalone, teacher, capsys):
    """run(*words, algo) -> the lines of stdout and of stderr."""

    def call(*words, algo="mdlm"):
        duo_ext.generate.main([str(teacher(algo)), "--device", "cpu", *words])
        return capsys.readouterr()

    return call


@pytest.mark.parametrize("algo", ["mdlm", "duo_base"])
@pytest.mark.parametrize("sampler", ["ancestral", "spread", "renoise", "confidence"])
def test_what_is_given_is_kept(run, algo, sampler):
    if algo == "duo_base" and sampler == "confidence":
        pytest.skip("a process without masks has no surest mask")
    words = ("--samples", "3", "--steps", "3", "--sampler", sampler, "--grid", "host", "--json")
    for kind, given in (("prompt", PROMPT), ("infill", HOLES)):
        lines = run(f"--{kind}", given, *words, algo=algo).out.splitlines()
        found = [json.loads(line) for line in lines]
        assert [(row[kind], row["number"]) for row in found] == [(given, n) for n in range(3)]
        assert len({row["text"] for row in found}) == 3 or algo == "duo_base"  # a sharp network
        for row in found:
            if kind == "prompt":
                assert row["text"].startswith(given)
            else:
                assert row["text"].startswith("a ") and row["text"].endswith(" of")
                assert " b " in row["text"][2:-3]


def test_texts_are_those_of_the_student(run, teacher):
    out, err = run("--prompt", PROMPT, "--samples", "2", "--seed", "3", "--batch-size", "1")
    student = load_student(teacher("mdlm"), host=host.STANDALONE, device="cpu")
    assert out == "\n\n".join(student.sample(2, steps=4, seed=3, prompt=PROMPT)) + "\n"
    assert "2 texts of" in err and "network evaluations each" in err


def test_lines_of_a_file(run, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": PROMPT}) + "\n\n" + json.dumps({"infill": HOLES}))
    found = [json.loads(x) for x in run("--prompts", str(path), "--json").out.splitlines()]
    assert [set(row) & {"prompt", "infill"} for row in found] == [{"prompt"}, {"infill"}]


@pytest.mark.parametrize("algo", ["mdlm", "duo_base"])
def test_states_lead_to_the_text(standalone, teacher, algo):
    """The first is the noise around what is given, the last the text."""
    student = load_student(teacher(algo), host=host.STANDALONE, device="cpu")
    told = {"steps": 3, "seed": 2, "prompt": PROMPT}
    tokens_NL = student.sample_tokens(3, **told)
    _, given_L = student.frame.prompt(PROMPT)
    for number, tokens_L in enumerate(tokens_NL):
        states = torch.tensor(playback.states(student, number, told))
        assert torch.equal(states[-1], tokens_L)
        assert (states[:, given_L] == tokens_L[given_L]).all()
        if algo == "mdlm":
            assert (states[0, ~given_L] == student.mask).all()
            kept = states[:-1] != student.mask
            assert (states[1:][kept] == states[:-1][kept]).all()


def test_watch_shows_each_state(run):
    out = run("--watch", "--prompt", PROMPT, "--steps", "2").out
    assert [f"after {n} evaluation" in out for n in range(3)] == [True] * 3
    assert playback.BLANK in out


def test_a_page_plays_the_first_text_that_is_written(run, tmp_path, monkeypatch):
    """Of a model that is trained for the host's own sampler too: each text is drawn alone."""
    columns = []
    monkeypatch.setattr(generating.page, "html", lambda shown: columns.extend(shown) or "")
    words = ("--page", str(tmp_path / "page.html"), "--samples", "2", "--json")
    first, _ = run(*words).out.splitlines()
    [column] = columns
    last = "".join(column["pieces"][token] for token in column["frames"][-1])
    assert last == json.loads(first)["text"]


def test_a_page_has_both_models(run, teacher, tmp_path):
    path = tmp_path / "page.html"
    run("--page", str(path), "--teacher", str(teacher("mdlm")), "--teacher-steps", "6")
    found = path.read_text()
    assert "teacher mdlm: 6 steps" in found and "mdlm: 4 steps" in found


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--prompt", "a" * 500], "error: prompt takes 501 tokens of a text"),
        (["--infill", "abc"], "error: infill is 'abc'; it must have a hole, written ___"),
        (["--prompt", "a", "--sampler", "host"], "error: --sampler is host, which knows no prompt"),
        (["--prompts", "none.jsonl"], "error: --prompts is 'none.jsonl'; it cannot be read"),
        (["--steps", "0"], "error: --steps is 0; at least 1"),
        (["--temperature", "0"], "error: --temperature is 0.0; above 0"),
        (["--teacher", "x"], "error: --teacher is for --page"),
        (["--seed", "4294967296"], "error: --seed is 4294967296; it must be from 0 to"),
        (["sampling.steps=64"], "error: 'sampling.steps=64' has no effect here"),
        (["--sampler", "best"], "error: the sampler is 'best'; it must be one of"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(run, words, sentence):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert str(caught.value).startswith(sentence)


def test_a_file_without_a_prompt_is_one_sentence(run, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n")
    with pytest.raises(SystemExit, match=r"prompts.jsonl'; it has no line with a prompt"):
        run("--prompts", str(path))


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"prompt": 1}', '{"prompt": "a", "infill": "b ___"}']
)
def test_a_line_that_is_no_prompt_is_named(run, tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(SystemExit, match=r"prompts.jsonl'; line 2 "):
        run("--prompts", str(path))


def test_a_text_may_have_any_line_separator_but_the_files(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a\u2028b"}\n', encoding="utf-8")
    assert list(generating.wanted(argparse.Namespace(prompts=str(path)))) == [
        {"prompt": "a\u2028b"}
    ]


def test_a_model_may_have_the_look_of_a_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lr=1" / "best.ckpt"
    path.parent.mkdir()
    path.touch()
    words = ["lr=1/best.ckpt", "--steps", "3", "data=sotu"]
    options = generating.parse(evaluate.SIDE, "duo_ext.generate", words)
    assert (options.model, options.steps) == ("lr=1/best.ckpt", 3)
    assert options.overrides == ["data=sotu"]
