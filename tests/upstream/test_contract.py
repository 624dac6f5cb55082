"""Every host computes the same: logits, likelihoods, samples, and a distillation of five pairs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

CONTRACT = Path(__file__).with_name("contract.py")


@pytest.fixture(scope="session")
def work(tmp_path_factory, tiny, standalone):
    """A folder with the text and with checkpoints of random weights."""
    folder = tmp_path_factory.mktemp("contract")
    (folder / "text").mkdir()
    line = "we the people of the united states, in order to form a more perfect union, "
    (folder / "text" / "train.txt").write_text("\n".join(line * 3 for _ in range(8)) + "\n")
    (folder / "text" / "validation.txt").write_text(line * 6 + "\n")
    tokenizer = standalone.module("dataloader").get_tokenizer(tiny())
    for seed, name in enumerate(("mdlm", "duo_base", "sedd")):
        sampler = ["sampling.predictor=analytic"] if name == "sedd" else []
        model = standalone.module("main").ALGORITHMS[name](
            tiny(f"algo={name}", *sampler), tokenizer
        )
        torch.manual_seed(seed)
        for parameter in model.backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        torch.save({"state_dict": model.state_dict()}, folder / f"{name}.ckpt")
    return folder


@pytest.fixture(scope="session")
def computed(work):
    """``computed(tree)`` is what contract.py finds in a host, once for each."""
    known = {}

    def compute(tree):
        if tree.name not in known:
            output = work / f"{tree.name}.pt"
            command = [sys.executable, str(CONTRACT), str(tree.root), str(work), str(output)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            known[tree.name] = torch.load(output, weights_only=True)
        return known[tree.name]

    return compute


@pytest.fixture
def pair(computed, checkout, standalone):
    """What the checkout computes and what the standalone tree does."""
    return computed(checkout), computed(standalone)


@pytest.mark.parametrize("algo", ["mdlm", "duo_base", "sedd"])
def test_one_state_dict_gives_the_same_logits(pair, algo):
    theirs, ours = (found[f"logits {algo}"] for found in pair)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("algo", ["mdlm", "duo_base", "sedd"])
def test_one_batch_has_the_same_likelihood(pair, algo):
    theirs, ours = (found[f"nll {algo}"] for found in pair)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=0)


def test_one_seed_gives_the_same_samples(pair):
    """Where the samplers coincide: ch-1 draws masked tokens in float32, main in float64 alone."""
    theirs, ours = pair
    names = {name for name in theirs if name.startswith("samples")} & ours.keys()
    if "samples mdlm greedy in float32" in theirs:
        names -= {"samples mdlm ancestral", "samples mdlm greedy"}
    assert len(names) >= 5
    for name in sorted(names):
        assert torch.equal(theirs[name], ours[name]), name


@pytest.mark.parametrize(
    "run", ["idlm_mdlm", "idlm categorical", "idlm posterior", "idlm gaussian"]
)
def test_one_teacher_gives_the_same_distillation(pair, run):
    (losses, student), (our_losses, our_student) = (found[f"distil {run}"] for found in pair)
    assert len(losses) == 12
    torch.testing.assert_close(losses, our_losses, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(student, our_student, rtol=1e-4, atol=1e-4)


def test_a_validation_amid_a_distillation_is_of_the_average_and_changes_nothing(pair):
    for found in pair:
        losses, from_average, from_raw = found["validated"]
        assert len(from_average) >= 12 and from_average.max() == 0 and from_raw[-1] > 1e-4
        torch.testing.assert_close(losses, found["distil idlm categorical"][0])
