"""Data of pairs in whole runs, in the standalone trees and in the real checkouts: a teacher, its
student (resumed = straight, 2 processes = 1), their answers, a text on request."""

import json
import os
import subprocess
import sys

import pytest
import torch

from duo_ext import host
from duo_ext.data import arithmetic
from duo_ext.weights import checkpoints
from sedd_ext import host as sedd_host

MODEL = ("model=arithmetic", "model.hidden_size=32", "model.cond_dim=16", "model.n_blocks=2")
MODEL += ("model.n_heads=2", "data=arithmetic", "+machine=cpu")
GUARD = ("algo.guard.every=2", "algo.guard.steps=[2]", "algo.guard.samples=20")
GUARD += ("algo.guard.teacher_steps=3", "algo.fake_warmup=1", "algo.sampler=spread")
DUO = (
    *MODEL,
    "loader.global_batch_size=8",
    "loader.eval_global_batch_size=8",
    "loader.batch_size=4",
    "trainer.limit_val_batches=2",
    "training.ema=0.5",
    "optim.lr=1e-3",
    "eval.gen_ppl_eval_model_name_or_path=${idlm_asset:judge}",
)
SEDD = (
    *MODEL,
    "tokens=249",
    "training.batch_size=8",
    "training.accum=2",
    "training.ema=0.5",
    "training.log_freq=1",
    "eval.batch_size=8",
    "eval.judge=${idlm_asset:judge}",
)
TREES = ("standalone", "duo ch-1", "duo main", "sedd standalone", "sedd")
CHECKOUT = {"standalone": host.STANDALONE, "sedd standalone": sedd_host.STANDALONE}


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """A cache with the word problems, fewer than are shipped but of the shipped tokenizer."""
    root = tmp_path_factory.mktemp("cache")
    folder = arithmetic.kept(root)
    for name, count in (("train", 64), ("validation", 20), ("test", 20)):
        path = f"{folder}/{name}.jsonl"
        with open(path) as file:
            lines = file.readlines()[:count]
        with open(path, "w") as file:
            file.writelines(lines)
    return root


@pytest.fixture(params=TREES)
def tree(request, checkouts):
    """(the package, the host's folder)."""
    if request.param not in CHECKOUT:
        variable, root = checkouts[request.param]
        if not root:
            pytest.skip(f"{variable} names no checkout of {request.param}")
    else:
        root = CHECKOUT[request.param]
    return "sedd_ext" if request.param.startswith("sedd") else "duo_ext", root


@pytest.fixture
def run(tree, problems, tmp_path):
    """``run("", ...)``: the package's program with these words; (what it printed, stderr)."""
    package, root = tree
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "IDLM_CACHE": str(problems)}

    def call(program, *words, processes=1):
        start = [sys.executable, "-m"]
        if processes > 1:
            start += ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"]
        command = [*start, f"{package}{program}", f"--host={root}", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout, done.stderr

    return call


@pytest.fixture
def train(run, tree):
    """``train(folder, steps, ...)``: a run of the program in this folder."""
    if tree[0] == "sedd_ext":
        return lambda folder, steps, *words, processes=1: run(
            *("", *SEDD, f"training.n_iters={steps}", f"hydra.run.dir={folder}", *words),
            *(("training.accum=1",) if processes > 1 else ()),
            processes=processes,
        )
    return lambda folder, steps, *words, processes=1: run(
        *("", *DUO, f"trainer.max_steps={steps}", f"hydra.run.dir={folder}", *words),
        f"trainer.devices={processes}",
    )


def students(package, folder):
    """The average weights of a run's last checkpoint."""
    if package == "duo_ext":
        path = f"{folder}/checkpoints/last.ckpt"
        return checkpoints.denoiser(checkpoints.read(path, "last")).average
    path = f"{folder}/checkpoints-meta/checkpoint.pth"
    return torch.load(path, weights_only=True)["ema"]["shadow_params"]


KINDS = {
    "mdlm": ("duo_ext", "idlm_mdlm", "sampling.predictor=ancestral_cache"),
    "duo_base": ("duo_ext", "idlm", "sampling.predictor=ancestral", "algo.posterior=true"),
    "sedd": ("sedd_ext", "idlm", "sampling.predictor=analytic"),
}
# a checkout of Duo samples in 1000 steps at each validation
OF_DUOS = ("lr_scheduler.num_warmup_steps=1", "trainer.val_check_interval=2")
OF_DUOS += (
    "++eval.generate_samples=false",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
)


@pytest.mark.parametrize("base", KINDS)
def test_a_teacher_its_student_and_their_answers(tree, train, run, tmp_path, problems, base):
    package, algorithm, predictor, *more = KINDS[base]
    if package != tree[0]:
        pytest.skip(f"algo={base} is not of this program")
    key = "teacher" if package == "sedd_ext" else "algo.teacher_path"
    common = (predictor, *(OF_DUOS if package == "duo_ext" else ()))
    train("teacher", 2, f"algo={base}", *common)
    own = (f"algo={algorithm}", f"{key}={tmp_path}/teacher", *GUARD, *common, *more)
    train("straight", 4, *own)
    train("resumed", 2, *own)
    train("resumed", 4, *own)
    straight, resumed = (students(package, tmp_path / name) for name in ("straight", "resumed"))
    assert all(map(torch.equal, straight, resumed))
    train("two", 4, *own, processes=2)
    for one, two in zip(straight, students(package, tmp_path / "two"), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    guard = json.loads((tmp_path / "straight" / "guard.json").read_text())
    assert 0 <= guard["teacher"]["accuracy"] <= 1 and len(guard["history"]) == 2

    folder = arithmetic.kept(problems)
    printed, _ = run(
        *(".evaluate", "--teacher", "teacher", "--student", "straight", "--steps", "2"),
        *("--samples", "20", "--output", "out", f"data.valid={folder}/test.jsonl"),
    )
    assert "accuracy [95 %]" in printed
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["sampler"] for row in rows] == ["ancestral", "spread", "spread"]
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows)

    question = "tom has 5 eggs and loses 2. how many eggs are left?"
    printed, _ = run(".generate", "straight", "--prompt", question, "--steps", "2", "--json")
    assert json.loads(printed)["text"].startswith(f"{question}\n")
