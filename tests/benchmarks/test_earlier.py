"""benchmarks.earlier: a table that adds to one that is there."""

import argparse
import json

import pytest

from benchmarks import sotu32, table
from duo_ext import Refused
from duo_ext.report import results, tables

SHIPPED = results.load("results/sotu32")


def some(*wanted):
    """The shipped results of these (method, seed), without rows by comb, and the judge's."""
    rows = [
        row
        for row in SHIPPED["rows"]
        if row["model"] == "judge"
        or ((row["name"], row["distillation_seed"]) in wanted and row["sampler"] != "comb")
    ]
    trained = [d for d in SHIPPED["distillations"] if (d["name"], d["seed"]) in wanted]
    return SHIPPED | {"rows": rows, "distillations": trained, "command": "before"}


@pytest.fixture
def adding(tmp_path):
    """A table that adds SDTT of two seeds to MDLM and the first of them."""
    results.save(some(("MDLM", 1), ("SDTT", 1)), tmp_path / "out")
    return table.Table(
        sotu32.BENCHMARK,
        argparse.Namespace(
            add=True,
            only=["SDTT"],
            seeds=[1, 2],
            jobs=1,
            steps=[4],
            samples=4,
            table=False,
            runs=tmp_path / "runs",
            output=tmp_path / "out",
        ),
    )


def of_a_run(adding, seed, **changes):
    """A run's folder with rows of SDTT as an evaluation writes them."""
    part = some(("SDTT", seed)) | {"commit": "later"} | changes
    part["rows"] = [
        {key: row[key] for key in row if key not in ("family", "distillation_seed")}
        for row in part["rows"]
        if row["model"] != "judge"
    ]
    results.save(part, adding.place(adding.by_name["SDTT"], seed) / "spread")


def test_what_output_has_is_neither_done_again_nor_lost(adding, monkeypatch):
    trained, sampled = [], []
    monkeypatch.setattr(adding, "train", lambda method, seed: trained.append(seed))
    monkeypatch.setattr(adding, "command", lambda *words: sampled.append(words[-1]))
    for seed in (1, 2):
        of_a_run(adding, seed)
    adding.make()
    assert {*trained} == {1, 2}
    by_comb = [adding.runs / "sdtt" / "1" / part for part in ("comb", "comb-frontier")]
    assert [path for path in sampled if path.parent.name == "1"] == by_comb
    others = {path.name for path in sampled if path.parent.name == "2"}
    assert others == {"few", "frontier", "spread-frontier", "comb", "comb-frontier"}
    found = results.load(adding.options.output)
    wanted = some(("MDLM", 1), ("SDTT", 1), ("SDTT", 2))["rows"]
    keys = ("model", "name", "steps", "genppl", "temperature", "sampler")
    told = [[tuple(row[key] for key in keys) for row in rows] for rows in (found["rows"], wanted)]
    assert told[0] == told[1]
    assert found["commit"] == f"{SHIPPED['commit']}, later"
    assert found["command"].startswith("before; python -m benchmarks.sotu32")
    assert [(d["name"], d["seed"]) for d in found["distillations"]] == [("SDTT", 1)]


def test_samples_under_another_judge_are_not_added(adding):
    of_a_run(adding, 2, judge={"name": "judge", "heldout_ppl": 9.0})
    with pytest.raises(Refused, match="these samples of one with 9"):
        adding.collect()


def test_rows_without_a_seed_are_of_no_table_of_methods(adding):
    path = adding.options.output / "results.json"
    rows = json.loads(path.read_text())
    del rows["rows"][0]["distillation_seed"]
    path.write_text(json.dumps(rows))
    with pytest.raises(Refused, match="is of no benchmark of methods"):
        table.Table(sotu32.BENCHMARK, adding.options)


def test_samples_to_read_follow_those_that_are_there(adding):
    """With its seeds turned round SDTT's second, which --output lacks, is the first."""
    adding.options.seeds = [2, 1]
    of_a_run(adding, 2)
    texts = {"there": ["a"]}, {"new": ["b"], "newer": ["c"]}
    places = adding.options.output, adding.place(adding.by_name["SDTT"], 2) / "spread"
    for place, own in zip(places, texts, strict=True):
        (place / "samples.md").write_text(tables.samples_markdown(own))
    adding.show()
    wanted = tables.samples_markdown(texts[0] | texts[1])
    assert (adding.options.output / "samples.md").read_text() == wanted
