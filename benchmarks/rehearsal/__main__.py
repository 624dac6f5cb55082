"""A rehearsal of the GPU without one: python -m benchmarks.rehearsal

For each process in each DIT warm pairs on tensors that claim to be on cuda: mixed devices, what the
host waits for in a micro-batch and at which lines, dtypes under autocast, bytes over the vocabulary
and kernels; for each DIT what a block keeps for its backward pass and moves, and what a parameter
takes. The DITs are the standalone tree's and those of the checkouts that --duo, --duo-main, --sedd
or DUO_ROOT, DUO_MAIN_ROOT, SEDD_ROOT name. --tree measures another checkout of this project.
"""

import argparse
import dataclasses
import fnmatch
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.rehearsal import guard, report
from duo_ext import Refused
from duo_ext.hosting import trees

HERE = Path(__file__).resolve().parents[2]
ROOTS = {  # of checkouts: option, variable, where the DIT is
    "duo ch-1": ("--duo", "DUO_ROOT", "models/dit.py"),
    "duo main": ("--duo-main", "DUO_MAIN_ROOT", "models/dit.py"),
    "sedd": ("--sedd", "SEDD_ROOT", "model/transformer.py"),
}


@dataclasses.dataclass(frozen=True)
class Scenario:
    host: str
    what: str
    process: str | None = None
    options: bool = False

    @property
    def name(self):
        last = ["options"] if self.options else []
        return "/".join([self.host, self.process or self.what, *last])


def scenarios(hosts):
    """All there are in these hosts; SEDD's DIT takes tokens alone."""
    for host in hosts:
        for process in report.PROCESSES[: 3 if host == "sedd" else None]:
            yield from (Scenario(host, "pair", process, options) for options in (False, True))
        yield from (Scenario(host, what) for what in ("blocks", "state"))


def arguments(given):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for host, (option, variable, _) in ROOTS.items():
        parser.add_argument(
            option, metavar="ROOT", default=os.environ.get(variable), help=f"a checkout of {host}"
        )
    parser.add_argument("--tree", type=Path, default=HERE, help="the checkout that is measured")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SCENARIO",
        default=["*"],
        help="such as standalone/mdlm, */sedd*",
    )
    parser.add_argument("--precision", choices=report.PRECISIONS, help="algo.precision; all")
    parser.add_argument("--pairs", type=int, default=2, help="counted after a first one")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of results")
    parser.add_argument(
        "--as",
        dest="when",
        choices=report.TIMES,
        default="after",
        help="whose place rows take there",
    )
    return parser.parse_args(given)


def main(given=None):
    options = arguments(given)
    try:
        for _, rows in itertools.groupby(measured(options), lambda row: row["host"]):
            found = list(rows)
            if options.output:
                report.write(options.output, options.when, found)
    except Refused as error:
        sys.exit(f"benchmarks.rehearsal: {error}")


def measured(options):
    """The rows of results, printed as they come."""
    hosts = {"standalone": _having("--tree", options.tree, "duo_ext/standalone/models/dit.py")}
    hosts["standalone"] /= "duo_ext/standalone"
    for host, (option, _, file) in ROOTS.items():
        if root := getattr(options, option.removeprefix("--").replace("-", "_")):
            hosts[host] = _having(option, Path(root), file)
    wanted = chosen(options.only, list(scenarios(hosts)))
    library = guard.build()
    for host, root in hosts.items():
        if mine := [s for s in wanted if s.host == host]:
            made = {
                "commit": trees.commit(options.tree, besides="results"),
                "host_commit": trees.commit(root),
                "torch": torch.__version__,
                "command": f"python -m benchmarks.rehearsal --only '{host}/*'",
            }
            for row in child(library, options, host, root, mine):
                print(report.printed(row), flush=True)
                yield row | made


def _having(option, root, file):
    """The root of a checkout. Raises Refused if it lacks the file."""
    if not (root / file).is_file():
        raise Refused(f"{option} is '{root}', where there is no {file}")
    return root


def chosen(patterns, known):
    """The scenarios that the patterns name. Raises Refused for one that names none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatch(s.name, pattern) for s in known):
            raise Refused(
                f"--only is '{pattern}', which names none of {', '.join(s.name for s in known)}"
            )
    return [s for s in known if any(fnmatch.fnmatch(s.name, p) for p in patterns)]


def child(library, options, host, root, wanted):
    """The rows of one host, which has a process of its own."""
    job = {"guard": str(library), "tree": str(options.tree.resolve()), "pairs": options.pairs}
    job |= {"host": host, "root": str(root.resolve()), "precision": options.precision}
    job |= {"scenarios": [vars(s) | {"name": s.name} for s in wanted]}
    command = [sys.executable, "-m", "benchmarks.rehearsal.child", json.dumps(job)]
    environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=HERE, env=environment
    ) as process:
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise RuntimeError(f"the rehearsal in {host} failed: exit status {process.returncode}")


if __name__ == "__main__":
    main()
