"""One draw from each row of probabilities."""

import torch


def test_frequencies_are_the_probabilities(sedd, frequencies_match):
    torch.manual_seed(0)
    for probs in (torch.tensor([0.1, 0.0, 0.6, 0.3]), torch.tensor([0.2, 0.0, 1.2, 0.6]).double()):
        drawn = sedd.catsample.sample_categorical(probs.expand(4, 5000, 4))
        assert drawn.shape == (4, 5000)
        frequencies_match(drawn.flatten().bincount(minlength=4), probs / probs.sum())


def test_what_is_negative_is_never_drawn(sedd):
    """The Euler step's own probability, 1 - the rates, may be."""
    drawn = sedd.catsample.sample_categorical(torch.tensor([-0.5, 0.9, 0.6]).expand(5000, 3))
    assert set(drawn.tolist()) == {1, 2}


def test_the_draw_has_the_precision_of_the_probabilities(sedd, monkeypatch):
    """The least exponential of float32 is 6e-8, of float64 1e-16: rarer tokens than that never win.
    Also where U is 0."""
    for dtype in (torch.float32, torch.float64):
        seen = []

        def rand_like(probs, seen=seen):
            seen.append((probs.shape, probs.dtype))
            return torch.zeros_like(probs)

        monkeypatch.setattr(torch, "rand_like", rand_like)
        drawn = sedd.catsample.sample_categorical(torch.tensor([[0.2, 0.5, 0.3]], dtype=dtype))
        assert seen == [((1, 3), dtype)] and drawn.tolist() == [1]
