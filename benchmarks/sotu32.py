"""Every method on data=sotu, 32 symbols: python -m benchmarks.sotu32 [--help]

Distils the shipped teachers with each method and seed, samples teachers and students, and writes
results.json, table.md and figure.png to --output. What a run has finished is not done again.
"""

from benchmarks import table
from benchmarks.methods import Benchmark, Method, experiment

HOT, COLD = "1.15", "0.7"  # for students of less entropy than their teacher, or of more
MASKS = {sampler: ("--sampler", sampler, "--grid", "linear") for sampler in ("spread", "comb")}
JUMPS = {"spread": ("--sampler", "spread", "--grid", "power:4")}
EARLIER = {"spread": ("--sampler", "spread", "--grid", "power:2.2")}  # students of noised data
PAPER = ("algo.sampler=ancestral", "algo.grid=host", "algo.on_policy=0")
GAUSSIAN = (*PAPER, "algo.posterior=false", "algo.noising=gaussian")
# Students whose inputs are noised data drift sooner.
SOON = "algo.guard.patience=3"
SHORT = ("trainer.max_steps=160", SOON)
SLOW = ("optim.lr=1e-4", "algo.fake_lr=5e-4")


def mdlm(name, *train, **settings):
    return Method("MDLM", name, train, own=MASKS, **settings)


def duo(name, *train, own=JUMPS, **settings):
    return Method("Duo", name, train, own=own, **settings)


def sedd(name, *train, **settings):
    return Method("SEDD", name, train, own=MASKS, **settings)


METHODS = (
    mdlm("MDLM", checkpoint="${idlm_asset:teachers/mdlm.ckpt}", extra=("--ceiling",)),
    mdlm("SDTT", *experiment("sotu_sdtt")),
    mdlm("IDLM-MDLM", *experiment("sotu_idlm_mdlm"), reach=HOT),
    mdlm(
        "IDLM-MDLM, as in the paper",
        *experiment("sotu_idlm_mdlm", *PAPER, "optim.lr=8e-5", "trainer.max_steps=240", SOON),
        reach=HOT,
    ),
    duo("Duo", checkpoint="${idlm_asset:teachers/duo.ckpt}"),
    duo("Duo-DCD", *experiment("sotu_dcd"), greedy=True),
    duo("IDLM-Duo", *experiment("sotu_idlm_duo"), reach=COLD),
    duo(
        "IDLM-Duo, Gaussian",
        *experiment("sotu_idlm_duo", *GAUSSIAN, *SLOW, *SHORT),
        reach=COLD,
        own=EARLIER,
    ),
    duo(
        "IDLM-DCD",
        *experiment("sotu_idlm_dcd"),
        after="Duo-DCD",
        greedy=True,
        reach=COLD,
    ),
    duo(
        "IDLM-DCD, Gaussian",
        *experiment("sotu_idlm_dcd", *GAUSSIAN, *SLOW, *SHORT),
        after="Duo-DCD",
        reach=COLD,
        own=EARLIER,
    ),
    sedd("SEDD", checkpoint="${idlm_asset:teachers/sedd}"),
    sedd("IDLM-SEDD", *experiment("sotu_idlm_sedd"), reach=HOT),
    sedd(
        "IDLM-SEDD, as in the paper",
        *experiment("sotu_idlm_sedd", *PAPER, "optim.lr=5e-5", "training.n_iters=200", SOON),
        reach=HOT,
    ),
)
SMOKE = {
    "duo_ext": ("trainer.max_steps=2", "algo.guard.every=0", "algo.fake_warmup=1"),
    "sedd_ext": ("training.n_iters=2", "algo.guard.every=0", "algo.fake_warmup=1"),
    "sotu_dcd": ("trainer.max_steps=2",),
}

BENCHMARK = Benchmark(
    module="benchmarks.sotu32",
    methods=METHODS,
    steps=(1, 2, 3, 4, 8, 16, 32, 64, 128),
    jobs=2,
    smoke=SMOKE,
)


def main(arguments=None):
    table.main(BENCHMARK, __doc__.split("\n\n")[1], arguments)


if __name__ == "__main__":
    main()
