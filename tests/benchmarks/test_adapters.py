"""benchmarks.adapters: what each method trains. (benchmarks.sotu32 is run at its smallest.)"""

import argparse

import omegaconf
import pytest

from benchmarks import adapters, table

pytest.importorskip("peft")


@pytest.mark.parametrize("family", adapters.FULL)
def test_full_networks_have_the_rates_that_adapters_multiply(standalone, family):
    config = standalone.compose(list(adapters.full(family)))
    assert adapters.FULL[family] == (config.optim.lr, config.algo.fake_lr)
    config = standalone.compose(list(adapters.adapted(family, 4)))
    rates = [adapters.RATES[family] / 2 * rate for rate in adapters.FULL[family]]
    assert [config.optim.lr, config.algo.fake_lr] == pytest.approx(rates)


def test_methods_differ_in_their_adapters_and_the_rates_alone(standalone):
    full, *ranks = (m for m in adapters.METHODS if m.family == "Duo" and m.train)
    plain = standalone.compose(list(full.train))
    found = []
    for method in ranks:
        config = standalone.compose(list(method.train))
        own = config.algo.adapter
        found.append((own.rank, list(own.whole), own.frozen))
        config.algo.adapter = plain.algo.adapter
        config.algo.fake_lr, config.optim.lr = plain.algo.fake_lr, plain.optim.lr
        assert omegaconf.OmegaConf.to_yaml(config) == omegaconf.OmegaConf.to_yaml(plain)
    ranks = [(rank, [], "float32") for rank in (4, 16, 64)]
    assert found == [*ranks, (16, ["*.bias", "*norm*"], "float32"), (16, [], "bf16")]


def test_teachers_alone_are_sampled_in_the_steps_of_a_plain_one(tmp_path):
    options = argparse.Namespace(
        runs=tmp_path, output=tmp_path, add=False, only=None, seeds=[1], steps=[4, 8]
    )
    made = table.Table(adapters.BENCHMARK, options)
    many = {m.name for m in adapters.METHODS if "many" in made.parts(m, 1)}
    assert many == {"MDLM", "Duo"}
    assert made.parts(made.by_name["Duo"], 1)["many"] == ("--steps", 64, *table.HOST)
