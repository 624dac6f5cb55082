"""benchmarks.seeded: where tokens stand in the place of masks, in training and in the sampler."""

import pytest
import torch

import duo_ext.__main__
from benchmarks import seeded
from duo_ext.core import rollout
from duo_ext.core.absorbing import AbsorbingProcess

V, B, L = 6, 400, 16
MASK = V - 1


@pytest.fixture
def batch():
    """Tokens 0 and 1 alone, so that others are the network's; the first two are given."""
    torch.manual_seed(0)
    given = torch.zeros(B, L, dtype=torch.bool)
    given[:, :2] = True
    return torch.randint(0, 2, (B, L)), given


@pytest.fixture
def mdlm(standalone, monkeypatch):
    """The host's class, whose sampler is put back behind the test."""
    found = standalone.module("algo").MDLM
    monkeypatch.setattr(found, "prior_sample", found.prior_sample)
    return found


def share(z, given):
    """How many of the positions that are not given have no mask."""
    return (z != MASK)[~given].double().mean().item()


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.9])
def test_an_input_has_seeds_among_its_masks(batch, alpha):
    """A share SHARE (1 - 2 alpha) of the masks, none from alpha = 1/2 on."""
    x0, given = batch
    process = seeded.seeded(AbsorbingProcess(V, MASK))
    z = process.corrupt(x0, torch.full((B,), alpha, dtype=torch.float64), given)
    assert torch.equal(z[given], x0[given]) and z[z != MASK].max() < 2
    expected = 1 - (1 - alpha) * (1 - seeded.SHARE * max(1 - 2 * alpha, 0))
    assert share(z, given) == pytest.approx(expected, abs=0.015)
    if alpha >= 0.5:
        assert torch.equal(z[z != MASK], x0[z != MASK])


def test_seeds_stay_in_a_rollout(batch, toy, monkeypatch):
    x0, given = batch
    process = seeded.seeded(AbsorbingProcess(V, MASK))
    priors, prior = [], process.prior

    def watched(*arguments):
        priors.append(prior(*arguments))
        return priors[-1].clone()

    monkeypatch.setattr(process, "prior", watched)
    z, _ = rollout.states(process, toy(V, L), x0, given)
    kept = priors[0] != MASK
    assert torch.equal(priors[0][given], x0[given])
    assert share(priors[0], given) == pytest.approx(seeded.SHARE, abs=0.015)
    assert torch.equal(z[kept], priors[0][kept]) and (z != MASK).sum() > kept.sum()


def test_the_hosts_sampler_keeps_seeds(mdlm, standalone, tiny, tokenizer):
    seeded.activate(standalone.root)
    model = mdlm(tiny("algo=mdlm"), tokenizer)
    priors, prior = [], model.prior_sample
    model.prior_sample = lambda *shape: priors.append(prior(*shape)) or priors[-1]
    samples = model.generate_samples(B, num_steps=2)
    kept = priors[0] != model.mask_index
    assert kept.double().mean().item() == pytest.approx(seeded.SHARE, abs=0.015)
    assert torch.equal(samples[kept], priors[0][kept])
    text = seeded.text(model)
    assert set(priors[0][kept].tolist()) <= set(text.tolist()) < set(range(32))


@pytest.mark.usefixtures("mdlm")
def test_it_is_for_masks_alone(teacher, monkeypatch, tmp_path):
    """Neither a uniform process nor a sampler that starts elsewhere goes on without it."""
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    given = ("--samples", "2", "--steps", "1", "--output", f"{tmp_path}/out", "--student")
    with pytest.raises(SystemExit, match="error: the seeded prior is one of masks; it takes MDLM"):
        seeded.main([*given, teacher("duo_base")])
    with pytest.raises(
        SystemExit, match="error: --sampler is 'ancestral'; the seeded prior is in the"
    ):
        seeded.main([*given, teacher("mdlm"), "--sampler", "ancestral"])
    product = AbsorbingProcess(V, MASK, on_policy=0.5)
    assert seeded.seeded(product).on_policy == 0.5
