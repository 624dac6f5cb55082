"""duo_ext.metrics against plain loops, and the judge against its own log-probabilities."""

import importlib
import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from duo_ext.metrics import (
    Judge,
    Reference,
    bigram_tv,
    distinct_n,
    gen_ppl,
    mauve,
    measure,
    sample_entropy,
    unigram_kl,
)

WORDS = ["<eos>", "<bos>", "<unk>", *"abcdef"]
CONTEXT = 12
# text -> number of predicted tokens: not the first, not an EOS after the first EOS.
TEXTS = {
    "a b c d": 3,
    "a <eos> b <eos> c <eos>": 3,
    "<eos> a b <eos>": 2,
    "<eos> <eos> <eos>": 0,
    "f": 0,
    "": 0,
    "b zz c": 2,
    " ".join("abcdef"[n * n % 6] for n in range(40)): CONTEXT - 1,
}


def save_tokenizer(folder, eos="<eos>"):
    """A word tokenizer that begins every text with <bos> unless told not to."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<bos>", eos_token=eos
    ).save_pretrained(folder)


def save_model(folder, dtype=torch.float32):
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2,
        initializer_range=0.5, bos_token_id=1, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).to(dtype).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tiny-judge"
    save_tokenizer(folder)
    save_model(folder)
    return folder


def plain_nll(model, text, eos=0):
    """The convention of ``Judge.nll`` for one text, token by token."""
    ids = [WORDS.index(word) if word in WORDS else 2 for word in text.split()][:CONTEXT]
    total, count, seen = 0.0, 0, ids[:1] == [eos]
    for position in range(1, len(ids)):
        if ids[position] == eos and seen:
            continue
        seen = seen or ids[position] == eos
        logits = model(torch.tensor([ids[:position]])).logits[0, -1]
        total -= logits.double().log_softmax(-1)[ids[position]].item()
        count += 1
    return total, count


@torch.no_grad()
def test_nll_is_the_sum_of_token_log_probabilities(folder):
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    nll_N, tokens_N = Judge(str(folder), "cpu").nll(list(TEXTS))
    expected = [plain_nll(model, text) for text in TEXTS]
    assert tokens_N.tolist() == list(TEXTS.values()) == [count for _, count in expected]
    np.testing.assert_allclose(nll_N, [total for total, _ in expected], rtol=1e-5)
    assert nll_N.dtype == np.float64


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_nll_does_not_depend_on_the_batch(folder, batch_size):
    texts = list(TEXTS)
    alone = [Judge(str(folder), "cpu", batch_size=1).nll([text]) for text in texts]
    nll_N, tokens_N = Judge(str(folder), "cpu", batch_size).nll(texts)
    np.testing.assert_allclose(nll_N, [nll[0] for nll, _ in alone], rtol=1e-5)
    assert tokens_N.tolist() == [tokens[0] for _, tokens in alone]


def test_a_judge_whose_texts_start_with_bos_gives_one_to_those_that_lack_it(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"starts_with_bos": True}))
    judge = Judge(str(folder), "cpu")
    (nll, other, *_), tokens = judge.nll(["<bos> a b", "a b", "", "a b c d e f a b c d e f"])
    assert nll == other > 0 and list(tokens) == [2, 2, 0, CONTEXT - 1]
    plain = Judge(str(folder), "cpu")
    plain.start = []
    assert plain.nll(["a b"])[0] != other


def test_without_an_eos_token_every_token_counts(folder):
    save_tokenizer(folder, eos=None)
    assert Judge(str(folder), "cpu").nll(["a <eos> b <eos> c <eos>"])[1].tolist() == [5]


@torch.no_grad()
def test_features_are_the_last_layer_at_a_texts_last_token(folder):
    """Whatever the batch; none for a text of one token, which is not scored."""
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    first, _, other = Judge(str(folder), "cpu").score(["a b", "a", "b a c d"]).features_ND
    for found, text in ((first, "a b"), (other, "b a c d")):
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        hidden = model(ids, output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(found, hidden[0, -1].numpy(), rtol=1e-5, atol=1e-6)


def test_mauve_is_high_for_the_same_texts_and_low_for_others():
    pytest.importorskip("mauve", reason="mauve-text is not installed")
    rng = np.random.default_rng(0)
    same, again = rng.normal(size=(2, 200, 8)).astype(np.float32)
    assert mauve(same, again, seed=1) > 0.9 > 0.1 > mauve(same + 4, again, seed=1)


def test_without_mauve_text_there_is_no_mauve(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert mauve(np.zeros((2, 2)), np.zeros((2, 2)), seed=1) is None


def test_no_text_is_no_score(folder):
    nll_N, tokens_N = Judge(str(folder), "cpu").nll([])
    assert nll_N.shape == tokens_N.shape == (0,)


def test_judge_is_named_by_its_directory_and_runs_in_float32(folder):
    save_model(folder, torch.bfloat16)
    judge = Judge(f"{folder}/", "cpu")
    assert judge.name == "tiny-judge"
    assert {p.dtype for p in judge.model.parameters()} == {torch.float32}
    assert not judge.model.training


def remove(name):
    return lambda folder: (folder / name).unlink()


def pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_the_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: folder.rename(folder.with_name("elsewhere")),
        remove("config.json"),
        remove("model.safetensors"),
        remove("tokenizer.json"),
        pickle_weights,
        drop_a_weight,
        cut_the_weights,
    ],
    ids=["folder", "config", "weights", "tokenizer", "pickle", "a weight", "cut"],
)
def test_a_judge_that_does_not_load_is_one_clear_sentence(folder, damage):
    damage(folder)
    with pytest.raises(ValueError) as caught:
        Judge(str(folder), "cpu", key="eval.judge")
    message = str(caught.value)
    assert message.startswith(f"eval.judge is '{folder}'; it must be")
    assert "model.safetensors" in message and "\n" not in message


def config_of(name, **own):
    """A tiny model of any architecture over the judge's words."""
    small = {
        "vocab_size": len(WORDS),
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 32, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": None},
    }
    return transformers.AutoConfig.for_model(name, **(small | own))


LONG = {"max_position_embeddings": CONTEXT}
DECODER = {**LONG, "is_decoder": True, "pad_token_id": 2}
# name: (its configuration, its context or None for any, the width of what reaches its head)
JUDGES = {
    "gpt_neox": (config_of("gpt_neox", **LONG), CONTEXT, 16),
    "opt": (config_of("opt", **LONG, ffn_dim=32, word_embed_proj_dim=8), CONTEXT, 8),
    "llama": (config_of("llama", **LONG), CONTEXT, 16),
    "gemma": (config_of("gemma2", **LONG, num_key_value_heads=1, head_dim=8), CONTEXT, 16),
    "bloom": (config_of("bloom"), None, 16),
    "mpt": (config_of("mpt", max_seq_len=CONTEXT, d_model=16, n_heads=2, n_layers=2), CONTEXT, 16),
    "mamba": (config_of("mamba", state_size=4), None, 16),
    "recurrent_gemma": (config_of("recurrent_gemma", lru_width=16), None, 16),
    "roberta": (config_of("roberta", **DECODER), CONTEXT - 3, 16),  # positions start behind the pad
    "bart": (config_of("bart", **LONG, decoder_layers=1, d_model=16), CONTEXT, 16),
    "electra": (config_of("electra", **DECODER, embedding_size=8), CONTEXT, 8),
    "ctrl": (config_of("ctrl", n_positions=CONTEXT, n_embd=16, n_head=2, dff=32), CONTEXT, 16),
}


def save_architecture(folder, config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


@pytest.mark.parametrize("name", JUDGES)
def test_every_causal_architecture_judges(folder, name):
    """Its score of a text is alone what it is in a batch; a text is cut at what it can read."""
    config, context, width = JUDGES[name]
    save_architecture(folder, config)
    judge = Judge(str(folder), "cpu")
    given = ["a b c d", " ".join("abcdef"[n * n % 6] for n in range(40)), "b <eos> c"]
    scores = judge.score(given)
    assert scores.tokens_N.tolist() == [3, (context or 40) - 1, 2]
    assert scores.features_ND.shape == (3, width) and (scores.nll_N > 0.5).all()
    for n, text in enumerate(given):
        alone = judge.score([text])
        np.testing.assert_allclose(alone.nll_N[0], scores.nll_N[n], rtol=1e-4)
        np.testing.assert_allclose(alone.features_ND[0], scores.features_ND[n], atol=1e-4)


ENCODER = {**LONG, "pad_token_id": 2}
ODD = {
    "bert": (config_of("bert", **ENCODER), "what it says of a token depends on the tokens behind"),
    "xlnet": (
        config_of("xlnet", d_model=16, n_layer=2, n_head=2, d_inner=32),
        "what it says of a token depends on the tokens behind",
    ),
    "few": (config_of("llama", vocab_size=5), "its tokenizer has 9 ids, its model 5"),
    "bos": (
        config_of("llama", starts_with_bos=True, bos_token_id=None),
        "it starts_with_bos, but its bos_token_id is None",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_judge_that_cannot_judge_is_refused_when_it_is_loaded(folder, name):
    config, sentence = ODD[name]
    save_architecture(folder, config)
    with pytest.raises(ValueError, match=rf"^--judge is '{folder}': {sentence}"):
        Judge(str(folder), "cpu", key="--judge")


def test_a_judge_whose_scores_are_not_finite_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.ln_f.bias"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its probabilities are not finite"):
        Judge(str(folder), "cpu")


def test_a_judge_without_a_tokenizer_is_refused_when_it_is_loaded(folder):
    """transformers makes an empty one of config.json."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"key is .* model.safetensors.*vocabulary is empty"):
        Judge(str(folder), "cpu", key="key")


def test_gen_ppl_is_weighted_by_tokens_and_repeats_by_seed():
    nll_N, tokens_N = np.array([10.0, 1.0, 0.0, 7.0]), np.array([5, 1, 0, 2])
    ppl = gen_ppl(nll_N, tokens_N, seed=3)
    assert ppl.value == pytest.approx(math.exp(18 / 8), rel=1e-12)
    assert ppl.low < ppl.value < ppl.high
    assert ppl == gen_ppl(nll_N, tokens_N, seed=3)
    many = np.random.default_rng(0).gamma(4.0, size=(2, 50))
    assert gen_ppl(*many, seed=3)[1:] != gen_ppl(*many, seed=4)[1:]


def test_gen_ppl_of_nothing_is_nan():
    assert all(math.isnan(x) for x in gen_ppl(np.zeros(3), np.zeros(3), seed=0))
    assert all(math.isnan(x) for x in gen_ppl(np.zeros(0), np.zeros(0), seed=0))
    assert math.isfinite(gen_ppl(np.array([0.0, 2.0]), np.array([0, 1]), seed=0).high)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    rng, covered, widths, rounds = np.random.default_rng(0), 0, [], 300
    for seed in range(rounds):
        tokens_N = rng.integers(5, 40, size=80)
        nll_N = tokens_N * rng.gamma(9.0, 1 / 3, size=80)  # mean 3 nats a token
        ppl = gen_ppl(nll_N, tokens_N, seed, resamples=300)
        covered += ppl.low <= math.exp(3.0) <= ppl.high
        mean = nll_N.sum() / tokens_N.sum()
        error = (nll_N - mean * tokens_N).std() * 80**0.5 / tokens_N.sum()  # delta method
        widths.append(math.log(ppl.high / ppl.low) / (2 * 1.96 * error))
    assert 0.90 <= covered / rounds <= 0.985
    assert np.mean(widths) == pytest.approx(1.0, abs=0.05)


TOKENS = st.integers(1, 4).flatmap(
    lambda n: st.integers(4, 7).flatmap(
        lambda length: arrays(np.int64, (n, length), elements=st.integers(0, 4))
    )
)


def ngrams(tokens_NL, n):
    return [tuple(row[i : i + n]) for row in tokens_NL.tolist() for i in range(len(row) - n + 1)]


@settings(max_examples=60, deadline=None)
@given(TOKENS, TOKENS)
def test_statistics_equal_plain_loops(tokens_NL, held_out_NL):
    V, N = 5, len(tokens_NL)
    reference = Reference(torch.from_numpy(held_out_NL), V)

    entropy = 0.0
    for row in tokens_NL.tolist():
        entropy -= sum(c / len(row) * math.log(c / len(row)) for c in Counter(row).values()) / N
    assert sample_entropy(tokens_NL) == pytest.approx(entropy, abs=1e-12)

    p, q = Counter(ngrams(tokens_NL, 1)), Counter(ngrams(held_out_NL, 1))
    kl = sum(
        c / p.total() * math.log(c / p.total() / ((q[g] + 1) / (q.total() + V)))
        for g, c in p.items()
    )
    assert unigram_kl(tokens_NL, reference) == pytest.approx(kl, abs=1e-12)
    assert reference.unigram_V.sum() == pytest.approx(1.0)

    p, q = Counter(ngrams(tokens_NL, 2)), Counter(ngrams(held_out_NL, 2))
    tv = sum(abs(p[i, j] / p.total() - q[i, j] / q.total()) for i in range(V) for j in range(V))
    assert bigram_tv(tokens_NL, reference) == pytest.approx(tv / 2, abs=1e-12)

    for n in (1, 2, 3, 4):
        grams = ngrams(tokens_NL, n)
        assert distinct_n(tokens_NL, n) == len(set(grams)) / len(grams)
        assert distinct_n(torch.from_numpy(tokens_NL), n) == len(set(grams)) / len(grams)


def test_bigrams_of_a_large_vocabulary_are_sparse_and_do_not_overflow():
    V = 50258
    tokens_NL = np.array([[V - 1, V - 2, V - 1, V - 2]], dtype=np.int32)
    reference = Reference(tokens_NL, V)
    codes, shares = reference.bigrams
    assert codes.tolist() == [(V - 2) * V + V - 1, (V - 1) * V + V - 2]
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3])
    assert bigram_tv(tokens_NL, reference) == 0
    assert bigram_tv(np.array([[0, 1, 2]]), reference) == pytest.approx(1.0)


def test_tokens_outside_the_vocabulary_are_refused():
    reference = Reference([[0, 1, 2]], 3)
    for statistic in (unigram_kl, bigram_tv):
        with pytest.raises(ValueError, match=r"between 0 and 3; the vocabulary has 0 to 2"):
            statistic([[0, 3]], reference)
    with pytest.raises(ValueError, match="between -1 and 2"):
        Reference([[-1, 2]], 3)


def test_samples_too_short_for_an_ngram_are_refused():
    with pytest.raises(ValueError, match="samples have 3 tokens; at least 4 are needed"):
        distinct_n([[0, 1, 2]], 4)
    with pytest.raises(ValueError, match="at least 2"):
        bigram_tv([[0]], Reference([[0, 1]], 2))


def test_measure_is_its_parts(folder):
    rng = np.random.default_rng(0)
    tokens_NL = torch.from_numpy(rng.integers(0, len(WORDS), size=(6, 10)))
    reference = Reference(rng.integers(0, len(WORDS), size=(6, 10)), len(WORDS))
    texts = [" ".join(WORDS[token] for token in row) for row in tokens_NL.tolist()]
    judge = Judge(str(folder), "cpu")
    ppl = gen_ppl(*judge.nll(texts), seed=5)
    measured = measure(tokens_NL, judge.score(texts), reference, seed=5)
    assert measured == {
        "genppl": ppl.value,
        "genppl_low": ppl.low,
        "genppl_high": ppl.high,
        "entropy": sample_entropy(tokens_NL),
        "unigram_kl": unigram_kl(tokens_NL, reference),
        "bigram_tv": bigram_tv(tokens_NL, reference),
        "distinct_2": distinct_n(tokens_NL, 2),
        "distinct_3": distinct_n(tokens_NL, 3),
        "distinct_4": distinct_n(tokens_NL, 4),
    }
    assert all(type(value) is float for value in measured.values())
    assert json.loads(json.dumps(measured)) == measured


def test_metrics_and_report_import_no_host_and_nothing_heavy():
    heavy = "{'hydra', 'lightning', 'pytorch_lightning', 'transformers', 'matplotlib'}"
    program = f"import sys, duo_ext.metrics, duo_ext.report; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert out.stdout == "set()\n", out.stderr
