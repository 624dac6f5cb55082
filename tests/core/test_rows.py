"""Sums over rows and samples of rows, however many are taken at once."""

from dataclasses import replace

import pytest
import torch

from duo_ext.core import rows

V, R = 700, 23
DEVICE = torch.get_default_device().type


@pytest.fixture
def head(toy):
    network = toy(V, 4, width=5)
    features = torch.randn(R, 5, dtype=torch.float64, requires_grad=True)
    return rows.Head(network, features)


def loss(logits, other_logits, weight_R):
    return weight_R * (logits.log_softmax(-1) * other_logits.softmax(-1)).sum(-1)


@pytest.fixture(params=[(1, 1), (3, 2), (1000, 4), (1000, 1000)], ids=str)
def at_once(request, monkeypatch):
    """Rows of a chunk and of a piece."""
    for sizes, count in zip((rows.CHUNK, rows.PIECE), request.param, strict=True):
        monkeypatch.setitem(sizes, DEVICE, V * count)


def test_total_is_the_loss_of_all_rows(head, at_once):
    """Values, and gradients of features, weights and plain inputs, shared by two terms."""
    logits = torch.randn(R, V, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(R, dtype=torch.float64, requires_grad=True)
    inputs = [head.features, *head.parameters, logits, weight]
    term = rows.Term(loss, (logits, head, weight))
    found = rows.total(term, rows.Term(loss, (head, logits, weight)))
    whole = head.network.head(head.features)
    wanted = (loss(logits, whole, weight) + loss(whole, logits, weight)).sum()
    torch.testing.assert_close(found, wanted)
    gradients = (torch.autograd.grad(3 * value, inputs) for value in (found, wanted))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_only_inputs_that_a_gradient_replaces_are_copied():
    read, replaced = (torch.randn(R, V, dtype=torch.float64) for _ in range(2))
    before = replaced.clone()

    def form(read_RV, replaced_RV):
        assert read_RV.untyped_storage().data_ptr() == read.untyped_storage().data_ptr()
        replaced_RV.zero_()
        return read_RV[:, 0], torch.ones(len(read_RV))

    total = rows.total(rows.Term(form, (read, replaced), of=(1,)))
    torch.testing.assert_close(total, read[:, 0].sum())
    assert replaced.equal(before)


def test_a_fixed_head_gets_no_gradient(head):
    fixed = rows.Head(head.network, head.features.detach())
    term = rows.Term(lambda a, b: (a * b).sum(-1), (head, fixed))
    other = torch.autograd.grad(rows.total(term), head.parameters)
    whole = head.network.head(head.features)
    wanted = torch.autograd.grad((whole * whole.detach()).sum(), head.parameters)
    torch.testing.assert_close(other, wanted)


def test_no_rows_are_zero(head):
    none = rows.Head(head.network, head.features[:0])
    total = rows.total(rows.Term(lambda a: a.sum(-1), (none,)))
    assert total == 0
    total.backward()
    assert (head.parameters[0].grad == 0).all()
    assert rows.sample(none, torch.exp, rows.uniforms(0, DEVICE)).shape == (0,)


def test_no_gradients_are_formed_where_none_is_wanted(head):
    head.network.head_backward = None
    with torch.no_grad():
        assert not rows.total(rows.Term(lambda a: a.sum(-1), (head,))).requires_grad


def test_a_second_backward_pass_is_refused(head):
    total = rows.total(rows.Term(lambda a: a.sum(-1), (head,)))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        total.backward()


def test_chunks_and_pieces_cover_the_rows_and_hold_no_more_than_allowed(head, at_once):
    values = head.network.head(head.features)
    for parts, most in ((rows.chunks(head), rows.CHUNK), (rows.pieces(values), rows.PIECE)):
        assert [i for part in parts for i in range(R)[part]] == list(range(R))
        assert max(part.stop - part.start for part in parts) * V <= most[DEVICE]


def test_inputs_are_left_as_they_were(head, at_once):
    """Gradients take the place of logits, not of a tensor that is given."""
    logits = torch.randn(R, V, dtype=torch.float64, requires_grad=True)
    before = logits.detach().clone()
    weight = torch.randn(R, dtype=torch.float64)
    rows.total(rows.Term(loss, (logits, head, weight))).backward()
    assert torch.equal(logits, before)


def test_an_autocast_around_reaches_neither_products_nor_loss(head):
    network = head.network
    network.backbone.float()
    features = head.features.detach().float().requires_grad_()
    found = []
    for enabled in (True, False):
        with torch.autocast(DEVICE, torch.bfloat16, enabled):
            term = rows.Term(
                lambda logits: (logits @ logits.T).diag(), (replace(head, features=features),)
            )
            total = rows.total(term)
        found.append([total, *torch.autograd.grad(total, [features, head.parameters[0]])])
    for inside, outside in zip(*found, strict=True):
        assert inside.dtype == torch.float32 and torch.equal(inside, outside)


# samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 255, 256, 257, 700])
def test_tokens_invert_the_cumulated_probabilities(size):
    """Token i for u just above the sum of the tokens before it, up to just below the next."""
    probs = torch.rand(size, dtype=torch.float64)
    probs[::3] = 0.0
    probs[-1] = 0.5
    edges = torch.cat([torch.zeros(1), probs.cumsum(-1)]).double() / probs.sum()
    present = probs.nonzero()[:, 0]
    for u in (edges[:-1] + 1e-9, edges[1:] - 1e-9):
        found = rows.sample_tokens((7 * probs).expand(len(present), -1), u[present])
        assert torch.equal(found, present)


def test_ends_of_the_unit_interval_give_tokens_that_exist():
    probs = torch.zeros(2, 600)
    probs[:, 300:303] = 0.1
    u = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert rows.sample_tokens(probs, u).tolist() == [300, 302]


def test_rare_tokens_are_drawn_as_often_as_they_should():
    """In float32, of a vocabulary whose probabilities span ten decades."""
    probs = torch.full((V,), 1e-7)
    probs[0] = 1.0
    torch.manual_seed(0)
    u = 1 - 1e-4 * torch.rand(100_000, dtype=torch.float64)  # the upper tail alone
    share = (rows.sample_tokens(probs.expand(len(u), V), u) > 0).double().mean()
    assert abs(share - 1e-7 * (V - 1) / (1 + 1e-7 * (V - 1)) / 1e-4) < 0.01


def test_what_is_not_a_number_gives_some_token():
    probs = torch.full((2, 600), float("nan"))
    assert (rows.sample_tokens(probs, torch.tensor([0.0, 0.9]).double()) < 600).all()


def test_samples_of_a_head_do_not_depend_on_the_chunks(head, at_once):
    u = torch.linspace(0, 0.999, R, dtype=torch.float64)
    found = rows.sample(head, lambda logits: logits.softmax(-1), u)
    probs = head.network.head(head.features).softmax(-1)
    assert torch.equal(found, rows.sample_tokens(probs, u))
