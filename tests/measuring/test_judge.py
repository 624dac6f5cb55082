"""duo_ext.measuring.judge against its own log-probabilities, and the models that it refuses."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from duo_ext.measuring import batches
from duo_ext.measuring.judge import Judge, Scores
from duo_ext.ranks import join

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


def test_what_a_judge_cannot_read_is_told(folder, capfd):
    """And the word <unk> in a text is no unknown one."""
    judge = Judge(str(folder), "cpu", key="--judge")
    capfd.readouterr()
    known = " ".join(WORDS[3:5])
    judge.warn_of_unread([known] * 99 + ["<unk>"])
    judge.warn_of_unread([])
    assert not capfd.readouterr().err
    judge.warn_of_unread([known, "unheard of"])
    assert f"--judge is '{folder}', to which 50% of the held-out" in capfd.readouterr().err


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


def test_processes_share_the_texts_and_have_the_same_scores(folder, in_processes):
    """To the last bit, also where there are fewer batches than processes."""
    judge = Judge(str(folder), "cpu", batch_size=3)

    def score():
        _, ranks = join("cpu")
        seen, own = [], judge._score
        judge._score = lambda ids: seen.append(len(ids)) or own(ids)
        return judge.score(list(TEXTS), ranks), judge.score(["a b"], ranks).nll_N, sum(seen)

    alone = judge.score(list(TEXTS))
    found = in_processes(2, score)
    for scores, _, _ in found:
        assert all(map(np.array_equal, scores, alone))
    assert [len(nll_N) for _, nll_N, _ in found] == [1, 1]
    scored = int((alone.tokens_N > 0).sum())
    assert [count for *_, count in found] == [3 + 1, scored + 1 - 3]  # <eos> <eos> <eos> too


def test_a_judge_is_on_its_device_only_while_it_scores(folder, monkeypatch):
    judge = Judge(str(folder), "cpu")
    places = []
    judge.device = torch.device("meta")
    monkeypatch.setattr(judge.model, "to", lambda place: places.append(str(place)))
    monkeypatch.setattr(judge, "_score", lambda ids: places.append("scored") or judge_scores(ids))
    judge.score(["a b", "b a"])
    assert places == ["meta", "scored", "cpu"]


def judge_scores(ids):
    return Scores(np.zeros(len(ids)), np.ones(len(ids)), np.zeros((len(ids), 16)))


def test_as_many_texts_are_scored_at_a_time_as_fit(folder):
    """64 of a small judge, as ever; GPT-2 large's logits of 1024 tokens are 206 MB a text."""
    judge = Judge(str(folder), "cpu")
    assert judge._fitted(12) == 64
    judge.vocab_size, judge.width = 50257, 1280
    assert judge._fitted(1024) * 4 * 1024 * 50257 < batches.WHOLE
    assert 8 <= judge._fitted(1024) < 64
    judge = Judge(str(folder), "cpu")
    sizes, own = [], judge._score
    judge._score = lambda ids: sizes.append(len(ids)) or own(ids)
    judge._fitted = lambda length: 2
    judge.score(["a b"] * 5)
    assert sizes == [2, 2, 1]
