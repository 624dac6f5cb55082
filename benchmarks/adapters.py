"""Adapters beside full networks on data=sotu: python -m benchmarks.adapters [--help]

Distils the shipped MDLM and Duo teachers with full networks and with adapters of rank 4, 16 and 64
(algo.adapter.rank), with each seed, at equal pairs; samples teachers and students, and writes
results.json, with the seconds of each distillation, table.md and figure.png to --output. What a run
has finished is not done again.
"""

from benchmarks import sotu32, table
from benchmarks.methods import Benchmark, experiment
from benchmarks.sotu32 import COLD, EARLIER, HOT, SHORT, duo, mdlm

RANKS = (4, 16, 64)
WAYS = {  # biases and norms trained whole; weights under adapters held in bf16
    "biases": "algo.adapter.whole=['*.bias','*norm*']",
    "bf16": "algo.adapter.frozen=bf16",
}
# Learning rates over those of full networks, times the root of the rank. Half and twice were tried
# of each rank (results/adapters/tries).
RATES = {"MDLM": 16, "Duo": 8}
FULL = {  # family: (optim.lr, algo.fake_lr) of full networks
    "MDLM": (8e-5, 1e-3),
    "Duo": (1e-4, 5e-4),
}
RECIPES = {  # those of the experiments when results/adapters was made
    "MDLM": (
        "sotu_idlm_mdlm",
        "algo.rollout_steps=[3,5,9]",
        "algo.rollout_target=text",
        "algo.sampler=spread",
        "trainer.max_steps=240",
        "algo.guard.patience=3",
    ),
    "Duo": (
        "sotu_idlm_duo",
        "algo.posterior=false",
        "algo.on_policy=0",
        "algo.grid=power:2.2",
        *SHORT,
    ),
}


def full(family):
    """The distillation of full networks."""
    return experiment(*RECIPES[family], *_rates(family, 1))


def adapted(family, rank, *settings):
    """A distillation with adapters."""
    rates = _rates(family, RATES[family] / rank**0.5)
    return experiment(*RECIPES[family], f"algo.adapter.rank={rank}", *settings, *rates)


def _rates(family, factor):
    rates = (factor * rate for rate in FULL[family])
    return map("{}={:g}".format, ("optim.lr", "algo.fake_lr"), rates)


def of_ranks(make, family, **settings):
    """The methods of a family: full networks, each rank, and WAYS with one rank."""
    name = f"IDLM-{family}"
    yield make(name, *full(family), **settings)
    for rank in RANKS:
        yield make(f"{name}, rank {rank}", *adapted(family, rank), **settings)
    for way, setting in WAYS.items():
        words = adapted(family, RANKS[1], setting)
        yield make(f"{name}, rank {RANKS[1]}, {way}", *words, **settings)


METHODS = (
    mdlm("MDLM", checkpoint="${idlm_asset:teachers/mdlm.ckpt}", steps=(64,)),
    *of_ranks(mdlm, "MDLM", reach=HOT),
    duo("Duo", checkpoint="${idlm_asset:teachers/duo.ckpt}", steps=(64,), own=EARLIER),
    *of_ranks(duo, "Duo", reach=COLD, own=EARLIER),
)
BENCHMARK = Benchmark(
    module="benchmarks.adapters",
    methods=METHODS,
    steps=(4, 8),
    jobs=2,
    smoke=sotu32.SMOKE,
)


def main(arguments=None):
    table.main(BENCHMARK, __doc__.split("\n\n")[1], arguments)


if __name__ == "__main__":
    main()
