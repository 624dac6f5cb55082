"""weights.adapter_folder: what is written is read by peft itself."""

import copy
import json

import pytest
import torch

from duo_ext.core import adapters
from duo_ext.weights import adapter_folder
from duo_ext.weights.checkpoints import Saved

peft = pytest.importorskip("peft")

V = 33
SETTINGS = {"rank": 3, "alpha": 6.0, "targets": ["blocks.*", "sigma_map.*"], "whole": []}
SETTINGS["targets"] += ["output_layer.*"]
SETTINGS |= {"frozen": "float32"}
WHOLE = {"biases": ["*.bias"], "norms": ["*norm*"], "most": ["*.bias", "*norm*", "vocab_embed.*"]}


def moved(network, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in adapters.trained(network):
            p += 0.1 * torch.randn_like(p)
    return network


def run(network):
    with torch.no_grad():
        return network(torch.arange(32).view(2, 16), torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("raw", [False, True], ids=["average", "raw"])
@pytest.mark.parametrize("whole", [[], *WHOLE.values()], ids=["low", *WHOLE])
def test_peft_puts_them_on_the_teacher(standalone, tiny, tmp_path, whole, raw):
    torch.manual_seed(0)
    student = standalone.module("models").dit.DIT(tiny("algo=mdlm"), V).eval()
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    teacher = adapters.adapt(student, SETTINGS | {"whole": whole}, seed=1)
    average = [p.detach() for p in adapters.trained(moved(adapters.twin(student), 3))]
    weights, plain, ours = adapters.plain(moved(student, 2), average)
    saved = Saved(weights, plain, {}, {"rank": 3, "alpha": 6.0} | ours)
    adapter_folder.write(tmp_path / "out", saved, raw, "")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 3
    wanted = run(adapters.merged(student, [] if raw else average))
    assert not torch.allclose(wanted, run(teacher), atol=1e-2)
    base = copy.deepcopy(teacher)
    del base.config  # a host's, of which peft would ask more than it has
    torch.testing.assert_close(run(peft.PeftModel.from_pretrained(base, tmp_path / "out")), wanted)
