"""IDLM on data=sotu_bpe, V = 2048, L = 256, 18 million parameters: python -m benchmarks.sotu_bpe

Trains the MDLM and Duo teachers on one GPU, distils each with every seed, samples teachers and
students by the host's sampler and by the students', and writes results.json, table.md and
figure.png to --output. What a run has finished is not done again.
"""

from benchmarks import table
from benchmarks.methods import Benchmark, experiment
from benchmarks.sotu32 import COLD, EARLIER, GAUSSIAN, HOT, duo, mdlm

SMOKE = ("machine=cpu", "model.n_blocks=1", "loader.global_batch_size=2", "trainer.max_steps=2")
SMOKE_TEACHER = (*SMOKE, "lr_scheduler.warmup_t=1")
SMOKE_STUDENT = (*SMOKE, "algo.fake_warmup=1", "algo.guard.every=1", "algo.guard.steps=[1]")
SMOKE_STUDENT += ("algo.guard.samples=2", "algo.guard.teacher_steps=2")


def of_size(size, *others, **settings):
    """The benchmark of the experiments ``size``_*: teachers, students and ``others``."""
    teachers = {f"{size}_{family}": SMOKE_TEACHER for family in ("mdlm", "duo")}
    methods = (
        mdlm("MDLM", *experiment(f"{size}_mdlm"), extra=("--ceiling",), once=True),
        mdlm("IDLM-MDLM", *experiment(f"{size}_idlm_mdlm"), after="MDLM", reach=HOT),
        duo("Duo", *experiment(f"{size}_duo"), once=True, own=EARLIER),
        duo(
            "IDLM-Duo",
            *experiment(f"{size}_idlm_duo"),
            after="Duo",
            reach=COLD,
            own=EARLIER,
        ),
        *others,
    )
    return Benchmark(
        module=f"benchmarks.{size}",
        methods=methods,
        smoke={**teachers, "duo_ext": SMOKE_STUDENT},
        judge="${idlm_asset:judge_bpe}",
        **settings,
    )


AS_IN_THE_PAPER = experiment("sotu_bpe_idlm_duo", *GAUSSIAN)
OTHERS = (duo("IDLM-Duo, Gaussian", *AS_IN_THE_PAPER, after="Duo", reach=COLD, own=EARLIER),)
BENCHMARK = of_size("sotu_bpe", *OTHERS, steps=(1, 2, 4, 8, 16, 32, 64, 128, 256), jobs=1)


def main(arguments=None):
    table.main(BENCHMARK, __doc__.split("\n\n")[1], arguments)


if __name__ == "__main__":
    main()
