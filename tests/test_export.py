"""duo_ext.export: the weights and settings of a folder, its card, what is refused."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
import yaml

import duo_ext.__main__
from duo_ext import export
from duo_ext.report.results import save
from duo_ext.weights import checkpoints, pretrained


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working directory of a test; errors are sentences."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    return tmp_path


@pytest.fixture
def dit(standalone, tiny):
    """``dit(saved)`` is a DIT of the tiny configuration with these weights."""

    def make(saved, average=True, vocabulary=33):
        made = standalone.module("models").dit.DIT(tiny("algo=mdlm"), vocabulary)
        checkpoints.check(saved, made, "key")
        checkpoints.load(made, saved, average)
        return made.eval()

    return make


def logits(network):
    tokens_BL = torch.arange(32).view(2, 16)
    with torch.no_grad():
        return network(tokens_BL, torch.tensor([0.1, 1.0]))


def run(*arguments):
    export.main([*map(str, arguments), "--output", "out"])


def error_of(*arguments):
    """The sentence with which a command ends; it writes nothing."""
    before = sorted(os.listdir())
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    message = stopped.value.code
    assert isinstance(message, str) and message.startswith("error: ") and "\n" not in message
    assert sorted(os.listdir()) == before
    return message.removeprefix("error: ")


def changed(path, change):
    """A checkpoint, changed in place."""
    checkpoint = checkpoints.read(path, "path")
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


def section(path):
    """The parts of a model card: (front matter, text)."""
    _, head, text = Path(path).read_text().split("---\n", 2)
    return yaml.safe_load(head), text


# ------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("raw", [False, True])
def test_the_weights_come_back(teacher, dit, capsys, raw):
    path = teacher("mdlm")
    run(path, *["--raw"] * raw)
    assert capsys.readouterr().out == "written: out\n"
    exported, own = dit(pretrained.load("out", "key")), dit(pretrained.load(path, "key"), not raw)
    assert checkpoints.fingerprint(exported) == checkpoints.fingerprint(own)
    assert torch.equal(logits(exported), logits(own))
    assert torch.equal(logits(type(own).from_pretrained("out")), logits(own))
    other = dit(pretrained.load(path, "key"), raw)
    assert checkpoints.fingerprint(exported) != checkpoints.fingerprint(other)
    assert section("out/README.md")[0]["weights"] == ("raw" if raw else "EMA")


def test_the_configuration_is_the_models_and_not_the_runs(teacher):
    def as_of_a_run(checkpoint):
        algo = checkpoint["hyper_parameters"]["config"]["algo"]
        algo |= {"teacher_path": "/home/me/a.ckpt", "class_path": "x.Y", "trust_checkpoint": True}

    path = changed(teacher("mdlm"), as_of_a_run)
    saved = checkpoints.denoiser(checkpoints.read(path, "path")).config
    run(path)
    written = json.loads(Path("out/config.json").read_text())
    assert written.keys() == {"config", "vocab_size"} and written["vocab_size"] == 33
    config = written["config"]
    assert config.keys() == {"algo", "model", "data"} and config["data"] == saved["data"]
    for name in ("teacher_path", "class_path", "trust_checkpoint"):
        del saved["algo"][name]
    assert config["algo"] == saved["algo"]
    assert config["model"] == {"scale_by_sigma": True} | saved["model"]
    assert "/home/me" not in Path("out/README.md").read_text()


def test_a_model_without_duos_unused_setting_gets_it(teacher):
    path = changed(
        teacher("mdlm"), lambda c: c["hyper_parameters"]["config"]["model"].pop("scale_by_sigma")
    )
    run(path)
    config = json.loads(Path("out/config.json").read_text())["config"]
    assert config["model"]["scale_by_sigma"] is True  # Duo's DIT does not start without it


def test_shipped_assets_and_folders_are_taken(teacher, dit):
    run("${idlm_asset:teachers/duo.ckpt}")
    Path("out").rename("first")
    assert section("first/README.md")[0]["process"] == "uniform"
    run("first")
    assert section("out/README.md")[0]["weights"] == "as given"
    for name in ("model.safetensors", "config.json"):
        assert Path("first", name).read_bytes() == Path("out", name).read_bytes()


def test_a_checkpoint_without_an_average(teacher, dit):
    path = changed(teacher("mdlm"), lambda checkpoint: checkpoint.pop("ema"))
    run(path)
    own = dit(pretrained.load(path, "key"))
    assert torch.equal(logits(dit(pretrained.load("out", "key"))), logits(own))
    assert section("out/README.md")[0]["weights"] == "as given"


# --------------------------------------------------------------------------------------- the card


def test_what_the_card_says(teacher):
    run(teacher("duo_base"))
    head, text = section("out/README.md")
    parameters = sum(
        value.numel()
        for name, value in pretrained.load("out", "key").weights.items()
        if name != "rotary_emb.inv_freq"
    )
    facts = {"algo": "duo_base", "process": "uniform", "parameters": parameters, "vocabulary": 32}
    facts |= {"length": 16, "weights": "EMA"}
    assert head.items() >= (facts | {"library_name": "idlm"}).items()
    assert {"duo_base", "uniform"} <= set(head["tags"])
    for fact, value in facts.items():
        assert f"| {fact} | {value} |" in text
    assert "python -m duo_ext.evaluate --student FOLDER" in text
    assert 'DIT.from_pretrained("FOLDER")' in text and "Results" not in text


def results(*sha256s, folder="."):
    """A results.json with a row for each checkpoint, told apart by its steps 11, 12, ..."""
    row = {
        "model": "student", "name": "idlm", "algo": "idlm", "evaluations": 5, "seconds": 1.5,
        "predictor": "ancestral", "noise_removal": "greedy", "temperature": 0.8, "nucleus": 0.9,
        "precision": "float32", "samples": 77, "seed": 3,
        "genppl": 20.25, "genppl_low": 19.5, "genppl_high": 21.75,
        "entropy": 2.718, "unigram_kl": 0.0123, "bigram_tv": 0.4,
    }  # fmt: skip
    rows = [
        row | {"steps": 11 + i, "checkpoint_sha256": sha256} for i, sha256 in enumerate(sha256s)
    ]
    del rows[-1]["checkpoint_sha256"]  # rows of older evaluations
    judge = {"name": "gpt2-large", "heldout_ppl": 14.25}
    save({"rows": rows, "judge": judge, "hardware": "a GPU", "command": "python x"}, folder)


def test_the_rows_of_the_checkpoint_are_in_the_card(teacher):
    path = teacher("duo_base")
    own = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    results(own, "0" * 64, own, "older")
    run(path, "--results", "results.json")
    _, text = section("out/README.md")
    table = text.partition("## Results")[2]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| student")]
    assert [row[2] for row in rows] == ["11", "13"]
    for part in (
        "gpt2-large (held-out perplexity 14.25)", "noise removal greedy", "temperature 0.8",
        "nucleus 0.9", "precision float32", "samples 77", "seed 3", "a GPU", "`python x`",
        "| 11 | 5 | 20.25 [19.50, 21.75] | 2.718 | 0.0123 |",
    ):  # fmt: skip
        assert part in table


def test_a_run_is_the_checkpoint_that_it_kept(teacher):
    """As ``evaluate`` takes it."""
    best = Path("run", "checkpoints", "best.ckpt")
    best.parent.mkdir(parents=True)
    best.write_bytes(Path(teacher("mdlm")).read_bytes())
    results(hashlib.sha256(best.read_bytes()).hexdigest(), "older")
    run("run", "--results", "results.json")
    assert "## Results" in Path("out/README.md").read_text()


def test_results_that_say_nothing_of_the_checkpoint(teacher, place):
    path = teacher("mdlm")
    results("0" * 64, "older")
    name = str(place / "results.json")
    message = error_of(path, "--results", name)
    assert message.startswith(f"--results is '{name}'; none of its rows is of CHECKPOINT '{path}'")
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() in message
    results(hashlib.sha256(Path(path).read_bytes()).hexdigest(), "older")
    assert "evaluate samples the EMA" in error_of(path, "--results", name, "--raw")
    assert "runs/results.json does not exist" in error_of(path, "--results", "runs/results.json")
    assert "it must be a results.json" in error_of(path, "--results", "table.md")
    Path(name).write_text("{}")
    assert "has no list of rows" in error_of(path, "--results", name)


# ----------------------------------------------------------------------------------------- errors


def test_checkpoints_that_are_refused(teacher):
    assert "CHECKPOINT is 'none.ckpt'; it cannot be opened: No such file" in error_of("none.ckpt")
    assert "asset: got 'none'" in error_of("${idlm_asset:none}")
    path = teacher("mdlm")

    def lacks(change):
        torch.save(whole, path)
        return error_of(changed(path, change))

    whole = checkpoints.read(path, "path")
    message = lacks(lambda c: c.pop("hyper_parameters"))
    assert message.endswith("it lacks algo, model, data")
    message = lacks(lambda c: c["hyper_parameters"]["config"].pop("data"))
    assert message.endswith("it lacks data")
    message = lacks(lambda c: c["hyper_parameters"]["config"]["algo"].pop("name"))
    assert message.endswith("it lacks algo.name")
    message = lacks(lambda c: c["hyper_parameters"]["config"]["algo"].update(name="ar"))
    assert "checkpoint of algo=ar, which no family here samples" in message
    message = lacks(lambda c: c["hyper_parameters"]["config"]["model"].update(n_blocks=3))
    assert message == (
        "CHECKPOINT: the checkpoint has model.n_blocks 2, this configuration asks for 3"
    )
    message = lacks(lambda c: c["hyper_parameters"]["config"]["model"].pop("length"))
    assert "length" in message
    message = lacks(lambda c: c["state_dict"].pop("backbone.vocab_embed.embedding"))
    assert "holds no DIT" in message
    message = lacks(lambda c: c["ema"]["shadow_params"].pop())
    assert "EMA has other shapes" in message


def test_an_output_that_is_taken(teacher):
    Path("out").mkdir()
    Path("out/mine").write_text("mine")
    message = error_of(teacher("mdlm"))
    assert message == "--output is 'out'; it must be a new or an empty folder"
    assert os.listdir("out") == ["mine"]


def test_for_the_harness_it_takes_duos_main(teacher):
    """tests/upstream has it there."""
    message = error_of(teacher("mdlm"), "--for", "harness")
    assert "--for is harness; --host must be Duo's main" in message and "standalone" in message


def test_adapters_of_a_student_that_has_none(teacher):
    path = teacher("mdlm")
    told = f"CHECKPOINT is '{path}'; it holds no adapters: its student is a full network"
    assert error_of(path, "--adapter") == told
    for other in (["--for", "harness"], ["--results", "results.json"]):
        assert error_of(path, "--adapter", *other).startswith("--adapter goes with neither --resu")
