"""python -m sedd_ext: a setting that cannot work is one sentence, and nothing is written for it.

All command lines run in forks of one process, which has imported SEDD's tree once: a process holds
either that tree or Duo's.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duo_ext.weights import checkpoints
from sedd_ext import runs

TINY = (
    *("data=sotu", "model=sotu", "model.hidden_size=32", "model.cond_dim=16", "model.n_blocks=1"),
    *("model.n_heads=2", "model.length=16", "tokens=32", "training.batch_size=4", "device=cpu"),
    *("training.n_iters=1", "optim.warmup=2", "eval.batch_size=8", "eval.judge=none"),
)
IDLM, SAMPLE = "algo=idlm teacher={teacher}", "mode=sample checkpoint={teacher}"
WRONG = {
    "algo=nope": "Could not find 'algo/nope'",
    "mode=nope": "mode is 'nope'; it must be one of train, sample, eval",
    "training.nope=1": "Could not override 'training.nope'",
    "graph.type=nope": "graph.type is 'nope'; it must be absorb or uniform",
    "noise.type=nope": "noise.type is 'nope'; it must be loglinear or geometric",
    "optim.optimizer=nope": "optim.optimizer is 'nope'; it must be one of Adam, AdamW",
    "optim.lr=-1": "optim.lr is -1; it must be a positive number",
    "optim.warmup=null": "optim.warmup is None; it must be a number",
    "optim.grad_clip=null": "optim.grad_clip is None; it must be a number",
    "optim.beta1=1": "optim.beta1 is 1; it must be below 1",
    "optim.grad_clip=0": "optim.grad_clip is 0, to which SEDD clips all gradients; -1: no limit",
    "algo.name=nope": "algo.name is 'nope'; it must be one of",
    "seed=-1": "seed is -1; it must be a whole number, at least 0",
    "sampling.predictor=nope training.snapshot_sampling=true": "sampling.predictor is 'nope'; it",
    "optim.lr=fast": "optim.lr is fast; it must be a positive number",
    "training.n_iters=0": "training.n_iters is 0; it must be a positive number",
    "training.accum=0": "training.accum is 0; it must be a positive number",
    "training.batch_size=0": "training.batch_size is 0; it must be a positive number",
    "training.micro_batch=0": "training.micro_batch is 0; it must be a positive number",
    "training.micro_batch=3": "it must be a multiple of training.micro_batch x the number of",
    "training.log_freq=0": "training.log_freq is 0; it must be a positive number",
    "training.eval_freq=0": "training.eval_freq is 0; it must be a positive number",
    "training.snapshot_freq=0": "training.snapshot_freq is 0; it must be a positive number",
    "training.snapshot_freq_for_preemption=0": "snapshot_freq_for_preemption is 0; it must be",
    "training.ema=2": "training.ema is 2; it must be a number, at least 0, at most 1",
    "training.ema=abc": "training.ema is abc; it must be a number, at least 0, at most 1",
    "noise.sigma_min=abc": "noise.sigma_min is abc; it must be a positive number",
    "deterministic=yes": "deterministic is yes; it must be true or false",
    "sampling.noise_removal=none": "sampling.noise_removal is none; it must be true or false",
    "model.scale_by_sigma=maybe": "model.scale_by_sigma is maybe; it must be true or false",
    "model.n_heads=3": "model.hidden_size is 32; it must be a multiple of model.n_heads 3",
    "model.n_blocks=-1": "model.n_blocks is -1; it must be a positive number",
    "model.length=4000": "less than one block of model.length=4000",
    "model.dropout=2": "model.dropout is 2; it must be a number from 0 to below 1",
    "precision=8": "precision is 8; it must be 32 or bf16",
    "data.train=/nope": "'/nope/train.txt' is missing",
    "data.train=5": "'5/train.txt' is missing",
    "data.cache_dir=s3://kept": "data.cache_dir is s3://kept; it must be a local folder",
    "data.valid=/nope": "'/nope/validation.txt' is missing",
    "data.tokenizer=/nope": "data.tokenizer is '/nope'; it must be a tokenizer's folder",
    "--host=/nope": "--host is '/nope'; it is no SEDD tree: it lacks graph_lib.py",
    "mode=sample": "checkpoint is null; mode=sample needs one",
    "mode=eval checkpoint=none": "checkpoint is 'none'; it cannot be opened: No such file",
    f"{SAMPLE} sampling.predictor=nope": "sampling.predictor is 'nope'; it must be one of",
    f"{SAMPLE} sampling.steps=0": "sampling.steps is 0; it must be a positive number",
    f"{SAMPLE} sampling.samples=0": "sampling.samples is 0; it must be a positive number",
    f"{SAMPLE} sampling.suffix='\u00ff\u65e5'": "sampling.suffix is '\u00ff\u65e5'; the model's",
    f"{SAMPLE} sampling.prefix=wethepeopleofthe": "sampling.suffix have 16 tokens",
    f"{SAMPLE} sampling.prefix=1990": "sampling.prefix is '1990'; the model's",
    f"{SAMPLE} sampling.prefix=1e3": "sampling.prefix is 1000.0; it must be a text, as",
    f"{SAMPLE} noise.type=geometric": "the checkpoint was trained with noise.type loglinear, this",
    f"{SAMPLE} model.scale_by_sigma=false": "trained with model.scale_by_sigma True, this",
    f"{SAMPLE} data=pairs": "mode is sample, which gives no prompts of data.pairs; python -m",
    "mode=sample checkpoint=190328": "checkpoint is '190328'; it cannot be opened",
    f"{SAMPLE} model.n_blocks=2": "the checkpoint has model.n_blocks 1, this configuration asks",
    "algo=idlm": "Missing mandatory value: teacher",
    "algo=idlm teacher={folder}": "config.json cannot be opened",
    "algo=idlm teacher={cut}": "it is damaged, or no file of torch.save",
    "algo=idlm teacher={foreign}": ".mkdir', which could run code: only tensors and plain values",
    f"{IDLM} algo.fake_ratio=0": "algo.fake_ratio is 0; it must be a whole number, at least 1",
    f"{IDLM} algo.infill=-1": "algo.infill is -1; it must be a number, at least 0, at most 1",
    f"{IDLM} algo.adapter.rank=-1": "algo.adapter.rank is -1; it must be a whole number",
    f"{IDLM} algo.adapter.rank=2 algo.adapter.targets=[x]": "algo.adapter.targets has 'x', which",
    f"{IDLM} algo.adapter.frozen=int8": "algo.adapter.frozen is 'int8'; it must be one of",
    f"{IDLM} algo.on_policy=2": "algo.on_policy is 2; it must be a number, at least 0, at most 1",
    f"{IDLM} algo.prompt_length=16": "algo.prompt_length is 16; it must be less than model.length",
    f"{IDLM} algo.guard.every=1 algo.guard.samples=0": "algo.guard.samples is 0; it must be a",
    f"{IDLM} algo.guard.every=1": "eval.judge is 'none'; it must be the name or the directory of",
    f"{IDLM} algo.guard.every=1 noise.type=geometric": "sampling.predictor is 'euler'; the guard",
    f"{IDLM} algo.guard.every=1 sampling.predictor=none": "it must be analytic or euler",
    SAMPLE: "eval.judge is 'none'; it must be the name or the directory of a transformers causal",
    "resume seed=2": "a checkpoint of another run (its seed is 1, this run's 2)",
    "resume model.n_blocks=2": "the checkpoint has model.n_blocks 1, this configuration asks for 2",
    "resume model.scale_by_sigma=false": "(its model.scale_by_sigma is True, this run's False)",
    "resume training.accum=2": "its micro-batch is 4, this run's 2",
    "newer": "the checkpoint is of format 2, written by a newer version of idlm",
    "plain": "another run (it holds nothing of ours to go on from)",
    "cut": "it is damaged, or no file of torch.save",
    "foreign": ".mkdir', which could run code: only tensors and plain values are loaded",
}
SCRIPT = """if True:
    import json, os, sys
    from sedd_ext import __main__, host
    host.find(host.STANDALONE).activate()
    import sedd_ext.modes
    lines = json.load(open(sys.argv[1]))
    for number, line in enumerate(lines):
        child = os.fork()
        if child == 0:
            message, end = "", f"{sys.argv[1]}.{number}.end"
            with open(f"{sys.argv[1]}.{number}", "w") as output:
                os.dup2(output.fileno(), 2)
            sys.argv = ["sedd_ext", *line]
            try:
                __main__.main()
            except SystemExit as stop:
                message = str(stop.code)
            except BaseException as error:
                message = f"not a sentence: {error!r}"
            with open(end, "w") as file:
                file.write(message)
            os._exit(0)
        os.waitpid(child, 0)
"""


class Foreign:
    """Made from a file it makes a folder."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        import os

        return os.mkdir, (self.proof,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wrong")


def answers(folder, lines):
    """What each command line ends with, from a file of its own: stdout is any library's as well."""
    path = folder / "lines.json"
    path.write_text(json.dumps(lines))
    command = [sys.executable, "-c", SCRIPT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [Path(f"{path}.{number}.end").read_text() for number in range(len(lines))]


@pytest.fixture(scope="module")
def messages(folder, text_folder):
    """{wrong input: the message that it ends with}, each in a run folder of its own."""
    text = (f"data.train={text_folder}", f"data.cache_dir={folder}/tokens")

    def line(place, *given):
        return [*TINY, *text, f"hydra.run.dir={folder}/{place}", *given]

    assert answers(folder, [line("teacher")]) == [""]
    last = folder / "teacher" / runs.LAST
    whole = torch.load(last, weights_only=True)
    made = {
        "cut": last.read_bytes()[:-1000],
        "newer": whole | {"idlm": whole["idlm"] | {"format": checkpoints.FORMAT + 1}},
        "plain": {key: value for key, value in whole.items() if key != "idlm"},
        "foreign": whole | {"x": Foreign(folder / "proof")},
        "resume": last.read_bytes(),
    }
    for name, content in made.items():
        save(folder / f"{name}.pth", content)
    names = {name: folder / f"{name}.pth" for name in made}
    names |= {"teacher": folder / "teacher", "folder": folder / "empty"}
    names["folder"].mkdir()
    lines = []
    for number, wrong in enumerate(WRONG):
        first, *rest = wrong.format(**names).split(" ")
        if first in made:
            save(folder / f"run-{number}" / runs.LAST, made[first])
        lines.append(line(f"run-{number}", *rest, *([] if first in made else [first])))
    return dict(zip(WRONG, answers(folder, lines), strict=True))


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_is_one_sentence(messages, folder, wrong):
    message = messages[wrong]
    assert message.startswith("error: ") and "\n" not in message, message
    assert WRONG[wrong] in message
    assert not (folder / "proof").exists()
    number = list(WRONG).index(wrong)
    assert "Traceback" not in (folder / f"lines.json.{number}").read_text()
    kept = list((folder / f"run-{number}").rglob("*.pth"))
    assert len(kept) == (wrong.split(" ")[0] in ("resume", "newer", "plain", "cut", "foreign"))
