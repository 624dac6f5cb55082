"""duo_ext.training.opponents: teacher and fake, and what the student starts from."""

import types

import omegaconf
import pytest
import torch

from duo_ext import Refused
from duo_ext.core.distiller import World
from duo_ext.core.precision import PRECISIONS
from duo_ext.training.opponents import Opponents
from duo_ext.weights import checkpoints
from duo_ext.weights.checkpoints import EMBEDDING, Saved

CONFIG = omegaconf.OmegaConf.create({"model": {"length": 4}, "algo": {"adapter": {"rank": 0}}})


class Network(torch.nn.Module):
    """Has the one weight by which a DIT is known."""

    def __init__(self, value, width=2):
        super().__init__()
        self.vocab_embed = torch.nn.Module()
        self.vocab_embed.embedding = torch.nn.Parameter(torch.full((3, width), value))

    @property
    def value(self):
        return self.vocab_embed.embedding[0, 0].item()


def saved(raw=1.0, average=2.0, config=None):
    return Saved({EMBEDDING: torch.full((3, 2), raw)}, [torch.full((3, 2), average)], config or {})


@pytest.mark.parametrize(("average", "value"), [(True, 2.0), (False, 1.0)])
def test_all_start_as_the_teacher_and_share_no_weight(average, value):
    student = Network(0.0)
    opponents = Opponents.read(saved(), student, CONFIG, "teacher", average)
    networks = student, opponents.teacher, opponents.fake
    assert [network.value for network in networks] == [value] * 3
    assert len({next(network.parameters()).data_ptr() for network in networks}) == 3
    assert opponents.teacher_sha256 == checkpoints.fingerprint(opponents.teacher)


@pytest.mark.parametrize(
    ("student", "config", "told"),
    [
        (Network(0.0, width=5), {}, "teacher: the checkpoint has model.hidden_size 2, this"),
        (Network(0.0), {"model": {"length": 8}}, "teacher: .* trained with model.length 8, this"),
    ],
)
def test_a_teacher_of_another_network_is_refused(student, config, told):
    with pytest.raises(Refused, match=told):
        Opponents.read(saved(config=config), student, CONFIG, "teacher")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_teacher_runs_in_the_precision_of_comparison(precision):
    student = Network(0.0)
    opponents = Opponents.read(saved(), student, CONFIG, "teacher")
    settings = {"fake_ratio": 3, "fake_warmup": 1, "shared_forward": False, "compile": False}
    settings |= {"infill": 0.0}
    optimizers = [
        (torch.optim.AdamW(network.parameters()), None) for network in (student, opponents.fake)
    ]
    distiller = opponents.distiller(
        types.SimpleNamespace(),
        student,
        omegaconf.OmegaConf.create(settings | {"precision": precision}),
        optimizers=optimizers,
        time_conditioning=True,
        world=World(),
        accumulate=2,
        seed=7,
    )
    own, compared = PRECISIONS[precision]
    assert {network.precision for network in distiller.networks.values()} == {own}
    assert distiller.teacher.precision == distiller.compared.precision == compared
    assert distiller.networks["fake"].backbone is opponents.fake
    recipe = distiller.recipe
    assert (recipe.fake_ratio, recipe.accumulate, recipe.clip, recipe.seed) == (3, 2, 0.0, 7)
