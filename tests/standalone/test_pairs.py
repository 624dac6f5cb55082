"""hosting.pairs: in every loss of Duo's classes the networks see given tokens as they are."""

import omegaconf
import pytest
import torch

from duo_ext.hosting import pairs

V, B, L = 8, 6, 16
ALGORITHMS = {
    "mdlm": (),
    "sedd": (),
    "duo_base": (),
    "duo": ("algo.curriculum_end=5",),
    "distillation": (),
    "sdtt": (),
}


@pytest.fixture
def batch():
    torch.manual_seed(3)
    x0_BL = torch.randint(V, (B, L))
    return x0_BL, torch.arange(L) < torch.randint(1, L, (B, 1))


def inputs_of(model, x0_BL, given_BL):
    """(what the networks see in a loss, as probabilities of tokens (B, L, V); the loss)."""
    seen, forward = [], type(model.backbone).forward

    def seeing(backbone, x, *others, **more):
        tokens = x.softmax(-1) if x.ndim == 3 else torch.nn.functional.one_hot(x, 9).float()
        seen.append(tokens)
        return forward(backbone, x, *others, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(model.backbone), "forward", seeing)
        torch.manual_seed(1)
        loss = model._loss(x0_BL, (~given_BL).long(), 0, train_mode=True).loss
    return seen, loss


@pytest.mark.parametrize("name", ALGORITHMS)
def test_given_tokens_are_seen_as_they_are(build, attach, batch, name):
    x0_BL, given_BL = batch
    model = build(name, V, *ALGORITHMS[name])
    with omegaconf.open_dict(model.config):
        model.config.data.pairs = {"prompt": "q", "completion": "a"}
    attach(model)
    if name in ("distillation", "sdtt"):
        model._refresh_teacher()
    seen, loss = inputs_of(model, x0_BL, given_BL)
    assert len(seen) == {"distillation": 2, "sdtt": 3}.get(name, 1) and loss.isfinite()
    for tokens in seen:
        wanted = torch.nn.functional.one_hot(x0_BL, tokens.shape[-1]).float()
        assert torch.equal(tokens[given_BL], wanted[given_BL])
        assert not torch.equal(tokens[~given_BL], wanted[~given_BL])
    changed = torch.where(given_BL, x0_BL, (x0_BL + 1) % V)
    assert not torch.equal(loss, inputs_of(model, changed, given_BL)[1])


@pytest.mark.parametrize("name", ["mdlm", "duo"])
def test_whole_texts_are_noised_as_the_host_does(build, attach, batch, name):
    """Without data.pairs an attention mask is the host's own matter."""
    x0_BL, given_BL = batch
    model = build(name, V, *ALGORITHMS[name])
    attach(model)
    [tokens], _ = inputs_of(model, x0_BL, given_BL)
    wanted = torch.nn.functional.one_hot(x0_BL, tokens.shape[-1]).float()
    assert not torch.equal(tokens[given_BL], wanted[given_BL])


def test_candidates_of_a_given_position_are_its_token():
    """Duo main's top-k form of soft tokens, whose weights add up to 1."""
    xt_BLk = torch.arange(12).view(1, 3, 4)
    x0_BL, given_BL = torch.tensor([[5, 6, 7]]), torch.tensor([[True, False, True]])
    assert pairs.clean(xt_BLk, x0_BL, given_BL).tolist() == [[[5] * 4, [4, 5, 6, 7], [7] * 4]]
