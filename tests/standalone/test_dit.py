"""The denoiser: soft inputs, attention, causality, precision, and the names of its weights."""

import math

import pytest
import torch

V = 7


@pytest.fixture
def dit(build):
    """``dit()`` is a DIT over 7 tokens and a mask in float64, ``dit("ar")`` the causal one."""

    def make(name="mdlm", *overrides):
        return build(name, V, *overrides).backbone.double().eval()

    return make


def tokens_and_noise(size=V + 1, batch=3, length=5):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(size, (batch, length), generator=generator)
    return tokens, torch.rand(batch, generator=generator, dtype=torch.float64)


def log_one_hot(tokens, size, dtype=torch.float64):
    return torch.nn.functional.one_hot(tokens, size).to(dtype).log()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_logarithm_of_a_one_hot_is_the_token(dit, dtype, tolerance):
    model, (x, sigma) = dit().to(dtype), tokens_and_noise()
    soft = log_one_hot(x, V + 1, dtype)
    torch.testing.assert_close(model(soft, sigma), model(x, sigma), rtol=0, atol=tolerance)


def test_a_soft_token_is_the_mean_embedding(dit):
    layer = dit().vocab_embed
    logits = torch.randn(2, 5, V + 1, dtype=torch.float64)
    mean = torch.einsum("blv,vd->bld", logits.exp() / logits.exp().sum(-1, True), layer.embedding)
    torch.testing.assert_close(layer(logits), mean, rtol=1e-13, atol=1e-13)
    shifted = layer(logits + 3.0)  # logits count up to a constant, as w / tau needs
    torch.testing.assert_close(shifted, mean, rtol=1e-13, atol=1e-13)


def test_weighted_tokens_are_the_soft_token_of_the_same_distribution(dit):
    model, (x, sigma) = dit(), tokens_and_noise()
    tokens = torch.stack([x, (x + 1) % V], -1)
    weights = torch.rand(3, 5, 2, dtype=torch.float64).softmax(-1)
    probs = torch.zeros(3, 5, V + 1, dtype=torch.float64).scatter(-1, tokens, weights)
    torch.testing.assert_close(model(tokens, sigma, weights=weights), model(probs.log(), sigma))


def test_a_soft_input_has_the_gradient_of_finite_differences(dit):
    model, sigma = dit("mdlm", "model.n_blocks=1"), torch.full((1,), 0.4).double()
    logits = (0.1 * torch.randn(1, 2, V + 1, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda soft: model(soft, sigma)[0, 0, :2], (logits,))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_its_formula_and_its_gradients(standalone, causal):
    attention = standalone.module("models").dit.attention
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    scores = torch.einsum("bhik,bhjk->bhij", q, k) / math.sqrt(4)
    if causal:
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    wanted = scores.softmax(-1) @ v
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    with torch.no_grad():
        without_graph = attention(q, k, v, causal)
    for result in (attention(q, k, v, causal), fused, without_graph):
        torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad((result * weight).sum(), (q, k, v))
        for result in (wanted, attention(q, k, v, causal), fused)
    ]
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0], rtol=1e-12, atol=1e-12)


def test_the_two_ways_of_attention_give_the_same_logits(dit):
    model, (x, sigma) = dit(), tokens_and_noise()
    with torch.no_grad():
        fused = model(x, sigma)
    torch.testing.assert_close(model(x, sigma), fused, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_is_given_its_layout(standalone, causal):
    """A stand-in that works on (B, L, H, K), as flash-attn does, gives what attention gives."""
    dit = standalone.module("models").dit

    def flash(q_BLHK, k_BLHK, v_BLHK, causal):
        assert q_BLHK.shape == (2, 5, 3, 4)
        scores = torch.einsum("blhk,bmhk->bhlm", q_BLHK, k_BLHK) / 2
        if causal:
            scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        return torch.einsum("bhlm,bmhk->blhk", scores.softmax(-1), v_BLHK)

    q, k, v = torch.randn(3, 2, 3, 5, 4, dtype=torch.float64).unbind()
    given = dit.in_flash_layout(flash, q, k, v, causal)
    torch.testing.assert_close(given, dit.attention(q, k, v, causal))


def reach(model, sigma):
    """Which positions of the output change when the token at position 2 of five does."""
    x, _ = tokens_and_noise(size=V, batch=1)
    y = x.clone()
    y[0, 2] = (x[0, 2] + 1) % V
    return (model(x, sigma) != model(y, sigma)).any(-1)[0].tolist()


def test_a_causal_denoiser_sees_the_past_alone(dit):
    assert reach(dit("ar"), None) == [False, False, True, True, True]


def test_a_denoiser_sees_both_sides(dit):
    assert reach(dit(), torch.zeros(1)) == [True] * 5


def test_attention_knows_distances_and_no_positions(standalone):
    rotary = standalone.module("models").dit.Rotary(8).double()
    rotate = standalone.module("models").dit.rotate
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).unbind()
    cos, sin = rotary(9)
    at = [rotate(x.expand(1, 1, 9, 8), cos, sin)[0, 0] for x in (q, k)]
    products = at[0] @ at[1].T
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0].std() > 0.1


def test_the_noise_level_is_seen(dit):
    model, (x, sigma) = dit(), tokens_and_noise()
    assert (model(x, sigma) - model(x, sigma + 0.5)).abs().amax((1, 2)).min() > 1e-3


def expected_weights(d, c, n, heads, size, causal=False):
    """The names and shapes of Duo's state dict, in its order."""
    yield "vocab_embed.embedding", (size, d)
    if not causal:
        yield "sigma_map.mlp.0.weight", (c, 256)
        yield "sigma_map.mlp.0.bias", (c,)
        yield "sigma_map.mlp.2.weight", (c, c)
        yield "sigma_map.mlp.2.bias", (c,)
    yield "rotary_emb.inv_freq", (d // heads // 2,)
    for i in range(n):
        yield f"blocks.{i}.norm1.weight", (d,)
        yield f"blocks.{i}.attn_qkv.weight", (3 * d, d)
        yield f"blocks.{i}.attn_out.weight", (d, d)
        yield f"blocks.{i}.norm2.weight", (d,)
        yield f"blocks.{i}.mlp.0.weight", (4 * d, d)
        yield f"blocks.{i}.mlp.0.bias", (4 * d,)
        yield f"blocks.{i}.mlp.2.weight", (d, 4 * d)
        yield f"blocks.{i}.mlp.2.bias", (d,)
        if not causal:
            yield f"blocks.{i}.adaLN_modulation.weight", (6 * d, c)
            yield f"blocks.{i}.adaLN_modulation.bias", (6 * d,)
    yield "output_layer.norm_final.weight", (d,)
    yield "output_layer.linear.weight", (size, d)
    yield "output_layer.linear.bias", (size,)
    if not causal:
        yield "output_layer.adaLN_modulation.weight", (2 * d, c)
        yield "output_layer.adaLN_modulation.bias", (2 * d,)


@pytest.mark.parametrize(("name", "size"), [("mdlm", V + 1), ("ar", V)])
def test_weights_have_the_names_shapes_and_order_of_duo(build, name, size):
    overrides = ("model.hidden_size=24", "model.cond_dim=10", "model.n_blocks=3", "model.n_heads=3")
    model = build(name, V, *overrides).backbone
    shapes = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    wanted = list(expected_weights(24, 10, 3, 3, size, causal=name == "ar"))
    assert shapes == wanted
    names = [key for key, _ in wanted if key != "rotary_emb.inv_freq"]
    assert [key for key, _ in model.named_parameters()] == names  # the order of an EMA's list


def test_logits_are_zero_before_training(standalone, composed):
    model = standalone.module("models").dit.DIT(composed("mdlm"), vocab_size=V)
    x, sigma = tokens_and_noise(size=V)
    assert (model(x, sigma.float()) == 0).all()


def test_precision_is_the_weights(dit):
    x, sigma = tokens_and_noise()
    for dtype in (torch.float64, torch.float32):
        model = dit().to(dtype)
        assert model(x, sigma).dtype == model(log_one_hot(x, V + 1), sigma).dtype == dtype
    exact, rounded = dit()(x, sigma), dit().float()(x, sigma)
    assert 0 < (exact - rounded).abs().max() < 1e-4


def test_dropout_acts_in_training_only(dit):
    model, (x, sigma) = dit("mdlm", "model.dropout=0.5"), tokens_and_noise()
    assert torch.equal(model(x, sigma), model(x, sigma))
    model.train()
    assert not torch.equal(model(x, sigma), model(x, sigma))


def test_class_conditions_are_refused(dit):
    with pytest.raises(ValueError, match="no class conditions"):
        dit()(*tokens_and_noise(), class_cond=torch.zeros(3))
