"""Right answers on data=arithmetic: python -m benchmarks.arithmetic [--help]

Distils the shipped teachers, lets teachers and students answer the 1000 test questions by several
samplers and numbers of network evaluations, runs the answers, and writes results.json, table.md and
figure.png to --output. What a run has finished is not done again.
"""

import collections
import statistics

from benchmarks import table
from benchmarks.methods import Benchmark, Method, experiment
from duo_ext.files import write_whole
from duo_ext.report import figures
from duo_ext.report.tables import markdown

STEPS = (1, 2, 3, 4, 8, 16, 32, 64)
OF_STUDENTS = 16  # the most steps at which a student is asked
MASKED = {
    name: ("--sampler", name, "--grid", "host")
    for name in ("ancestral", "spread", "comb", "confidence")
}
UNIFORM = {
    "ancestral": ("--sampler", "ancestral"),
    "spread": ("--sampler", "spread", "--grid", "power:2.2"),
}
SAMPLERS = {"MDLM": MASKED, "Duo": UNIFORM}
TEST = "data.valid=${idlm_text:arithmetic}/test.jsonl"

METHODS = tuple(
    method
    for family, kind in (("MDLM", "mdlm"), ("Duo", "duo"))
    for method in (
        Method(family, family, checkpoint=f"${{idlm_asset:teachers/arithmetic_{kind}.ckpt}}"),
        Method(family, f"IDLM-{family}", experiment(f"arithmetic_idlm_{kind}")),
    )
)
SMOKE = {"duo_ext": ("trainer.max_steps=2", "algo.guard.every=0", "algo.fake_warmup=1")}
BENCHMARK = Benchmark(
    module="benchmarks.arithmetic",
    methods=METHODS,
    steps=STEPS,
    jobs=2,
    smoke=SMOKE,
)


class Answers(table.Table):
    """The table of shares of right answers."""

    passes = (tuple(MASKED),)

    def parts(self, method, seed):
        steps = self.options.steps
        if method.train:
            steps = [step for step in steps if step <= OF_STUDENTS]
        samplers = SAMPLERS[method.family].items()
        return {name: ("--steps", *steps, *own, TEST) for name, own in samplers}

    def render(self, results):
        lines = shares(results["rows"])
        head = ["model", "sampler", *map(str, self.options.steps)]
        body = [
            [*line, *(cell(own.get(n)) for n in self.options.steps)] for line, own in lines.items()
        ]
        text = f"{about(results)}\n\n{markdown(head, body, words=2)}"
        write_whole(f"{self.options.output}/table.md", text.encode())
        figures.figure(plot(lines), f"{self.options.output}/figure.png")
        print(text)


def shares(rows):
    """{(name, sampler): {network evaluations: the shares of right answers, one of each seed}}."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        name = row["sampler"] if row["grid"] == "host" else f"{row['sampler']}, {row['grid']}"
        found[row["name"], name][row["steps"]].append(row)
    return found


def cell(rows):
    """The mean over seeds; in brackets the seeds' ends or, of one, the 95 % interval."""
    if not rows:
        return ""
    values = [row["accuracy"] for row in rows]
    low, high = min(values), max(values)
    if len(rows) == 1:
        low, high = rows[0]["accuracy_low"], rows[0]["accuracy_high"]
    return f"{100 * statistics.mean(values):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def about(results):
    """What the table shows, and where it comes from."""
    rows = results["rows"]
    seeds = collections.defaultdict(set)
    for row in rows:
        if row["model"] == "student":
            seeds[row["name"]].add(row["distillation_seed"])
    trained = ", ".join(f"{name} of {len(own)}" for name, own in seeds.items())
    return (
        f"Right answers in % of {rows[0]['samples']} test questions by steps; the last step, to "
        "clean text, is a network evaluation more where tokens are still to be drawn. In brackets "
        f"the 95 % interval of one seed, or the least and the most of several: {trained}. "
        f"{results['hardware']}; `{results['command']}`; commit {results['commit']}."
    )


def plot(lines):
    """Shares over network evaluations, a panel a family."""
    drawing = figures.blank(11, 4.5)
    panels = dict(zip(SAMPLERS, drawing.subplots(1, len(SAMPLERS), sharey=True), strict=True))
    for (name, sampler), own in lines.items():
        family = name.removeprefix("IDLM-")
        axes, index = panels[family], list(SAMPLERS[family]).index(sampler.partition(",")[0])
        model = "student" if name.startswith("IDLM") else "teacher"
        steps = sorted(own)
        means = [100 * statistics.mean(row["accuracy"] for row in own[step]) for step in steps]
        style = figures.line_style(index, model)
        axes.plot(steps, means, label=f"{name}, {sampler}", **style)
    for family, axes in panels.items():
        figures.dress(axes, "steps", f"right answers of {family}, %", "dashed: teachers")
        axes.legend(frameon=False, fontsize=8)
    return drawing


def main(arguments=None):
    about_it = __doc__.split("\n\n")[1]
    table.main(BENCHMARK, about_it, arguments, made_by=Answers, samples=1000)


if __name__ == "__main__":
    main()
