"""What a folder of results has already, for a run that adds to it."""

import collections
import math

from duo_ext import Refused
from duo_ext.report.results import load


class Earlier:
    """What is in ``folder``/results.json, the rows by (method, seed, sampler), the distillations by
    (method, seed); without a folder there is nothing."""

    def __init__(self, folder=None):
        self.folder, self.results = folder, [load(folder)] if folder else []
        self.rows = collections.defaultdict(list)
        self.distillations = collections.defaultdict(list)
        for results in self.results:
            for row in results["rows"]:
                if row["model"] != "judge":  # whose own row follows those that it was made with
                    key = row["name"], self.seed(row), row["sampler"]
                self.rows[key].append(row)
            for entry in results["distillations"]:
                self.distillations[entry["name"], entry["seed"]].append(entry)

    def seed(self, row):
        if "distillation_seed" not in row:
            raise Refused(f"--add: {self.folder}/results.json is of no benchmark of methods")
        return row["distillation_seed"]

    def seeds(self, method):
        return [seed for name, seed, _ in self.rows if name == method.name]

    def of(self, method, seed):
        """The rows of a method and a seed by all samplers."""
        wanted = method.name, seed
        return [row for key, rows in self.rows.items() if key[:2] == wanted for row in rows]

    def agrees(self, judge):
        """Refused if the rows were scored by another judge: GenPPL of two judges is no table."""
        for results in self.results:
            mine, other = results["judge"]["heldout_ppl"], judge["heldout_ppl"]
            if not math.isclose(mine, other, rel_tol=1e-2):  # Duo and SEDD cut blocks differently
                raise Refused(
                    f"--add: {self.folder}/results.json is of a judge with a held-out perplexity "
                    f"of {mine:.4f}, these samples of one with {other:.4f}; wanted: the same judge"
                )
