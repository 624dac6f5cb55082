"""python -m duo_ext: an error is one sentence, and a run that was stopped can be taken up again."""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest
import torch

import duo_ext.__main__
from duo_ext import Refused, evaluate, host, ranks
from duo_ext.commands import evaluation, streams
from duo_ext.commands.line import one_sentence
from duo_ext.core.uniform import UniformProcess
from duo_ext.hosting import duo, remedies
from duo_ext.measuring.subject import Setting
from duo_ext.weights import checkpoints


@pytest.fixture
def command(arguments, monkeypatch, capfd):
    """``command("algo=mdlm", ...)`` calls it in this process; the message it ends with, or None."""
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")

    def call(*overrides):
        monkeypatch.setattr(sys, "argv", ["duo_ext", *arguments(*quiet, *overrides)])
        place, handler = os.getcwd(), signal.getsignal(signal.SIGINT)
        try:
            duo_ext.__main__.main()
        except SystemExit as stop:
            return stop.code
        finally:
            signal.signal(signal.SIGINT, handler)
            assert os.getcwd() == place
            assert "Traceback" not in "".join(capfd.readouterr())

    return call


def is_one_sentence(message, *parts):
    """One line that is an error and holds the parts, a key first."""
    assert isinstance(message, str) and "\n" not in message and message.startswith("error: ")
    for part in parts:
        assert part in message
    return True


def leftovers(folder):
    """What a run that has failed must not leave behind."""
    return [path for path in folder.rglob("*") if re.search(r"ckpt|npy|tmp", path.name)]


DISTIL = ("algo=idlm", "algo.teacher_path=unused.ckpt")
SETTINGS = {
    "algo=nope": ["'algo/nope'", "duo_base", "idlm_mdlm"],
    "mode=nope": ["mode is 'nope'", "train, sample_eval, ppl_eval"],
    "optim.rate=1": ["optim.rate", "rate"],
    "sampling.steps=0": ["sampling.steps is 0", "positive"],
    "sampling.predictor=nope": ["sampling.predictor is 'nope'", "ancestral"],
    "optim.lr=-1": ["optim.lr is -1", "positive"],
    "optim.lr=fast": ["optim.lr is fast", "positive"],
    "trainer.max_steps=0": ["trainer.max_steps is 0", "positive"],
    "training.ema=2": ["training.ema is 2", "between 0 and 1"],
    "algo.process=nope": ["algo.process is 'nope'", "absorbing, uniform"],
    "algo.noising=nope": ["algo.noising is 'nope'", "categorical, gaussian"],
    "algo.teacher_ema=no": ["algo.teacher_ema is no", "true or false"],
    "algo.trust_checkpoint=no": ["algo.trust_checkpoint is no", "true or false"],
    "sampling.use_float64=no": ["sampling.use_float64 is no", "true or false"],
    "sampling.num_sample_batches=0": ["sampling.num_sample_batches is 0", "at least 1"],
    "trainer.accelerator=gpu": ["trainer.accelerator is 'gpu'", "cpu, cuda"],
    "data.cache_dir=s3://kept": ["data.cache_dir is s3://kept", "a local folder"],
    "data.train=5": ["data", "'5/train.txt' is missing"],
    "data.train=5.5": ["data.train is 5.5", "a text, as \"data.train='...'\""],
    "algo.teacher_path=5": ["algo.teacher_path is '5'", "No such file"],
    "algo.posterior=maybe": ["algo.posterior is 'maybe'", "True, False"],
    "algo.fake_ratio=0": ["algo.fake_ratio is 0", "at least 1"],
    "algo.fake_warmup=-1": ["algo.fake_warmup is -1", "at least 0"],
    "algo.fake_lr=0": ["algo.fake_lr is 0", "a positive number, or null for optim.lr"],
    "algo.adapter.rank=-1": ["algo.adapter.rank is -1", "a whole number, 0 for full networks"],
    "algo.adapter.rank=true": ["algo.adapter.rank is True", "a whole number"],
    "algo.adapter.rank=1.5": ["algo.adapter.rank is 1.5", "a whole number"],
    "algo.adapter.alpha=0": ["algo.adapter.alpha is 0", "a positive number, or null"],
    "algo.adapter.targets=[]": ["algo.adapter.targets is []", "a list of patterns of names"],
    "algo.adapter.whole=bias": ["algo.adapter.whole is bias", "a list of patterns of names"],
    "algo.adapter.frozen=int8": ["algo.adapter.frozen is 'int8'", "float32, bf16"],
    "algo.recompute_blocks=2": ["algo.recompute_blocks is '2'", "True, False"],
    "algo.sampler=nope": ["algo.sampler: the sampler is 'nope'", "ancestral, spread"],
    "algo.grid=cosine": ["algo.grid: the grid is 'cosine'", "host, linear, power:NUMBER"],
    "algo.rollout_steps=[0]": ["algo.rollout_steps is [0]", "whole numbers above 0"],
    "algo.rollout_steps=4": ["algo.rollout_steps is 4", "must be a list", "[4,8]"],
    "algo.rollout_target=end": ["algo.rollout_target is 'end'", "text, step"],
    "algo.rollout_target=step": ["algo.rollout_target is step", "a process that has masks"],
    "algo.guard.steps=8": ["algo.guard.steps is 8", "must be a list", "[4,8]"],
    "algo.guard.steps=[]": ["algo.guard.steps is []", "must be a list"],
    "algo.guard.every=-5": ["algo.guard.every is -5", "a whole number, at least 0"],
    "algo.guard.entropy=abc": ["algo.guard.entropy is abc", "a number, at least 0"],
    "algo.guard.word_length=null": ["algo.guard.word_length is None", "a number, at least 0"],
    "algo.guard=null": ["algo.guard is None", "a section of settings"],
    "algo.fake_lr=abc": ["algo.fake_lr is abc", "a positive number"],
    "algo.on_policy=null": ["algo.on_policy is None", "at least 0, at most 1"],
    "algo.fake_ratio=null": ["algo.fake_ratio is None", "a whole number, at least 1"],
    "algo.sampler=null": ["algo.sampler is None", "a name"],
    "algo.grid=2": ["algo.grid is 2", "a name, or times in quotes"],
    "algo.grid=power:0": ["algo.grid: the grid is 'power:0'", "fall from 1"],
    "seed=-1": ["seed is -1", "a whole number, at least 0"],
    "model.n_heads=0": ["model.n_heads is 0", "at least 1"],
    "algo.compile=maybe": ["algo.compile is 'maybe'", "True, False"],
    "algo.shared_forward=maybe": ["algo.shared_forward is 'maybe'", "True, False"],
    "algo.shared_forward=true": ["algo.shared_forward is true", "algo.noising=gaussian"],
    "+data.modality=image": ["data.modality is 'image'", "a distillation takes text"],
    "algo.infill=2": ["algo.infill is 2", "at least 0, at most 1"],
    "algo.prompt_length=16": ["algo.prompt_length is 16", "less than model.length 16"],
    "algo.guard.samples=0": ["algo.guard.samples is 0", "at least 1"],
    "trainer.devices=two": ["trainer.devices is two", "a whole number, at least 1"],
    "trainer.devices=0": ["trainer.devices is 0", "a whole number, at least 1"],
    "trainer.precision=16-mixed": ["trainer.precision is 16-mixed", "32 or bf16"],
    "trainer.precision=8": ["Precision 8 is invalid"],
    "trainer.precision=64": ["trainer.precision is 64", "32 or bf16"],
    "algo.posterior=true": ["algo.posterior is true", "must be false"],
    "algo.tau=0": ["algo.tau is 0", "a positive number"],
    "algo.gamma_min=5": ["algo.gamma_min and gamma_max are 5", "the first the smaller one"],
    "loader.num_workers=-1": ["loader.num_workers is -1", "at least 0"],
    "model.dropout=2": ["model.dropout is 2", "from 0 to below 1"],
    "model.n_heads=3": ["model.hidden_size is 32", "multiple of model.n_heads 3"],
    "algo.teacher_path=???": ["algo.teacher_path"],
    "algo.teacher_path=none.ckpt": ["algo.teacher_path is 'none.ckpt'", "No such file"],
    "data.tokenizer_name_or_path=/nope": ["data.tokenizer_name_or_path is '/nope'", "folder"],
    "data.train=/nope": ["data", "'/nope/train.txt' is missing", "train.txt and validation.txt"],
    "loader.global_batch_size=4000": ["data.train has", "global batch of 4000"],
    "model.length=4000": ["data", "model.length=4000"],
}


OF_GAUSSIAN = ("algo.process=nope", "algo.shared_forward=true", "algo.posterior=true")
OF_GAUSSIAN += ("algo.tau=0", "algo.gamma_min=5")


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_cannot_work(command, tmp_path, setting):
    given = ("algo.noising=gaussian",) if setting in OF_GAUSSIAN else ()
    assert is_one_sentence(command(*DISTIL, *given, setting), *SETTINGS[setting])
    assert not leftovers(tmp_path / "run")


def test_a_checkpoint_to_sample_that_is_missing(command):
    message = command("algo=mdlm", "mode=sample_eval", "eval.checkpoint_path=nope.ckpt")
    assert is_one_sentence(message, "eval.checkpoint_path is 'nope.ckpt'", "No such file")


def test_pairs_are_not_sampled_without_their_prompts(command):
    message = command("algo=mdlm", "mode=sample_eval", "data=pairs", "eval.checkpoint_path=x.ckpt")
    assert is_one_sentence(message, "mode is sample_eval, which gives no prompts of data.pairs")


@pytest.mark.parametrize("text", ["", "\n \n"], ids=["empty", "blank"])
def test_an_empty_corpus(command, tmp_path, text):
    (tmp_path / "train.txt").write_text(text)
    message = command(*DISTIL, f"data.train={tmp_path}")
    assert is_one_sentence(message, "data", f"'{tmp_path}/train.txt' holds no text")
    assert not leftovers(tmp_path)


def test_a_run_folder_that_cannot_be_made(command, tmp_path):
    (tmp_path / "file").write_text("")
    message = command(*DISTIL, f"hydra.run.dir={tmp_path}/file/run")
    assert is_one_sentence(message, "hydra.run.dir", "must be", f"{tmp_path}/file/run")
    assert (tmp_path / "file").read_text() == ""


def test_an_interrupt_before_the_training(command, standalone, monkeypatch):
    def interrupt(**given):
        raise KeyboardInterrupt

    monkeypatch.setattr(standalone.module("main"), "_train", interrupt)
    try:
        assert command(*DISTIL) == "interrupted"
    except KeyboardInterrupt:
        pytest.fail("the interrupt goes through")


LOST = [
    "[/gloo/transport/tcp/pair.cc:547] Connection closed",
    "DataLoader worker (pid 9) is killed",
]


@pytest.mark.parametrize("error", LOST)
def test_a_process_of_the_run_that_is_lost(monkeypatch, error):
    """Another one, or one that reads the data."""
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    told = "error: another process of this run has ended; the last checkpoint is kept"
    with pytest.raises(SystemExit, match=told), one_sentence():
        raise RuntimeError(error)
    with pytest.raises(RuntimeError, match="shapes"), one_sentence():
        raise RuntimeError("shapes differ")


def test_the_place_of_an_error_is_shown_on_request(command, monkeypatch):
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", True)
    with pytest.raises(ValueError, match=r"optim.lr is -1"):
        command(*DISTIL, "optim.lr=-1")


def test_a_flag_of_hydra_may_stand_before_the_settings(arguments, monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["duo_ext", "--cfg", "job", *arguments(*DISTIL)])
    duo_ext.__main__.main()
    assert "teacher_path: unused.ckpt" in capsys.readouterr().out


def test_what_a_notebook_or_a_terminal_sets_is_no_matter():
    """A backend of matplotlib's that is not there, a terminal of ASCII, no docstrings."""
    odd = {"MPLBACKEND": "nonsense", "PYTHONIOENCODING": "ascii", "COLUMNS": "0"}
    code = "from duo_ext.commands.line import one_sentence\nwith one_sentence():\n"
    code += "    import lightning, torchmetrics\n    print('é')"
    command = [sys.executable, "-OO", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | odd)
    assert (done.returncode, done.stdout) == (0, "\\xe9\n"), done.stderr


def test_a_reader_that_has_ended():
    """As head does."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "duo_ext", "--check"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    told = "error: what reads this program's output has ended\n"
    assert (done.returncode, done.stderr) == (1, told)


# --------------------------------------------------------------------------------------- hosts


@pytest.fixture
def plain(monkeypatch, capfd):
    """``plain("--check")`` calls the command line with these words alone; what it prints."""
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["duo_ext", *words])
        duo_ext.__main__.main()
        return capfd.readouterr().out

    return call


@pytest.mark.parametrize("given", ["--host", "DUO_ROOT"])
def test_a_host_that_is_no_duo_tree(plain, tmp_path, monkeypatch, given):
    (tmp_path / "main.py").write_text("")
    if given == "DUO_ROOT":
        monkeypatch.setenv("DUO_ROOT", str(tmp_path))
    words = ["--host", str(tmp_path)] if given == "--host" else []
    with pytest.raises(SystemExit) as stopped:
        plain("algo=mdlm", *words)
    told = f"{given} is '{tmp_path}'; it is no Duo tree: it lacks algo.py, "
    assert is_one_sentence(stopped.value.code, told, "configs/config.yaml")


@pytest.mark.parametrize("words", [["--host", str(host.STANDALONE)], []])
def test_check_says_the_host_and_the_remedies_that_the_standalone_tree_needs(plain, words):
    """fsspec's, which Lightning meets in any tree, and the two for data that Duo does not have."""
    needed = ("local names taken whole", "data of pairs", "given tokens stay clean")
    first, *rest, cpu = plain("--check", "algo=nope", *words).splitlines()
    assert first.startswith("host: standalone, commit ") and cpu.startswith("bf16 on this CPU: ")
    assert rest == [
        f"{'   applied' if remedy.name in needed else 'not needed'}  {remedy.name}: {remedy.cause}"
        for remedy in (*remedies.BEFORE, *duo.AFTER)
    ]


def test_a_run_says_its_host_and_hands_it_to_the_processes_that_it_starts(
    plain, arguments, tmp_path, monkeypatch
):
    monkeypatch.setenv("DUO_ROOT", "")
    ran, at_the_end = [], []
    monkeypatch.setattr(host.Host, "run", lambda *given: ran.append(given))
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    words = arguments("hydra/job_logging=none", "hydra/hydra_logging=none", "algo=idlm")
    printed = plain("--host", str(host.STANDALONE), *words)
    assert printed.startswith("host: standalone, commit ") and len(printed.splitlines()) == 1
    assert os.environ["DUO_ROOT"] == str(host.STANDALONE) and ranks.leave in at_the_end
    [(tree, config, algorithm)] = ran
    assert tree is host.active() and algorithm.__name__ == "IDLM" and config.model.length == 16
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert plain(*words, "algo=mdlm") == ""
    assert ran[1][2] is None


# ------------------------------------------------------------------------------------ teachers

OTHERS = {
    "model.length=24": ["model.length 24", "asks for 16"],
    "model.hidden_size=64": ["model.hidden_size 64", "asks for 32"],
    "model.n_blocks=1": ["model.n_blocks 1", "asks for 2"],
    "model.n_heads=4": ["width of a head 8", "asks for 16"],
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_teacher_of_another_shape(command, teacher, tmp_path, other):
    message = command("algo=idlm", f"algo.teacher_path={teacher('duo_base', other)}")
    assert is_one_sentence(message, "algo.teacher_path", *OTHERS[other])
    assert not leftovers(tmp_path / "run")


def test_a_teacher_of_another_vocabulary(command, teacher, tmp_path):
    bpe = "data.tokenizer_name_or_path=${idlm_asset:tokenizers/sotu_bpe2048}"
    message = command("algo=idlm", f"algo.teacher_path={teacher('duo_base')}", bpe)
    assert is_one_sentence(message, "algo.teacher_path", "vocabulary 32", "asks for 2048")
    assert not leftovers(tmp_path / "run")


@pytest.mark.parametrize(
    ("algo", "family", "wanted"),
    [
        ("idlm", "mdlm", "duo_base"),
        ("idlm_mdlm", "duo_base", "mdlm"),
        ("idlm_dcd", "duo_base", "distillation"),
    ],
)
def test_a_teacher_of_the_wrong_family(command, teacher, algo, family, wanted):
    sampler = ("sampling.predictor=analytic",) if family == "sedd" else ()
    path = teacher(family, *sampler)
    message = command(f"algo={algo}", f"algo.teacher_path={path}")
    told = f"algo.teacher_path is '{path}', a checkpoint of algo={family}; algo={algo} takes"
    assert is_one_sentence(message, told)
    assert wanted in message.partition("takes")[2]


@pytest.mark.parametrize("damage", ["truncated", "text", "folder"])
def test_a_teacher_that_is_no_whole_checkpoint(command, teacher, tmp_path, damage):
    path = Path(teacher("duo_base"))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "text":
        path.write_text("hello")
    else:
        path = tmp_path
    told = "config.json cannot be opened: No such file" if damage == "folder" else "damaged"
    message = command("algo=idlm", f"algo.teacher_path={path}")
    assert is_one_sentence(message, f"algo.teacher_path is '{path}'", told)


class Foreign:
    """Made from a file it makes a folder."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


def test_a_teacher_of_other_types_is_refused_unless_it_is_trusted(command, teacher, tmp_path):
    path, proof = teacher("duo_base"), tmp_path / "proof"
    torch.save(torch.load(path, weights_only=True) | {"callback": Foreign(proof)}, path)
    given = ("algo=idlm", f"algo.teacher_path={path}", "trainer.max_steps=1")
    message = command(*given)
    told = f"algo.teacher_path is '{path}'; it holds '{os.mkdir.__module__}.mkdir', which could run"
    assert is_one_sentence(message, told, "algo.trust_checkpoint=true")
    assert not proof.exists() and not leftovers(tmp_path / "run")
    assert command(*given, "algo.trust_checkpoint=true") is None
    assert proof.exists()


# ----------------------------------------------------------------------------------- resuming

EVERY_PAIR = "callbacks.checkpoint_every_n_steps.every_n_train_steps=1"


@pytest.fixture
def distil(command, teacher, tmp_path):
    """``distil(pairs, ...)`` distils in tmp_path/run; the message and the last checkpoint."""
    path = teacher("duo_base")

    def call(pairs, *overrides, run="run"):
        folder = tmp_path / run
        own = (
            f"algo.teacher_path={path}",
            f"hydra.run.dir='{folder}'",
            f"trainer.max_steps={pairs}",
        )
        message = command("algo=idlm", *own, EVERY_PAIR, *overrides)
        return message, folder / "checkpoints" / "last.ckpt"

    return call


def student(path):
    return checkpoints.read(str(path), "path")["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_checkpoint_of_a_run_is_a_student_to_evaluate(distil):
    _, last = distil(1)
    given = ["--student", str(last), "--samples", "3", "--output", "unused"]
    options = evaluation.parse(evaluate.SIDE, given)
    subject = evaluate.load("student", str(last), options)
    assert subject.algo == "idlm"
    average = checkpoints.read(str(last), "path")["ema"]["shadow_params"]
    assert all(map(torch.equal, subject.model.backbone.parameters(), average))
    tokens, evaluations, _ = streams.sample([(subject, Setting(2))], options)[0]
    assert tokens.shape == (3, 16) and evaluations == 3


def test_a_run_of_sdtt_is_evaluated(command, teacher, tmp_path):
    rounds = ("algo.T=4", "algo.update_teacher_every=1", "trainer.max_steps=2", "optim.lr=1e-2")
    given = teacher("mdlm")
    assert command("algo=sdtt", f"training.finetune_path={given}", *rounds) is None
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before, after = student(given), student(last)
    assert before.keys() == after.keys() and not same(before, after)
    ways = ("--steps", "2", "--samples", "3", "--judge", "${idlm_asset:judge}")
    evaluate.main(["--student", str(last), *ways, "--output", str(tmp_path / "out")])
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert (row["algo"], row["steps"], row["samples"]) == ("sdtt", 2, 3)
    assert 1 <= row["evaluations"] <= 3 and row["genppl"] > 1


@pytest.mark.parametrize("run", ["a::b/r", "x=1, [%#?*é]"])
def test_a_run_folder_of_any_name(distil, tmp_path, run):
    """Written there and nowhere else, and gone on with."""
    for pairs in (1, 2):
        message, last = distil(pairs, run=run)
        assert message is None and checkpoints.read(str(last), "path")["global_step"] == pairs
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "tokens", run.partition("/")[0]
    }  # fmt: skip
    assert not (tmp_path / "a").exists()


def test_the_last_two_of_a_distillation_are_kept_its_end_and_what_was_saved_before(distil):
    message, last = distil(3, "callbacks.checkpoint_every_n_steps.every_n_train_steps=2")
    assert message is None
    pairs = {p.name: checkpoints.read(str(p), "path")["global_step"] for p in last.parent.iterdir()}
    assert pairs == {"last.ckpt": 3, "previous.ckpt": 2}
    before = last.with_name("previous.ckpt")
    ended = student(last)
    last.write_bytes(b"spoiled")
    message, _ = distil(3)
    assert is_one_sentence(message, f"'{last}'; it is damaged", f"'{before}' is the one before it")
    assert distil(3, f"checkpointing.resume_ckpt_path={before}")[0] is None
    assert same(student(last), ended)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=2", "belongs to another run"),
        ("algo.noising=gaussian", "belongs to another run"),
        ("algo.fake_ratio=2", "belongs to another run"),
        ("algo.shared_forward=true", "belongs to another run"),
        ("algo.posterior=true", "its algo.posterior is False, this run's True"),
        ("algo.prompt_length=2", "its algo.prompt_length is 0, this run's 2"),
        ("optim.lr=1e-5", "its optim.lr is 0.0003, this run's 1e-05"),
        ("optim.beta2=0.9", "its optim.beta2 is 0.999, this run's 0.9"),
        ("algo.fake_lr=1e-5", "its algo.fake_lr is None, this run's 1e-05"),
        ("lr_scheduler.num_warmup_steps=3", "num_warmup_steps is 2, this run's 3"),
        ("training.ema=0.8", "its training.ema is 0.9, this run's 0.8"),
        ("trainer.gradient_clip_val=2", "its trainer.gradient_clip_val is 1.0, this run's 2"),
        ("+trainer.gradient_clip_algorithm=value", "this run's value"),
        ("algo.precision=bf16", "its algo.precision is mixed, this run's bf16"),
        ("model.n_blocks=1", "model.n_blocks"),
    ],
)
def test_a_changed_run_does_not_resume(distil, teacher, tmp_path, change, told):
    assert distil(1)[0] is None
    message, last = distil(2, change)
    before = last.read_bytes()
    assert is_one_sentence(message, told)
    assert last.read_bytes() == before


def test_a_run_of_another_teacher_does_not_resume(distil, teacher):
    _, last = distil(1)
    before = last.read_bytes()
    message, _ = distil(2, f"algo.teacher_path={teacher('duo_base', seed=4)}")
    assert is_one_sentence(message, "checkpointing.resume_ckpt_path", "another run", "teacher")
    assert last.read_bytes() == before
    assert distil(2)[0] is None and last.read_bytes() != before


def test_what_an_earlier_version_did_not_tell_of_a_run_is_not_compared(distil):
    _, last = distil(1)
    saved = checkpoints.read(str(last), "path")
    del saved["idlm"]["run"]["optim.lr"]
    torch.save(saved, last)
    assert distil(2)[0] is None


def test_a_validation_amid_a_distillation_changes_nothing_of_it(distil):
    """It sees the average, after an update of the fake too; tests/upstream looks at its weights."""
    own = ("trainer.limit_val_batches=1", "trainer.val_check_interval=1")
    message, last = distil(3, *own)
    assert message is None
    straight = distil(3, run="straight")[1]
    assert same(student(last), student(straight))
    average, wanted = (
        checkpoints.read(str(path), "path")["ema"]["shadow_params"] for path in (last, straight)
    )
    assert all(map(torch.equal, average, wanted))


def test_gradients_are_clipped_by_value_if_asked_for(distil):
    own = ("trainer.gradient_clip_val=1e-4", "+trainer.gradient_clip_algorithm")
    ends = [student(distil(2, own[0], f"{own[1]}={by}", run=by)[1]) for by in ("norm", "value")]
    assert not same(*ends)


def test_a_folder_in_which_another_run_is_at_work(distil, tmp_path):
    """Nothing of that run is touched, Hydra's record of its settings neither."""
    record = tmp_path / "run" / ".hydra" / "overrides.yaml"
    record.parent.mkdir(parents=True)
    record.write_text("- seed=1")
    claim = f"from duo_ext.commands import folder; folder.claim({str(tmp_path / 'run')!r})"
    hold = f"{claim}; print(1); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-uc", hold], **pipes) as other:
        assert other.stdout.readline() == b"1\n"
        message, last = distil(2, "seed=2")
        other.communicate(b"\n")
    told = f"hydra.run.dir is '{tmp_path}/run'; process {other.pid} on"
    assert is_one_sentence(message, told, "is at work there, so another folder is needed")
    assert record.read_text() == "- seed=1" and not last.exists()


def test_a_folder_that_is_named_by_the_time_is_one_runs_alone(command, teacher, tmp_path):
    place = f"hydra.run.dir={tmp_path}/${{now:%Y}}"
    own = ("algo=idlm", f"algo.teacher_path={teacher('duo_base')}", "trainer.max_steps=1", place)
    for _ in range(2):
        assert command(*own) is None
    year = time.strftime("%Y")
    found = sorted(tmp_path.glob(f"{year}*/checkpoints/last.ckpt"))
    assert [path.parents[1].name for path in found] == [year, f"{year}-2"]


def test_a_run_of_another_micro_batch_does_not_resume(distil):
    """Its randomness belongs to micro-batches of the size that the checkpoint's run had."""
    distil(1)
    message, _ = distil(2, "loader.batch_size=2")
    assert is_one_sentence(message, "its loader.batch_size is 4, this run's 2")


def test_a_checkpoint_of_a_newer_format_is_named_and_left_alone(distil):
    _, last = distil(1)
    saved = checkpoints.read(str(last), "path")
    saved["idlm"]["format"] = checkpoints.FORMAT + 1
    torch.save(saved, last)
    before = last.read_bytes()
    message, _ = distil(2)
    assert is_one_sentence(message, "checkpointing.resume_ckpt_path", "format 2", "newer version")
    assert last.read_bytes() == before


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(1, "no")]
)
def test_a_checkpoint_that_cannot_be_written_costs_no_other(distil, monkeypatch, error):
    """The run ends in one sentence with its checkpoint of two pairs, from which it goes on."""
    _, last = distil(2)
    before = last.read_bytes()

    def full(content, file):
        file.write(b"half")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        message, _ = distil(4)
    assert is_one_sentence(message, f"{last} cannot be written: {error.strerror}", "is kept")
    names = {path.name for path in last.parent.iterdir()}
    assert last.read_bytes() == before and names == {"last.ckpt", "previous.ckpt"}
    assert distil(4)[0] is None
    assert same(student(last), student(distil(4, run="straight")[1]))


def test_what_a_killed_save_left_is_removed_by_the_next_start(distil):
    _, last = distil(1)
    left = last.parent / f"last.ckpt.{'0' * 32}.tmp"
    left.write_bytes(b"half")
    distil(2)
    assert not left.exists()


def test_a_plain_checkpoint_of_the_host_is_not_resumed(distil, teacher, tmp_path):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    shutil.copy(teacher("duo_base"), last)
    before = last.read_bytes()
    message, _ = distil(2)
    assert is_one_sentence(message, "checkpointing.resume_ckpt_path", "another run")
    assert last.read_bytes() == before


def test_a_damaged_last_checkpoint_is_named(distil, tmp_path):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_text("hello")
    message, _ = distil(2)
    assert is_one_sentence(message, "checkpointing.resume_ckpt_path", "damaged")


# --------------------------------------------------------------------------------- non-finite


@pytest.mark.parametrize(
    ("algo", "family", "value"),
    [("idlm", "duo_base", "nan"), ("idlm", "duo_base", "inf"), ("idlm_mdlm", "mdlm", "nan")],
)
def test_a_teacher_with_a_weight_that_is_not_finite(
    command, teacher, tmp_path, algo, family, value
):
    path = teacher(family)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["ema"]["shadow_params"][3].view(-1)[0] = float(value)
    torch.save(checkpoint, path)
    own = (f"algo={algo}", f"algo.teacher_path={path}", "trainer.max_steps=2")
    message = command(*own, EVERY_PAIR)
    assert is_one_sentence(message, "the fake's loss after 0 pairs is nan", "before the update")
    assert not leftovers(tmp_path / "run")


@pytest.mark.parametrize("network", ["fake", "student"])
def test_a_loss_that_is_not_finite_stops_before_the_update(distil, monkeypatch, network):
    """The run ends with the checkpoint of the pair before, from which it goes on as if nothing."""
    loss, calls = getattr(UniformProcess, f"{network}_loss"), []

    def broken(*arguments):
        calls.append(1)
        return loss(*arguments) * (torch.nan if len(calls) == 3 else 1)

    with monkeypatch.context() as patched:
        patched.setattr(UniformProcess, f"{network}_loss", broken)
        message, last = distil(5)
    assert len(calls) == 3
    assert is_one_sentence(message, f"the {network}'s loss after 2 pairs is nan", "last checkpoint")
    assert checkpoints.read(str(last), "path")["global_step"] == 2
    assert distil(5)[0] is None
    assert same(student(last), student(distil(5, run="straight")[1]))


# -------------------------------------------------------------------------------- as a process


@pytest.fixture
def process(tmp_path):
    """``process(["algo=mdlm"])`` starts the command line: the process, the file it prints to."""
    started = []

    def start(arguments):
        environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
        command = [sys.executable, "-m", "duo_ext", *arguments]
        path = tmp_path / "printed"
        with path.open("w") as output:
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            started.append(subprocess.Popen(command, env=environment, **streams))
        return started[-1], path

    yield start
    for run in started:
        run.kill()
        run.wait()


def test_an_error_at_the_command_line(process, arguments):
    run, printed = process(arguments("algo=idlm", "algo.teacher_path=none.ckpt"))
    assert run.wait(timeout=120) == 1
    assert [line for line in printed.read_text().splitlines() if "rror" in line] == [
        "error: algo.teacher_path is 'none.ckpt'; it cannot be opened: No such file or directory"
    ]


def test_an_interrupted_run_is_saved_and_goes_on_where_it_was(
    distil, process, arguments, teacher, tmp_path
):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    own = ("algo=idlm", f"algo.teacher_path={teacher('duo_base')}", "trainer.max_steps=100000")
    run, printed = process(arguments(*own))
    while "updates, pair" not in printed.read_text():
        assert run.poll() is None, printed.read_text()
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=120) == 1
    output = printed.read_text()
    assert "Traceback" not in output
    (pairs,) = map(int, re.findall(rf"interrupted after (\d+) pairs; saved {last}\n", output))
    assert checkpoints.read(str(last), "path")["global_step"] == pairs
    assert distil(pairs + 2)[0] is None
    resumed = checkpoints.read(str(last), "path")
    assert resumed["global_step"] == pairs + 2
    assert same(resumed["state_dict"], student(distil(pairs + 2, run="straight")[1]))


class HydraSays(hydra.errors.HydraException):
    """What Hydra raises of a setting."""


@pytest.mark.parametrize("mendable", [Refused("k is 1"), OSError("full"), HydraSays("no key")])
def test_what_a_user_can_mend_is_one_sentence(monkeypatch, mendable):
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    with pytest.raises(SystemExit, match=f"^error: {mendable}$"), one_sentence():
        raise mendable


@pytest.mark.parametrize("fault", [ValueError, TypeError, RuntimeError, AssertionError, KeyError])
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, fault):
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    with pytest.raises(fault, match="axis 2 is out of bounds"), one_sentence():
        raise fault("axis 2 is out of bounds")
