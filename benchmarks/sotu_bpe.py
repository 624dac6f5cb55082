"""IDLM on data=sotu_bpe, V = 2048, L = 256, 18 million parameters: python -m benchmarks.sotu_bpe

Trains the MDLM and Duo teachers on one GPU, distils each with every seed, samples teachers and
students, and writes results.json, table.md and figure.png to --output. What a run has finished is
not done again. --tenth does the same on a CPU, at a tenth of parameters and steps.
"""

from benchmarks import table
from benchmarks.methods import Benchmark, Method, Size, experiment

METHODS = (
    Method("MDLM", "MDLM", experiment("sotu_bpe_mdlm"), extra=("--ceiling",), once=True),
    Method("MDLM", "IDLM-MDLM", experiment("sotu_bpe_idlm_mdlm", "algo.on_policy=0"), after="MDLM"),
    Method("MDLM", "IDLM-MDLM, on-policy", experiment("sotu_bpe_idlm_mdlm"), after="MDLM"),
    Method("Duo", "Duo", experiment("sotu_bpe_duo"), greedy=True, once=True),
    Method("Duo", "IDLM-Duo", experiment("sotu_bpe_idlm_duo"), after="Duo", greedy=True),
    Method(
        "Duo",
        "IDLM-Duo, Gaussian",
        experiment("sotu_bpe_idlm_duo", "algo.noising=gaussian"),
        after="Duo",
    ),
)

# 1.6 million parameters, a tenth of the steps, an eighth of the batch
NETWORK = ("machine=cpu", "model.hidden_size=128", "model.n_blocks=4", "model.n_heads=4")
NETWORK += ("model.cond_dim=64",)
TEACHER = (*NETWORK, "loader.global_batch_size=16", "trainer.max_steps=2000")
TEACHER += ("trainer.val_check_interval=200", "lr_scheduler.warmup_t=50")
STUDENT = (*NETWORK, "loader.global_batch_size=8", "trainer.max_steps=200", "algo.guard.every=20")
TENTH = {
    "sotu_bpe_mdlm": TEACHER,
    "sotu_bpe_duo": (*TEACHER, "algo.curriculum_end=550"),
    "duo_ext": (*STUDENT, "algo.guard.samples=64", "algo.guard.unigram_kl=0.12"),
}
SMOKE_TEACHER = ("trainer.max_steps=2", "lr_scheduler.warmup_t=1")
SMOKE = {
    "sotu_bpe_mdlm": SMOKE_TEACHER,
    "sotu_bpe_duo": SMOKE_TEACHER,
    "duo_ext": (
        "trainer.max_steps=2",
        "algo.fake_warmup=1",
        "algo.guard.every=1",
        "algo.guard.steps=[1]",
        "algo.guard.samples=2",
        "algo.guard.teacher_steps=2",
    ),
}

BENCHMARK = Benchmark(
    module="benchmarks.sotu_bpe",
    methods=METHODS,
    steps=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    jobs=1,
    sizes={
        "tenth": Size("a tenth of parameters and steps, on a CPU", TENTH),
        "smoke": Size("two steps a training, with --tenth", SMOKE),
    },
    judge="${idlm_asset:judge_bpe}",
)


def main(arguments=None):
    table.main(BENCHMARK, __doc__.split("\n\n")[1], arguments)


if __name__ == "__main__":
    main()
