"""The published IDLM checkpoints in their layouts, with random weights: what takes them, and how.

The hub's folders have the keys of Duo's class and no name of an algorithm; the two of TinyGSM are
Lightning checkpoints.
"""

import json

import huggingface_hub
import omegaconf
import pytest
import torch

from duo_ext import Refused, host, load_student
from duo_ext.weights import checkpoints, pretrained

FOLDERS = {"idlm-mdlm": "mdlm", "idlm-duo": "duo_base", "idlm-dcd": "duo_base"}
DESCRIBED = {
    "architectures": ["DUO"],
    "auto_map": {"AutoConfig": "config.DUOConfig", "AutoModelForMaskedLM": "model.DUO"},
    "causal": False,
    "cond_dim": 16,
    "dropout": 0.1,
    "hidden_dim": 32,
    "model_length": 16,
    "model_type": "DUO",
    "n_blocks": 2,
    "n_heads": 2,
    "return_dict": False,
    "torch_dtype": "float32",
    "transformers_version": "4.38.2",
    "var_min": True,
}


@pytest.fixture
def network(standalone, tiny):
    """``network("mdlm")``: random weights of an algorithm's size."""

    def make(name):
        torch.manual_seed(2)
        vocabulary = 33 if name == "mdlm" else 32
        made = standalone.module("models").dit.DIT(tiny(f"algo={name}"), vocab_size=vocabulary)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return made

    return make


@pytest.fixture
def folder(network, tmp_path):
    """``folder("idlm-mdlm")``: one of the hub's, and its network."""

    def make(name):
        made = network(FOLDERS[name])
        weights = {f"backbone.{key}": value for key, value in made.state_dict().items()}
        (tmp_path / name).mkdir()
        huggingface_hub.save_torch_state_dict(weights, tmp_path / name)
        described = DESCRIBED | {"vocab_size": len(made.vocab_embed.embedding)}
        (tmp_path / name / "config.json").write_text(json.dumps(described))
        return str(tmp_path / name), made

    return make


@pytest.fixture
def data(text_folder):
    """Overrides that name the data, which no folder of the hub does."""
    tokenizer = "data.tokenizer_name_or_path=${idlm_asset:tokenizers/sotu32}"
    return "data=text", f"data.train={text_folder}", tokenizer


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_the_hub_writes_texts(folder, data, name):
    path, made = folder(name)
    algorithm = f"algo={FOLDERS[name]}"
    found = load_student(path, algorithm, *data, host=host.STANDALONE, device="cpu")
    texts = found.sample(2, steps=3, prompt="we the")
    assert found.length == 16 and all(text.startswith("we the") for text in texts)
    own = found._subject.model.backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in made.state_dict().items())
    checkpoints.check(pretrained.load(path, "algo.teacher_path"), made, "algo.teacher_path")


def test_a_folder_of_the_hub_does_not_say_its_algorithm(folder, data):
    path, _ = folder("idlm-duo")
    with pytest.raises(Refused, match=r"it carries no configuration .* algo=mdlm or algo=duo_base"):
        load_student(path, *data, host=host.STANDALONE)


@pytest.mark.parametrize("base", ["mdlm", "duo_base"])
def test_a_lightning_checkpoint_of_any_algorithms_name(network, data, tiny, tmp_path, base):
    """Theirs may have a name that we do not know; the user's word stands in for it."""
    made = network(base)
    config = omegaconf.OmegaConf.create(omegaconf.OmegaConf.to_container(tiny(f"algo={base}")))
    config.algo.name = "idlm_tinygsm"
    average = [parameter.detach() + 0.1 for parameter in made.parameters()]
    state = {f"backbone.{key}": value for key, value in made.state_dict().items()}
    path = tmp_path / "last.ckpt"
    torch.save(
        {
            "state_dict": state,
            "ema": {"decay": 0.9999, "num_updates": 5, "shadow_params": average},
            "hyper_parameters": {"config": config},
        },
        path,
    )
    saved = pretrained.load(str(path), "algo.teacher_path", trust=True)
    checkpoints.check(saved, made, "algo.teacher_path")
    assert torch.equal(saved.average[0], average[0])
    student = load_student(
        path, f"algo={base}", *data, host=host.STANDALONE, device="cpu", trust_checkpoint=True
    )
    assert len(student.sample(2, steps=2)) == 2
