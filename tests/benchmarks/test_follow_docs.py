"""benchmarks.follow_docs: a page's blocks are run, made small by the table, or left out by it."""

import json
import re

import pytest

from benchmarks.follow_docs import __main__ as follow_docs
from benchmarks.follow_docs import rules, scratch, steps
from benchmarks.follow_docs.blocks import PAGES, blocks, commands

PAGE = """# A page

    echo first >> told   # a comment
    cat lost

```python
from pathlib import Path

assert Path("told").read_text() == "first\\n"
```

```text
neither
```

```bash
sbatch \\
  job.sh
```
"""


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """``follow(page)``: (exit code, its rows), in folders that stay from call to call."""
    monkeypatch.setattr(
        scratch, "clone", lambda source, place: place.mkdir(exist_ok=True, parents=True)
    )
    words = ["--runs", f"{tmp_path}/runs", "--output", f"{tmp_path}/out", "--pages"]

    def call(text):
        (tmp_path / "page.md").write_text(text)
        arguments = [*words, f"{tmp_path}/page.md"]
        code = follow_docs.main(arguments)
        return code, json.loads((tmp_path / "out" / "results.json").read_text())["rows"]

    return call


def test_a_block_that_fails_or_is_not_known_fails_the_page(follow, tmp_path):
    code, rows = follow(PAGE)
    told = {row["text"]: (row["how"], row["error"]) for row in rows if row["page"] == "page.md"}
    assert code == 1 and len(told) == 5
    assert told["echo first >> told"] == ("as written", None)
    assert re.match("exit code 1: cat: lost: No such file", told["cat lost"][1])
    assert str(tmp_path) not in json.dumps(rows)
    [python] = [found for text, found in told.items() if "pathlib" in text]
    assert python == ("as written", None)
    assert told["neither"][1] == "a block of text is neither run nor in the table"
    assert told["sbatch job.sh"] == ("not run", None)
    assert {row["error"] for row in rows if row["page"] != "page.md"} == {None, "not reached"}
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| page.md | `cat lost` | as written | FAILED |" in table
    assert "4 commands in standalone; 2 failed" in " ".join(table.split())


def test_what_has_run_is_not_run_again(follow, tmp_path):
    assert follow("    echo one >> told\n    echo two >> told\n")[0] == 0
    assert follow("    echo one >> told\n    echo 2 >> told\n")[0] == 0
    assert next(tmp_path.glob("runs/*/page/*/told")).read_text() == "one\ntwo\n2\n"


def test_a_command_that_takes_too_long_is_ended_with_what_it_started(tmp_path):
    environment = {"PATH": "/bin:/usr/bin"}
    code = scratch.run("sleep 60 & sleep 60", tmp_path, environment, tmp_path / "printed", 0.2)
    assert code == "more than 0.2 seconds"


def test_blocks_come_in_the_order_of_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = blocks(page)
    assert [language for language, _ in found] == ["bash", "python", "text", "bash"]
    assert commands(found[0][1]) == ["echo first >> told", "cat lost"]
    assert commands(found[-1][1]) == ["sbatch job.sh"]


def test_every_rule_is_of_a_command():
    """And every page that is given something exists."""
    found = [text for page in PAGES for *_, text in steps.texts(page)]
    used = {rules.rule_for(text) for text in found}
    assert [rule.pattern for rule in rules.RULES if rule not in used] == []
    assert rules.BOUND.keys() <= {steps.name_of(page) for page in PAGES}


@pytest.mark.parametrize(
    ("text", "trees"),
    [
        ("python -m duo_ext.evaluate --steps 4", rules.DUOS),
        ("torchrun --nproc-per-node 2 -m sedd_ext x=1", ("standalone", "sedd")),
        ("python -m duo_ext.report runs/mine", ("standalone",)),
        ("python -m duo_ext.export best.ckpt --for harness", ("duo main",)),
    ],
)
def test_a_command_runs_in_the_trees_of_its_program(text, trees):
    assert rules.trees_of(text) == trees


def test_a_command_without_its_checkouts_is_told():
    [command] = [t for p in PAGES for *_, t in steps.texts(p) if "tests/upstream" in t]
    step = steps.Step("docs/hosts.md", 1, 0, "bash", command, None, rules.AS_WRITTEN)
    [told] = steps.in_trees(step, {"sedd": "/sedd"}, None)
    assert told.how == "not run" and told.reason == "--host gave no duo ch-1, duo main"
    [ran] = steps.in_trees(step, dict.fromkeys(rules.TREES[1:], "/x"), None)
    assert ran.how == "small" and "DUO_MAIN_ROOT=$DUO_MAIN SEDD_ROOT=$SEDD " in ran.ran
    [whole] = steps.in_trees(step, dict.fromkeys(rules.TREES[1:], "/x"), "hosts.*upstream")
    assert whole.how == "as written"
