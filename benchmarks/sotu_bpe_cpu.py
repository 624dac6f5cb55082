"""IDLM on data=sotu_bpe, L = 128, 3.9 million parameters: python -m benchmarks.sotu_bpe_cpu

Trains the MDLM and Duo teachers on a CPU, hours each, distils them, samples teachers and students
by the host's sampler and by the students', and writes results.json, table.md and figure.png to
--output. What a run has finished is not done again; a training that was cut off goes on.
"""

from benchmarks import table
from benchmarks.methods import Benchmark, Method, Size, experiment
from benchmarks.sotu32 import HOT, JUMPS, MASKS

METHODS = (
    Method(
        "MDLM",
        "MDLM",
        experiment("sotu_bpe_cpu_mdlm"),
        extra=("--ceiling",),
        once=True,
        own=MASKS,
    ),
    Method(
        "MDLM",
        "IDLM-MDLM",
        experiment("sotu_bpe_cpu_idlm_mdlm"),
        after="MDLM",
        reach=HOT,
        own=MASKS,
    ),
    Method("Duo", "Duo", experiment("sotu_bpe_cpu_duo"), once=True, own=JUMPS),
    Method("Duo", "IDLM-Duo", experiment("sotu_bpe_cpu_idlm_duo"), after="Duo", own=JUMPS),
)
SMOKE_TEACHER = ("trainer.max_steps=2", "lr_scheduler.warmup_t=1")
SMOKE = {
    "sotu_bpe_cpu_mdlm": SMOKE_TEACHER,
    "sotu_bpe_cpu_duo": SMOKE_TEACHER,
    "duo_ext": ("trainer.max_steps=2", "algo.fake_warmup=1", "algo.guard.every=0"),
}
BENCHMARK = Benchmark(
    module="benchmarks.sotu_bpe_cpu",
    methods=METHODS,
    steps=(1, 2, 3, 4, 8, 16, 32, 64, 128),
    jobs=2,
    sizes={"smoke": Size("two steps a training", SMOKE)},
    judge="${idlm_asset:judge_bpe}",
)


def main(arguments=None):
    table.main(BENCHMARK, __doc__.split("\n\n")[1], arguments)


if __name__ == "__main__":
    main()
