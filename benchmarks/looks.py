"""How distillations went, by their guards: python -m benchmarks.looks RUN_FOLDER... --output FOLDER

A guard looks at the student every so many pairs; guard.json of a run holds GenPPL, entropy and
unigram KL of each look. The runs stand side by side in results.json, table.md and figure.png, each
under the end of its folder's name, with the command that made it.
"""

import argparse
import json
import os
import shlex
from pathlib import Path

import omegaconf

from duo_ext import Refused
from duo_ext.files import write_whole
from duo_ext.report import figures, tables
from duo_ext.report.results import save
from duo_ext.training.resuming import LAST
from duo_ext.weights import checkpoints

SHOWN = ("genppl", "entropy", "unigram_kl")


def read(folder):
    """{name, command, teacher, looks} of a run folder."""
    path = Path(folder) / "guard.json"
    if not path.exists():
        raise Refused(f"{path} does not exist; a distillation with algo.guard.every > 0 has it")
    guard = json.loads(path.read_text())
    return {
        "name": "/".join(Path(folder).parts[-2:]),
        "command": command(Path(folder)),
        "teacher": guard["teacher"],
        "kept": guard["kept"],
        "looks": {
            str(look["pair"]): {steps: _shown(row) for steps, row in look["rows"].items()}
            for look in guard["history"]
        },
    }


def _shown(row):
    return {key: row[key] for key in SHOWN}


def command(folder):
    """What was said in the folder in which this program runs."""
    overrides = omegaconf.OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    saved = checkpoints.read(str(folder / LAST), "RUN_FOLDER")
    variant = saved["idlm"]["run"].get("variant")
    module = ("benchmarks.tries", variant) if variant else ("duo_ext",)
    return shlex.join(["python", "-m", *module, *overrides]).replace(os.getcwd(), "$PWD")


def table(runs):
    """Markdown: a line for each run and number of steps, a column for each look."""
    pairs = sorted({int(pair) for run in runs for pair in run["looks"]})
    lines = []
    for run in runs:
        for steps in next(iter(run["looks"].values())):
            looks = [run["looks"].get(str(pair), {}).get(steps) for pair in pairs]
            lines.append([run["name"], steps, *map(_cell, looks)])
    body = tables.markdown(["run", "steps", *pairs], lines)
    commands = "\n".join(f"- {run['name']}: `{run['command']}`" for run in runs)
    return (
        "GenPPL / entropy / unigram KL of the guard's samples, by pairs. The teacher that the "
        f"guard has in mind: {_teachers(runs)}.\n\n{body}\n\n{commands}\n"
    )


def _cell(look):
    if look is None:
        return ""
    return f"{look['genppl']:.1f} / {look['entropy']:.2f} / {look['unigram_kl']:.3f}"


def _teachers(runs):
    return "; ".join(dict.fromkeys(_cell(run["teacher"]) for run in runs))


def plot(runs):
    """GenPPL and unigram KL over pairs, a column for each number of steps."""
    from matplotlib.figure import Figure

    steps = list(next(iter(runs[0]["looks"].values())))
    drawing = Figure(figsize=(5.5 * len(steps), 7), layout="constrained")
    axes = drawing.subplots(2, len(steps), squeeze=False)
    for column, step in enumerate(steps):
        for index, run in enumerate(runs):
            style = figures.line_style(index, "student")
            looks = {int(pair): rows[step] for pair, rows in run["looks"].items() if step in rows}
            for row, key in enumerate(("genppl", "unigram_kl")):
                values = [look[key] for look in looks.values()]
                axes[row, column].plot(list(looks), values, label=run["name"], **style)
        figures.dress(axes[0, column], "pairs", "GenPPL", f"{step} steps")
        figures.dress(axes[1, column], "pairs", "unigram KL, nats", "")
    drawing.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawing


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2])
    parser.add_argument("folders", nargs="+", metavar="RUN_FOLDER")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        runs = [read(folder) for folder in options.folders]
    except Refused as error:
        raise SystemExit(f"error: {error}") from error
    save({"runs": runs}, options.output)
    write_whole(f"{options.output}/table.md", table(runs).encode())
    figures.figure(plot(runs), f"{options.output}/figure.png")
    print(table(runs))


if __name__ == "__main__":
    main()
