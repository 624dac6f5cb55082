"""The average of a SEDD run as its looks take it."""

import types

import omegaconf
import pytest
import torch

from sedd_ext import looks


class Keeps:
    """An average as SEDD's: what it has stored it goes on holding."""

    collected_params = ()

    def __init__(self, model):
        self.shadow_params = [p.detach() + 1 for p in model.parameters()]

    def store(self, parameters):
        self.collected_params = [p.detach().clone() for p in parameters]

    def copy_to(self, parameters):
        for parameter, shadow in zip(parameters, self.shadow_params, strict=True):
            parameter.data.copy_(shadow)

    def restore(self, parameters):
        for parameter, kept in zip(parameters, self.collected_params, strict=True):
            parameter.data.copy_(kept)


def test_a_model_is_averaged_for_a_while_and_no_copy_of_it_stays():
    model = torch.nn.Linear(2, 3).train()
    ema, before = Keeps(model), [p.detach().clone() for p in model.parameters()]
    with looks.averaged(model, ema) as network:
        assert all(map(torch.equal, network.parameters(), ema.shadow_params))
        assert not network.training
    assert all(map(torch.equal, model.parameters(), before)) and model.training
    assert len(ema.collected_params) == 0


@pytest.mark.parametrize(
    ("sampler", "asked", "wanted"),
    [("ancestral", False, False), ("ancestral", True, True), ("spread", False, True)],
)
def test_scores_get_their_mass_where_the_sampler_needs_it(sampler, asked, wanted):
    sections = {"sampling": {"renormalise": asked}, "algo": {"sampler": sampler}}
    parts = types.SimpleNamespace(
        config=omegaconf.OmegaConf.create(sections), process=lambda renormalised: renormalised
    )
    assert looks.process_of(parts) is wanted
