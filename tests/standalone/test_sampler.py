"""--sampler ancestral and the host's own: two samples of one distribution of whole texts."""

import pytest

from duo_ext import evaluate

TOKENS, LENGTH = 4, 3
PREDICTORS = {"mdlm": "ancestral_cache", "duo_base": "ancestral"}
WAYS = {
    "ancestral": {},
    "cold": {"temperature": 0.6},
    "none": {"noise_removal": "none"},
    "greedy": {"noise_removal": "greedy"},
    "nucleus": {"nucleus": 0.6},
}


@pytest.fixture
def subject(build, tiny):
    """A model over a few tokens, ready to sample."""
    from duo_ext.families import FAMILIES  # the host is active by now

    def make(name):
        predictor = f"sampling.predictor={PREDICTORS[name]}"
        small = (f"model.length={LENGTH}", "model.n_blocks=1", "sampling.use_float64=true")
        model = build(name, TOKENS, predictor, *small, seed=1).eval()
        family = FAMILIES["absorbing" if name == "mdlm" else "uniform"]
        process = family.noisings["categorical"](model)
        unused = dict.fromkeys(("role", "path", "algo", "sha256", "tokenizer", "data"))
        return evaluate.Subject(
            **unused, vocab_size=model.vocab_size, length=LENGTH, model=model,
            constructed=None, process=process, plain_predictor=PREDICTORS[name],
        )  # fmt: skip

    return make


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PREDICTORS)
def test_texts_have_the_law_of_the_hosts_sampler(subject, texts_drawn, same_law, name, way):
    model = subject(name)
    same_law(*(texts_drawn(model, sampler, **WAYS[way]) for sampler in ("host", "ancestral")))


@pytest.mark.parametrize("name", PREDICTORS)
def test_another_number_of_steps_is_another_law(subject, texts_drawn, same_law, name):
    """What the test above can see."""
    model = subject(name)
    with pytest.raises(AssertionError):
        same_law(
            *(texts_drawn(model, "ancestral", steps, noise_removal="none") for steps in (1, 2))
        )
