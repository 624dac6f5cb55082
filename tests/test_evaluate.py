"""duo_ext.evaluate on random checkpoints: the rows, their settings, the files, the errors."""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import shlex
import shutil

import fsspec
import omegaconf
import pytest
import torch
import transformers

import duo_ext.__main__
from duo_ext import evaluate, host
from duo_ext.commands import evaluation, line, streams
from duo_ext.core.samplers import OF_MASKS, SAMPLERS, auto, spread
from duo_ext.data import corpus
from duo_ext.measuring import draws
from duo_ext.measuring.ceiling import Ceiling
from duo_ext.measuring.judge import Judge
from duo_ext.measuring.subject import Setting, Subject
from duo_ext.report.__main__ import main
from duo_ext.report.results import load
from duo_ext.weights import checkpoints, pretrained

SETTINGS = {
    "model", "name", "algo", "host", "steps", "evaluations", "predictor", "noise_removal",
    "sampler", "temperature", "nucleus", "precision", "samples", "seed", "seconds",
    "tokens_per_second", "checkpoint", "checkpoint_sha256", "times",
}  # fmt: skip
METRICS = {"genppl", "genppl_low", "genppl_high", "entropy", "unigram_kl", "bigram_tv"}
SMALL = ("--samples", "6", "--batch-size", "4", "--judge", "judge", "--output", "out")


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    """A random GPT-2 of one layer with the tokenizer sotu32."""
    folder = tmp_path_factory.mktemp("judges") / "judge"
    shutil.copytree(corpus.asset("tokenizers/sotu32"), folder)
    torch.manual_seed(0)
    size = {"vocab_size": 32, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 1}
    config = transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, judge_folder, text_folder, monkeypatch):
    """The working directory: a judge, a text, and room for checkpoints and output."""
    (tmp_path / "judge").symlink_to(judge_folder)
    shutil.copytree(text_folder, tmp_path / "text", ignore=shutil.ignore_patterns("tokens"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    return tmp_path


@pytest.fixture
def checkpoint(place, teacher):
    """``checkpoint("mdlm", ...)``: the name of a random checkpoint in the working directory.

    Its raw weights sample one token over and over; those of its average do not.
    """

    def make(name, *overrides, **options):
        local = ("data.train=text", "data.cache_dir=text/tokens")
        path = teacher(name, *local, *overrides, **options)
        saved = checkpoints.read(path, "path")
        saved["ema"]["shadow_params"] = [0.5 * p for p in saved["ema"]["shadow_params"]]
        torch.save(saved, path)
        return str(place.joinpath(path).name)

    return make


def changed(name, change):
    """Change a checkpoint in its place."""
    saved = checkpoints.read(name, "name")
    change(saved)
    torch.save(saved, name)


def run(*arguments):
    """results.json of an evaluation."""
    evaluate.main([*SMALL, *map(str, arguments)])
    with open("out/results.json") as file:
        return json.load(file, parse_constant=pytest.fail)


def timeless(results):
    times = {"seconds", "tokens_per_second"}
    return [{k: v for k, v in row.items() if k not in times} for row in results["rows"]]


# ------------------------------------------------------------------------------------ results


def test_results_have_every_key_and_a_row_for_every_combination(checkpoint, place):
    teacher, student = checkpoint("mdlm"), checkpoint("duo_base")
    given = ["--teacher", teacher, "--student", student, "--steps", "2", "4"]
    given += ["--noise-removal", "ancestral", "greedy", "none"]
    given += ["--temperature", "0.5", "1", "--nucleus", "0.9", "1", "--seed", "7"]
    results = run(*given)
    assert results.keys() == {"rows", "judge", "data", "commit", "hardware", "command"}
    assert shlex.split(results["command"]) == ["python", "-m", "duo_ext.evaluate", *SMALL, *given]
    assert results["judge"]["name"] == "judge" and 1 < results["judge"]["heldout_ppl"] < 100
    assert results["data"] == {"blocks": 32, "length": 16, "train": "text"}
    assert results["commit"] and "torch" in results["hardware"]
    rows = results["rows"]
    models = [("teacher", "mdlm", teacher), ("student", "duo_base", student)]
    ways = (2, 4), ("ancestral", "greedy", "none"), (0.5, 1.0), (0.9, 1.0)
    keys = ("steps", "noise_removal", "temperature", "nucleus")
    assert [(row["model"], *(row[key] for key in keys)) for row in rows] == [
        (model, *way) for (model, *_), way in itertools.product(models, itertools.product(*ways))
    ]
    for row in rows:
        _, algo, name = models[row["model"] == "student"]
        assert row.keys() >= SETTINGS | METRICS | {"mauve"}
        assert (row["algo"], row["host"], row["samples"], row["seed"]) == (algo, "standalone", 6, 7)
        assert row["precision"] == "float64"
        assert row["checkpoint"] == f"../{name}"
        content = (place / name).read_bytes()
        assert row["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()
        assert all(math.isfinite(row[key]) for key in METRICS) and row["seconds"] > 0
        assert row["genppl_low"] <= row["genppl"] <= row["genppl_high"]
        removal = row["noise_removal"] != "none"
        if algo == "duo_base":
            assert row["evaluations"] == row["steps"] + removal
        else:  # without time conditioning an evaluation serves until a token changes
            assert 1 <= row["evaluations"] <= row["steps"] + removal
    assert str(place) not in (place / "out" / "results.json").read_text()


def test_the_judges_own_samples_are_the_ceiling(checkpoint, place):
    """One row a temperature, as many evaluations as it draws tokens; a seed gives them again."""
    given = ["--student", checkpoint("duo_base"), "--steps", 1, 2, "--temperature", 1, 0.5]
    results = run(*given, "--ceiling")
    *_, plain, cold = results["rows"]
    assert [row["model"] for row in results["rows"]] == ["student"] * 4 + ["judge"] * 2
    assert (plain["name"], plain["algo"]) == ("judge", "ar")
    assert plain["steps"] == 16 and plain["evaluations"] == 15
    assert plain["checkpoint"] == "../judge"
    assert cold["temperature"] == 0.5 and cold["genppl"] < plain["genppl"]
    assert timeless(run(*given, "--ceiling")) == timeless(results)
    assert "| judge | judge |" in (place / "out" / "table.md").read_text()


def test_a_ceiling_needs_the_models_vocabulary(checkpoint, place):
    name = checkpoint("duo_base")
    folder = place / "other"
    shutil.copytree((place / "judge").resolve(), folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"e"', '"é"'))
    with pytest.raises(SystemExit, match="--ceiling: the judge other has not the vocabulary of"):
        run("--student", name, "--steps", 1, "--judge", "other", "--ceiling")


@pytest.fixture
def ceiling(place):
    """``ceiling(bos_token_id=None)`` is that of the judge with another configuration, for a model
    whose tokenizer has a PAD besides."""

    def make(**config):
        judge = Judge(str(place / "judge"), "cpu")
        for key, value in config.items():
            setattr(judge.model.config, key, value)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place / "judge")
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        like = Subject("student", "it", "mdlm", "", tokenizer, 33, 12, {})
        return Ceiling.of(judge, "judge", like)

    return make


def test_a_ceiling_takes_no_padding_and_no_token_that_is_none(ceiling):
    """Duo's own PAD is no difference; a model may have more outputs than its tokenizer tokens."""
    found = ceiling()
    found.judge.model.resize_token_embeddings(64)
    with found.sampler(Setting(12, temperature=50.0), "float64") as (draw, _):
        tokens_NL = draw(64)
    assert tokens_NL.shape == (64, 12) and 25 < tokens_NL.max() < 32


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id"])
def test_a_judge_without_bos_or_eos_has_no_ceiling(ceiling, name):
    with pytest.raises(ValueError, match=rf"--ceiling: the judge judge has .*{name} None"):
        ceiling(**{name: None})


def test_a_judge_without_a_cache_has_no_ceiling(ceiling, monkeypatch):
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "forward", lambda *a, **k: object())
    monkeypatch.setattr(Judge, "_try_lengths", lambda self: (16, 1))
    monkeypatch.setattr(Judge, "_require_causal", lambda self: None)
    with pytest.raises(ValueError, match="cannot be sampled token by token with a cache"):
        ceiling()


def test_the_files_are_written_and_can_be_rendered_again(checkpoint, place, capsys):
    names = checkpoint("duo_base"), checkpoint("duo_base", seed=4)
    run("--student", *names, "--steps", 1, 2)
    out, printed = place / "out", capsys.readouterr().out
    files = {path.name for path in out.iterdir()}
    assert files == {"results.json", "table.md", "figure.png", "samples.md"}
    assert all(f"out/{name}" in printed for name in files)
    table = (out / "table.md").read_text()
    assert table in printed and "Judge judge" in table
    samples = (out / "samples.md").read_text()
    for name, steps in itertools.product(names, (1, 2)):
        assert f"## student duo_base {name} (../{name}), {steps} steps\n" in samples
    assert samples.count("Sample 3\n") == 4 and "Sample 4" not in samples
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    for name in ("table.md", "figure.png"):
        (out / name).unlink()
    assert main([str(out)]) == 0
    assert (out / "table.md").read_text() == table and (out / "figure.png").exists()


def test_the_seed_decides_every_row(checkpoint):
    given = ("--student", checkpoint("duo_base"), checkpoint("mdlm"), "--steps", 2)
    first, again, other = (timeless(run(*given, "--seed", seed)) for seed in (1, 1, 2))
    assert first == again
    assert all(a["genppl"] != b["genppl"] for a, b in zip(first, other, strict=True))


def test_a_row_does_not_depend_on_the_models_beside_it(checkpoint):
    """Each model is compared with the held-out text at its own length and vocabulary."""
    short, long = checkpoint("duo_base"), checkpoint("duo_base", "model.length=30", seed=4)
    named = ("--steps", 1, "--names")
    apart, together = [], timeless(run("--student", short, long, *named, "a", "b"))
    for name, called in ((short, "a"), (long, "b")):
        apart += timeless(run("--student", name, *named, called))
    assert together == apart


def test_a_lower_temperature_and_a_smaller_nucleus_lower_the_entropy(checkpoint):
    given = ("--student", checkpoint("duo_base"), checkpoint("mdlm"), "--steps", 4)
    for option in ("--temperature", "--nucleus"):
        entropies = [row["entropy"] for row in run(*given, option, 0.1, 1)["rows"]]
        for low, high in (entropies[:2], entropies[2:]):
            assert low < high - 0.2


def test_both_samplers_are_rows_of_one_table(checkpoint, place):
    teacher, student = checkpoint("mdlm"), checkpoint("duo_base")
    given = ("--teacher", teacher, "--student", student, "--steps", 40)
    given += ("--batch-size", 6, "--sampler")
    both, alone = run(*given, "host", "ancestral")["rows"], timeless(run(*given, "ancestral"))
    assert [row["sampler"] for row in both] == ["host", "ancestral"] * 2
    assert timeless({"rows": both[1::2]}) == alone
    host_masked, masked, host_uniform, uniform = (row["evaluations"] for row in both)
    assert 1 < masked <= host_masked < 41 and host_uniform == uniform == 41
    for row in both:
        assert row["tokens_per_second"] == pytest.approx(6 * 16 / row["seconds"])


def ways(results, *keys):
    return [tuple(row[key] for key in keys) for row in results["rows"]]


def test_a_student_is_sampled_as_it_was_trained_for(checkpoint, place):
    """And a teacher by the host's sampler and by that; unless the command names one."""
    teacher, plain = checkpoint("mdlm"), checkpoint("duo_base")
    student = checkpoint("mdlm", seed=4)
    own = {"name": "idlm_mdlm", "sampler": "spread", "grid": "power:2"}
    changed(student, lambda saved: saved["hyper_parameters"]["config"]["algo"].update(own))
    given = ("--teacher", teacher, "--student", student, plain, "--steps", 2)
    keys = "name", "sampler", "grid", "evaluations", "times"
    own = ("spread", "power:2", 3, [1.0, pytest.approx(4 / 9), pytest.approx(1 / 9)])
    hosts = ("host", "host", 3, None)
    found = ways(run(*given), *keys)
    assert found == [
        ("mdlm", *hosts),
        ("mdlm", *own),
        ("idlm_mdlm", *own),
        ("duo_base", *hosts),
    ]
    told = ways(run(*given, "--sampler", "host", "ancestral", "--grid", "linear"), *keys[:3])
    assert told == [
        (name, *way)
        for name in ("mdlm", "idlm_mdlm", "duo_base")
        for way in (("host", "host"), ("ancestral", "linear"))
    ]
    samplers = "--sampler", "host", "ancestral", "spread"
    named = ways(run("--student", student, "--steps", 2, *samplers), "sampler", "grid")
    assert named == [("host", "host"), ("ancestral", "host"), ("spread", "linear")]
    other_grid = ways(run(*given[2:], "--grid", "linear"), *keys[:3])
    assert other_grid == [("idlm_mdlm", "spread", "linear"), ("duo_base", "host", "host")]


def test_a_sampler_of_masks_is_refused_before_anything_is_drawn(
    checkpoint, place, capfd, monkeypatch
):
    """And a teacher without masks is not drawn by it for a student's sake."""
    student, plain = checkpoint("mdlm"), checkpoint("duo_base")
    own = {"name": "idlm_mdlm", "sampler": "comb", "grid": "linear"}
    changed(student, lambda saved: saved["hyper_parameters"]["config"]["algo"].update(own))
    given = ("--teacher", plain, "--student", student, "--steps", 1)
    assert ways(run(*given), "name", "sampler") == [("duo_base", "host"), ("idlm_mdlm", "comb")]
    monkeypatch.setattr(streams, "sample", pytest.fail)
    message = error_of(capfd, *SMALL, "--student", student, plain, "--sampler", "confidence")
    assert "the sampler is 'confidence', which needs a process that has masks" in message


def test_a_grid_that_no_row_has_is_refused(checkpoint, place, capfd):
    message = error_of(capfd, *SMALL, "--student", checkpoint("duo_base"), "--grid", "linear")
    assert "--grid is linear; every model here is drawn by its host's sampler" in message
    shutil.rmtree(place / "out", ignore_errors=True)
    name = next(path.name for path in place.glob("*.ckpt"))
    assert run("--student", name, "--steps", 1, "--sampler", "host", "--grid", "host")["rows"]


def test_the_judge_is_asked_once_whether_it_reads_the_text(checkpoint, place, monkeypatch):
    asked = []
    monkeypatch.setattr(Judge, "warn_of_unread", lambda self, given: asked.append(given))
    run("--student", checkpoint("duo_base"), checkpoint("mdlm"), "--steps", 1)
    assert [len(given) for given in asked] == [6, 6]  # each model's own text


def test_times_that_are_found_stand_beside_the_checkpoint(checkpoint, place, monkeypatch):
    name = checkpoint("duo_base")
    given = ("--student", name, "--sampler", "spread", "--grid", "auto", "--steps", 1, 3)
    first = run(*given)
    kept = json.loads((place / f"{name}.times.json").read_text())
    assert kept["checkpoint_sha256"] == first["rows"][0]["checkpoint_sha256"]
    assert list(kept["times"]) == ["spread ancestral 1", "spread ancestral 3"]
    assert ways(first, "grid", "times") == [("auto", times) for times in kept["times"].values()]
    for times in kept["times"].values():
        assert times[0] == 1 and sorted(times, reverse=True) == times and times[-1] > 0
    sought, costs = [], auto.costs

    def watched(*given):
        sought.append(given[-1])
        return costs(*given)

    monkeypatch.setattr(auto, "costs", watched)
    assert ways(run(*given), "times", "genppl") == ways(first, "times", "genppl")
    assert not sought
    changed(name, lambda saved: saved["ema"]["shadow_params"][0].add_(1.0))
    run(*given)  # of other weights
    assert sought == [spread.changes]  # once for both numbers of steps
    for damaged in ('{"checkpoint_sha256": "x"', "{}", "[]"):
        (place / f"{name}.times.json").write_text(damaged)
        assert run(*given)["rows"]
    assert len(sought) == 4


def test_several_processes_write_what_one_writes(checkpoint, place, in_processes):
    """The same texts and numbers; the host's sampler draws a row in one stream, the core's each
    text by numbers of its own."""
    given = ("--teacher", checkpoint("mdlm"), "--student", checkpoint("duo_base"), "--steps", 1, 3)
    given += ("--sampler", "host", "ancestral")
    alone, texts = timeless(run(*given)), (place / "out" / "samples.md").read_text()
    shutil.rmtree(place / "out")
    in_processes(3, lambda: evaluate.main([*SMALL, *map(str, given)]))
    assert timeless(json.loads((place / "out" / "results.json").read_text())) == alone
    assert (place / "out" / "samples.md").read_text() == texts


@pytest.mark.parametrize("algo", ["duo_base", "mdlm"])
@pytest.mark.parametrize("sampler", [*SAMPLERS])
def test_a_text_is_the_same_in_batches_of_any_size(checkpoint, options, sampler, algo):
    if algo == "duo_base" and sampler in OF_MASKS:
        return
    setting, found = Setting(2, sampler), []
    for samples, size in ((4, 4), (10, 4), (10, 3), (10, 10)):
        given = options("--samples", str(samples), "--batch-size", str(size))
        subject = evaluate.load("student", checkpoint(algo), given)
        found += [streams.sample([(subject, setting)], given)[0][0]]
    few, *others = found
    assert all(torch.equal(tokens, others[0]) for tokens in others)
    assert torch.equal(few, others[0][:4])
    assert len(others[0].unique(dim=0)) == 10


def test_by_default_as_many_texts_are_drawn_at_a_time_as_fit(checkpoint, options):
    """64 of a small model, as ever: the tokens depend on it."""
    given = options()
    subject, setting = (
        evaluate.load("student", checkpoint("duo_base"), given),
        Setting(2),
    )
    assert streams.batch_size(subject, setting, given) == 4  # as it is told
    given.batch_size = None
    assert streams.batch_size(subject, setting, given) == 64
    large = dataclasses.replace(subject, length=1024, vocab_size=50258)
    assert streams.batch_size(large, setting, given) == 6
    rows = dataclasses.replace(setting, sampler="ancestral")
    assert streams.batch_size(large, rows, given) == 64


def test_a_noise_that_ours_does_not_know(checkpoint, options):
    name, rows = checkpoint("mdlm"), options("--sampler", "ancestral")
    subject = evaluate.load("student", name, rows)
    assert draws.is_log_linear(subject.model.noise, subject.process)
    subject.model.noise.eps = 0.1
    assert not draws.is_log_linear(subject.model.noise, subject.process)


def test_an_output_folder_may_lie_elsewhere(checkpoint):
    name, folder = checkpoint("duo_base"), "memory://evaluate/out"
    evaluate.main([*SMALL[:-1], folder, "--student", name, "--steps", "1"])
    assert load(folder)["rows"][0]["checkpoint"] == name
    files = fsspec.filesystem("memory").ls(folder, detail=False)
    assert {path.rpartition("/")[2] for path in files} == {
        "results.json", "table.md", "figure.png", "samples.md"
    }  # fmt: skip


# ----------------------------------------------------------------------------------- sampling


@pytest.fixture
def options():
    """Options as the command line gives them: ``options("--seed", "3")``."""
    given = ["--student", "unused", *SMALL]
    return lambda *more: evaluation.parse(evaluate.SIDE, [*given, *more])


@pytest.mark.parametrize("algo", ["mdlm", "duo_base"])
def test_a_model_is_loaded_with_its_average_in_the_precision_asked_for(checkpoint, options, algo):
    name = checkpoint(algo)
    saved = checkpoints.read(name, "name")
    for precision in ("float64", "float32"):
        subject = evaluate.load("student", name, options("--precision", precision))
        assert subject.model.config.sampling.use_float64 == (precision == "float64")
        shadow, parameters = saved["ema"]["shadow_params"], subject.model.backbone.parameters()
        assert all(map(torch.equal, parameters, shadow))
        assert not subject.model.training and not subject.model.backbone.training


@pytest.mark.parametrize("algo", ["mdlm", "duo_base"])
def test_temperature_one_and_nucleus_one_are_the_plain_sampler(checkpoint, options, algo):
    given = options("--seed", "3", "--samples", "5", "--batch-size", "3")
    subject = evaluate.load("student", checkpoint(algo), given)
    model = subject.model
    torch.set_rng_state(subject.constructed[1])
    plain = torch.cat([model.generate_samples(size, num_steps=4) for size in (3, 2)])
    tokens, evaluations, seconds = streams.sample([(subject, Setting(4))], given)[0]
    assert torch.equal(tokens, plain) and 1 <= evaluations <= 5 and seconds > 0
    for temperature, nucleus in ((0.5, 1.0), (1.0, 0.5)):
        setting = Setting(4, temperature=temperature, nucleus=nucleus)
        assert not torch.equal(streams.sample([(subject, setting)], given)[0][0], plain)
    assert not model.backbone._forward_hooks


@pytest.mark.parametrize(
    ("algo", "predictor"), [("mdlm", "ancestral_cache"), ("duo_base", "ancestral")]
)
def test_the_samples_are_those_of_the_hosts_own_command(
    checkpoint, options, tiny, standalone, place, algo, predictor
):
    """Token by token, whatever was sampled before them."""
    name = checkpoint(algo)
    config = tiny(
        f"algo={algo}",
        f"sampling.predictor={predictor}",
        "mode=sample_eval",
        f"eval.checkpoint_path={name}",
        f"eval.gen_ppl_eval_model_name_or_path={place}/judge",
        "loader.eval_batch_size=3",
        "sampling.num_sample_batches=2",
        "sampling.steps=4",
        "seed=5",
    )
    texts = standalone.run(config)["generated_seqs"]
    given = options("--seed", "5", "--samples", "6", "--batch-size", "3")
    subject = evaluate.load("student", name, given)
    for steps in (2, 4):
        setting = Setting(steps)
        tokens, *_ = streams.sample([(subject, setting)], given)[0]
    assert subject.model.tokenizer.batch_decode(tokens) == texts


def test_float32_is_refused_where_a_host_refuses_it(checkpoint, options, monkeypatch):
    monkeypatch.setattr(host.Host, "samples_masked_in_float64", True)
    float32 = options("--precision", "float32")
    evaluate.load("student", checkpoint("duo_base"), float32)
    for given in (("mdlm",), TIMED):
        with pytest.raises(ValueError, match="--precision is 'float32'; Duo's main samples masked"):
            evaluate.load("student", checkpoint(*given), float32)


TIMED = ("mdlm", "algo.time_conditioning=true", "sampling.predictor=ancestral")


@pytest.mark.parametrize("given", [("mdlm",), TIMED, ("duo_base",)])
def test_float64_is_float64_where_a_host_would_take_float32(
    checkpoint, options, monkeypatch, given
):
    """Masked tokens are drawn in the precision of the logits there."""
    algo = given[0]
    subject = evaluate.load("student", checkpoint(*given), options())
    model, count = subject.model, 0
    inputs = torch.zeros(2, 16, dtype=torch.long), torch.zeros(2)
    plain = model.backbone(*inputs)
    for in_float32, precision in itertools.product((True, False), ("float64", "float32")):
        monkeypatch.setattr(host.Host, "samples_masked_in_float32", in_float32)
        for temperature in (1.0, 0.5):
            setting = Setting(1, temperature=temperature)
            with subject.sampler(setting, precision) as (_, calls):
                logits = model.backbone(*inputs)
            count += len(calls)
            widened = in_float32 and precision == "float64" and algo == "mdlm"
            assert logits.dtype == (torch.float64 if widened else torch.float32)
            torch.testing.assert_close(logits.float() * temperature, plain)
    assert count == 8


GRAMMAR = {
    "--student a.ckpt algo=mdlm data=x": ("a.ckpt", "", "algo=mdlm data=x"),
    "algo=mdlm --student a.ckpt --steps 2 +data.x=1 4 ~algo.T": (
        "a.ckpt", "--steps 2 4", "algo=mdlm +data.x=1 ~algo.T"
    ),
    "--student epoch=0-step=3.ckpt algo=mdlm": ("epoch=0-step=3.ckpt", "", "algo=mdlm"),
    "--student lr=1 lr=2 noise/x=y": ("lr=1", "", "lr=2 noise/x=y"),
    "--student a.ckpt b=1.safetensors here=1 gone=1": (
        "a.ckpt b=1.safetensors here=1", "", "gone=1"
    ),
    "--student a.ckpt --names seed=1": ("a.ckpt", "--names seed=1", ""),
    "--student a b --names seed=1 seed=2 --seed 3 algo.T=4": (
        "a b", "--names seed=1 seed=2 --seed 3", "algo.T=4"
    ),
    "--student a.ckpt --judge=x=1 algo=mdlm": ("a.ckpt", "--judge x=1", "algo=mdlm"),
    "--student a.ckpt --host h=1 --trust-checkpoint algo=mdlm": (
        "a.ckpt", "--host h=1 --trust-checkpoint", "algo=mdlm"
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", GRAMMAR)
def test_what_looks_like_a_setting_is_one_unless_it_is_an_options_value(place, line):
    (place / "here=1").touch()
    checkpoints_, others, overrides = GRAMMAR[line]
    plain = ["--student", *checkpoints_.split(), *others.split(), "--output", "lr=1"]
    wanted = vars(evaluation.parse(evaluate.SIDE, plain))
    found = vars(evaluation.parse(evaluate.SIDE, [*line.split(), "--output", "lr=1"]))
    for options in (wanted, found):
        del options["command"]
    assert wanted["output"] == "lr=1" and wanted["student"] == checkpoints_.split()
    assert found == wanted | {"overrides": overrides.split()}


def test_an_option_is_not_shortened(place, capsys):
    with pytest.raises(SystemExit):
        evaluation.parse(evaluate.SIDE, ["--student", "a.ckpt", "--out", "x"])
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a b", "it\\'s", "x: 1"])
def test_a_setting_that_wins_is_read_as_hydra_reads_it(text):
    config = omegaconf.OmegaConf.create({"data": {"train": "old", "sizes": {"b": 2}}, "x": 1})
    line.override(config, [f"data.train='{text}'", "data.sizes={a:1}", "~data.gone", "x=2"])
    said = text.replace("\\'", "'")
    assert config == {"data": {"train": said, "sizes": {"a": 1, "b": 2}}, "x": 1}


SILENT = ("data=text", "data.train=text", "data.cache_dir=text/tokens", "model=sotu")
SILENT += ("data.tokenizer_name_or_path=${idlm_asset:tokenizers/sotu32}", "model.hidden_size=32")
SILENT += ("model.cond_dim=16", "model.n_blocks=2", "model.n_heads=2", "model.length=16")


def test_settings_stand_in_for_a_checkpoint_that_carries_none(checkpoint):
    name = checkpoint("duo_base")
    given = ("--student", name, "--steps", 2, "--seed", 1)
    told = timeless(run(*given))
    changed(name, lambda saved: saved.pop("hyper_parameters"))
    silent = timeless(run(*given, "algo=duo_base", *SILENT))
    for row in (*told, *silent):
        del row["checkpoint_sha256"]
    assert silent == told


def test_settings_win_over_a_checkpoint_that_carries_some(checkpoint, options):
    name = checkpoint("mdlm")
    plain = evaluate.load("student", name, options()).model.config
    given = options("model.dropout=0.3", "algo.T=7")
    config = evaluate.load("student", name, given).model.config
    assert (plain.model.dropout, plain.algo.T) == (0.0, 0)
    assert (config.model.dropout, config.algo.T) == (0.3, 7)
    assert config.algo.name == "mdlm" and config.model.hidden_size == 32
    with pytest.raises(ValueError, match=r"--student: .* model.hidden_size 32, .* asks for 64"):
        evaluate.load("student", name, options("model.hidden_size=64"))


def test_a_folder_is_sampled_as_the_checkpoint_that_it_was_made_of(checkpoint, options):
    name = checkpoint("duo_base")
    saved = checkpoints.denoiser(checkpoints.read(name, "name"))
    subject = evaluate.load("student", name, options())
    weights = subject.model.backbone.state_dict()
    pretrained.write_folder("folder", weights, {"config": saved.config}, "card")
    setting = Setting(2)
    other = evaluate.load("student", "folder", options())
    assert other.algo == subject.algo
    assert other.sha256 == checkpoints.fingerprint(subject.model.backbone) != subject.sha256
    samples = [streams.sample([(s, setting)], options())[0][0] for s in (subject, other)]
    assert torch.equal(*samples)


# ------------------------------------------------------------------------------------- errors


def error_of(capfd, *arguments):
    """The one line that an evaluation ends with."""
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(list(map(str, arguments)))
    message = stopped.value.code
    assert isinstance(message, str) and "\n" not in message and message.startswith("error: ")
    assert "Traceback" not in "".join(capfd.readouterr())
    return message


WRONG = {
    "--sampler ancestral --precision float32": "--precision is 'float32'; --sampler ancestral",
    "--sampler host --grid linear": "--grid is linear; --sampler host has a grid of its own: host",
    "--sampler fast": "the sampler is 'fast'; it must be one of ancestral, spread, comb, conf",
    "--sampler spread:2": "the sampler is 'spread:2'; it must be one of ancestral, spread, comb",
    "--sampler margin:hot": "the sampler is 'margin:hot'; its temperature must be a number",
    "--sampler comb --grid auto": "--grid is 'auto'; --sampler comb takes equal steps",
    "--sampler spread --grid auto --steps 48": "--steps is 48; --grid auto has at most 47",
    "--sampler spread --grid cosine": "the grid is 'cosine'; it must be host, linear, power:NUMBER",
    "--steps 0": "--steps is 0; at least 1",
    "--samples 0": "--samples is 0; at least 1",
    "--batch-size -1": "--batch-size is -1; at least 1",
    "--seed -1": "--seed is -1; it must be from 0 to 4294967295",
    "--seed 4294967296": "--seed is 4294967296; it must be from 0 to",
    "--steps 1 seed=7": "'seed=7' has no effect here",
    "--steps 1 sampling.p_nucleus=.9": "'sampling.p_nucleus=.9' has no effect here",
    "--temperature 0": "--temperature is 0.0; above 0",
    "--temperature nan": "--temperature is nan; above 0",
    "--nucleus 1.5": "--nucleus is 1.5; above 0, at most 1",
    "--device nowhere": "--device is 'nowhere'; torch cannot use it here",
    "--student none.ckpt": "--student is 'none.ckpt'; it cannot be opened: No such file",
    "--teacher ${idlm_asset:none}": "want a file or folder under duo_ext/assets",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_option_that_cannot_work(place, capfd, wrong):
    message = error_of(capfd, *SMALL, "--student", "unused.ckpt", *wrong.split(" "))
    assert WRONG[wrong] in message
    assert not (place / "out").exists()


def test_no_checkpoint_at_all(place, capfd):
    assert "nothing to evaluate: give --teacher or --student" in error_of(capfd, *SMALL)


def test_a_judge_that_does_not_exist(checkpoint, place, capfd):
    name, missing = checkpoint("duo_base"), place / "nobody"
    message = error_of(capfd, *SMALL, "--student", name, "--judge", missing)
    assert f"error: --judge is '{missing}'; it must be" in message and "config.json" in message
    assert not (place / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_told_before_the_sampling(
    checkpoint, place, capfd, monkeypatch
):
    monkeypatch.setattr(streams, "sample", pytest.fail)
    name = checkpoint("duo_base")
    for folder in ("text/train.txt", "text/train.txt/out"):
        before = (place / "text" / "train.txt").read_text()
        message = error_of(capfd, *SMALL, "--student", name, "--output", folder)
        assert f"--output is '{folder}'; it must be a folder that can be written" in message
        assert (place / "text" / "train.txt").read_text() == before


def test_a_checkpoint_that_no_sampler_here_is_for(checkpoint, place, capfd):
    name = checkpoint("ar")
    assert f"'{name}' is a checkpoint of algo=ar" in error_of(capfd, *SMALL, "--teacher", name)


def test_a_checkpoint_without_its_configuration(checkpoint, place, capfd):
    name = checkpoint("duo_base")
    changed(name, lambda saved: saved.pop("hyper_parameters"))
    message = error_of(capfd, *SMALL, "--student", name)
    assert "carries no configuration to sample it with; give Duo's settings: algo=mdlm" in message


class Foreign:
    """Made from a file it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("proof",)


def test_a_checkpoint_of_other_types_is_refused_unless_it_is_trusted(checkpoint, place, capfd):
    name = checkpoint("duo_base")
    changed(name, lambda saved: saved.update(callback=Foreign()))
    message = error_of(capfd, *SMALL, "--student", name)
    assert f"--student is '{name}'; it holds " in message and "--trust-checkpoint" in message
    assert not (place / "proof").exists() and not (place / "out").exists()
    run("--student", name, "--steps", 1, "--trust-checkpoint")
    assert (place / "proof").exists()


def test_the_configuration_of_a_checkpoint_runs_no_code(checkpoint, place):
    """Duo's main.py lets a configuration call Python's eval."""
    name = checkpoint("duo_base")
    call = "${eval:\"[__import__('os').mkdir('proof'), 0.0][1]\"}"
    changed(name, lambda saved: saved["hyper_parameters"]["config"]["model"].update(dropout=call))
    omegaconf.OmegaConf.register_new_resolver("eval", lambda code: eval(code), replace=True)
    try:
        run("--student", name, "--steps", 1)
    finally:
        omegaconf.OmegaConf.clear_resolver("eval")
    assert not (place / "proof").exists()


def test_a_text_that_is_gone_is_told_before_the_sampling(checkpoint, place, capfd, monkeypatch):
    monkeypatch.setattr(streams, "sample", pytest.fail)
    first = checkpoint("duo_base")
    second = checkpoint("duo_base", "data.train=elsewhere", seed=4)
    message = error_of(capfd, *SMALL, "--student", first, second)
    assert "'elsewhere/validation.txt' is missing" in message
