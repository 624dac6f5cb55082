"""Every method on data=sotu, 32 symbols: python -m benchmarks.sotu32 [--help]

Distils the shipped teachers with each method and seed, samples teachers and students, and writes
results.json, table.md and figure.png to --output. What a run has finished is not done again.
"""

from benchmarks import table
from benchmarks.table import Method, Size, experiment

HOT, COLD = "1.15", "0.7"  # for students of less entropy than their teacher, or of more
SEEDED = "MDLM, seeded prior"

METHODS = (
    Method("MDLM", "MDLM", checkpoint="${idlm_asset:teachers/mdlm.ckpt}", extra=("--ceiling",)),
    Method("MDLM", "SDTT", experiment("sotu_sdtt")),
    Method("MDLM", "IDLM-MDLM", experiment("sotu_idlm_mdlm", "algo.on_policy=0"), reach=HOT),
    Method("MDLM", "IDLM-MDLM, on-policy", experiment("sotu_idlm_mdlm"), reach=HOT),
    Method(
        "MDLM",
        "IDLM-MDLM, on-policy, equal seconds",
        experiment("sotu_idlm_mdlm", "trainer.max_steps=160"),
        reach=HOT,
        once=True,
    ),
    Method(SEEDED, SEEDED, checkpoint="${idlm_asset:teachers/mdlm.ckpt}", seeded=True),
    Method(
        SEEDED,
        "IDLM-MDLM, seeded prior",
        experiment("sotu_idlm_mdlm", "trainer.max_steps=400"),
        reach="1.25",
        seeded=True,
    ),
    Method("Duo", "Duo", checkpoint="${idlm_asset:teachers/duo.ckpt}", greedy=True),
    Method("Duo", "Duo-DCD", experiment("sotu_dcd"), greedy=True),
    Method("Duo", "IDLM-Duo", experiment("sotu_idlm_duo"), greedy=True, reach=COLD),
    Method(
        "Duo",
        "IDLM-Duo, Gaussian",
        experiment("sotu_idlm_duo", "algo.noising=gaussian"),
        reach=COLD,
    ),
    Method(
        "Duo",
        "IDLM-Duo, on-policy",
        experiment("sotu_idlm_duo", "algo.on_policy=0.5"),
        reach=COLD,
        once=True,
    ),
    Method(
        "Duo",
        "IDLM-Duo, on-policy, equal seconds",
        experiment(
            "sotu_idlm_duo", "algo.on_policy=0.5", "trainer.max_steps=140", "algo.guard.every=35"
        ),
        reach=COLD,
        once=True,
    ),
    Method(
        "Duo",
        "IDLM-DCD",
        experiment("sotu_idlm_dcd"),
        after="Duo-DCD",
        greedy=True,
        reach=COLD,
    ),
    Method(
        "Duo",
        "IDLM-DCD, Gaussian",
        experiment("sotu_idlm_dcd", "algo.noising=gaussian"),
        after="Duo-DCD",
        reach=COLD,
    ),
    Method("SEDD", "SEDD", checkpoint="${idlm_asset:teachers/sedd}"),
    Method("SEDD", "IDLM-SEDD", experiment("sotu_idlm_sedd", "algo.on_policy=0"), reach=HOT),
    Method("SEDD", "IDLM-SEDD, on-policy", experiment("sotu_idlm_sedd"), reach=HOT),
    Method(
        "SEDD",
        "IDLM-SEDD, on-policy, equal seconds",
        experiment("sotu_idlm_sedd", "training.n_iters=160"),
        reach=HOT,
        once=True,
    ),
)
SMOKE = {
    "duo_ext": ("trainer.max_steps=2", "algo.guard.every=0", "algo.fake_warmup=1"),
    "sedd_ext": ("training.n_iters=2", "algo.guard.every=0", "algo.fake_warmup=1"),
    "sotu_dcd": ("trainer.max_steps=2",),
}

BENCHMARK = table.Benchmark(
    module="benchmarks.sotu32",
    methods=METHODS,
    steps=(1, 2, 4, 8, 16, 32, 64, 128),
    jobs=2,
    sizes={"smoke": Size("two pairs a distillation", SMOKE)},
)


def main(arguments=None):
    table.main(BENCHMARK, __doc__.split("\n\n")[1], arguments)


if __name__ == "__main__":
    main()
