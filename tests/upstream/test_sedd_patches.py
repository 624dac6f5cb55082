"""Each defect of SEDD that a patch is for, seen in a clean clone and gone in a patched one.

SEDD_ROOT names a checkout. As a program, ``test_sedd_patches.py CLONE``, this file tries all that
the patches are for, in the working directory, and prints what came of it.
"""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duo_ext import host
from duo_ext.hosting import remedies
from sedd_ext import host as sedd_host

REPOSITORY = Path(host.__file__).parents[1]
TOKENIZER = REPOSITORY / "duo_ext" / "assets" / "tokenizers" / "sotu32"
COMMIT = "0605786da5ccb5747545e26d66fdf477187598b6"


# the program -----------------------------------------------------------------------------------


def settings():
    import omegaconf

    config = omegaconf.OmegaConf.load(sedd_host.STANDALONE / "configs" / "config.yaml")
    config.pop("defaults")
    model = {"hidden_size": 16, "cond_dim": 8, "n_blocks": 1, "n_heads": 2, "dropout": 0.0}
    training = {"batch_size": 4, "n_iters": 2, "log_freq": 1, "snapshot_sampling": False}
    changes = {
        "ngpus": 1,
        "tokens": 32,
        "model": model | {"length": 16, "scale_by_sigma": True},
        "training": training | {"snapshot_freq_for_preemption": 1},
        "optim": {"warmup": 5},
        "work_dir": "run",
    }
    return omegaconf.OmegaConf.merge(config, changes)


def import_model():
    try:
        import model  # noqa: F401
    finally:  # for what comes next, where it fails
        sys.path.append(str(remedies.STAND_INS / "flash_attn"))


def log_scores():
    """Of a model with random weights, to compare attention with and without the stand-in."""
    from model import SEDD

    torch.manual_seed(1)
    model = SEDD(settings()).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.arange(32).view(2, 16)
    return model(x, torch.tensor([0.1, 2.0])).tolist()


def save_pretrained():
    import load_model
    from model import SEDD

    SEDD(settings()).save_pretrained("hub")
    load_model.load_model_hf("hub", "cpu")
    return json.loads(Path("hub", "config.json").read_text())["model"]["length"]


def train():
    """What run_train's own program on one process says of where it starts."""
    import data
    import run_train

    batch = {"input_ids": torch.arange(64).view(4, 16) % 32}
    data.get_dataloaders = lambda config: ([batch] * 9, [batch])
    run_train.run_multiprocess(0, 1, settings(), port=0)
    return re.findall("Starting training loop at .*", Path("run", "logs").read_text())[-1]


def numpy_number():
    """A checkpoint as the warm-up leaves it, read back."""
    import numpy
    import utils  # noqa: F401

    torch.save({"lr": 1e-3 * numpy.minimum(0.5, 1.0)}, "numpy.pth")
    return float(torch.load("numpy.pth")["lr"])


def blocks_without_a_tokenizer():
    """The number of blocks of a text where gpt2 is not here."""
    import data

    return len(data.get_dataset("text", "train", block_size=16, num_proc=1))


def error_in_float32():
    """Of the uniform graph's score entropy at t = 0.001, its vocabulary gpt2's; relative."""
    import graph_lib

    torch.manual_seed(1)
    graph = graph_lib.Uniform(50257)
    x0, x = torch.randint(50257, (2, 1, 4))
    score, sigma = torch.randn(1, 4, 50257, dtype=torch.float64), torch.tensor([[1e-3]])
    exact = graph.score_entropy(score, sigma.double(), x, x0)
    return ((graph.score_entropy(score.float(), sigma, x, x0) - exact) / exact).abs().max().item()


def sample(script):
    """The number of texts of one of SEDD's two sampling programs."""
    import omegaconf
    from model import SEDD

    config = settings()
    SEDD(config).save_pretrained("local", config=omegaconf.OmegaConf.to_container(config))
    sys.argv[1:] = ["--model_path", "local", "--steps", "1", "--batch_size", "2"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        importlib.import_module(script).main()
    return printed.getvalue().count("=" * 49)


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:  # what fails, and how, is what this program reports
        return f"{type(error).__name__}: {error}"


def main(clone):
    sys.path.insert(0, clone)
    tree = sedd_host.Host(Path(clone), "sedd", None)
    found = {"import_model": outcome(import_model)}
    tree.apply(remedy for remedy in remedies.BEFORE if remedy.name == "torchvision's operators")
    found["blocks_without_a_tokenizer"] = outcome(blocks_without_a_tokenizer)
    os.rename("tokenizer", "gpt2")  # where SEDD's programs find it
    for function in (log_scores, save_pretrained, numpy_number, error_in_float32, train):
        found[function.__name__] = outcome(function)
    found["resume"] = outcome(train)
    for script in ("run_sample", "run_sample_cond"):
        found[script] = outcome(sample, script)
    Path("found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])


# the tests -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(checkouts, tmp_path_factory):
    """{"clean", "patched": what the program found in such a clone}"""
    _, root = checkouts["sedd"]
    if not root:
        pytest.skip("SEDD_ROOT names no checkout of SEDD")
    folder, outcomes = tmp_path_factory.mktemp("clones"), {}
    for state in ("clean", "patched"):
        clone, work = folder / state, folder / f"{state}-work"
        subprocess.run(["git", "clone", "-q", root, clone], check=True)
        checkout = ["git", "-C", clone, "-c", "advice.detachedHead=false", "checkout", "-q"]
        subprocess.run([*checkout, COMMIT], check=True)
        if state == "patched":
            script = REPOSITORY / "patches" / "apply.py"
            subprocess.run([sys.executable, script, clone], check=True, capture_output=True)
        work.mkdir()
        shutil.copytree(TOKENIZER, work / "tokenizer")
        (work / "text").mkdir()
        (work / "text" / "train.txt").write_text("we the people of the united states\n" * 9)
        environment = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment |= {"HF_HOME": str(work / "home")}
        done = subprocess.run(
            [sys.executable, __file__, clone],
            cwd=work,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        outcomes[state] = json.loads((work / "found.json").read_text())
    return outcomes


def test_attention_without_flash_attn(found):
    clean, patched = (found[state] for state in ("clean", "patched"))
    assert clean["import_model"] == "ModuleNotFoundError: No module named 'flash_attn'"
    assert patched["import_model"] is None
    assert torch.tensor(clean["log_scores"]).std() > 1
    torch.testing.assert_close(*(torch.tensor(s["log_scores"]) for s in (patched, clean)))


START = "Starting training loop at step"
DEFECTS = {
    "save_pretrained": ("TypeError: SEDD.__init__() missing 1 required positional argument", 16),
    "numpy_number": ("UnpicklingError: Weights only load failed", 5e-4),
    "train": ("AssertionError: Process group cannot be None", f"{START} 0."),
    "resume": ("AssertionError: Process group cannot be None", f"{START} 3."),
    "blocks_without_a_tokenizer": (0, "ValueError: the tokenizer 'gpt2' has no vocabulary"),
    "run_sample": ("FileNotFoundError: ", 2),
    "run_sample_cond": ("AssertionError: Torch not compiled with CUDA enabled", 2),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_gone(found, name):
    for state, wanted in zip(("clean", "patched"), DEFECTS[name], strict=True):
        outcome = found[state][name]
        if isinstance(wanted, str):
            assert isinstance(outcome, str) and outcome.startswith(wanted), state
        else:
            assert outcome == wanted, state


def test_score_entropy_of_the_uniform_graph_has_its_digits(found):
    assert found["clean"]["error_in_float32"] > 0.5
    assert found["patched"]["error_in_float32"] < 1e-5
