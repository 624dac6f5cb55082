"""duo_ext.overview: families in one table, seeds joined, equal entropy, published rows apart."""

import json
import re

from duo_ext.report import compare, families, pages
from duo_ext.report.results import save


def test_seeds_become_one_row(results):
    (student,) = (
        row
        for row in compare.seeds_joined(results["rows"])
        if row["name"] == "IDLM-Duo" and row["temperature"] == 1
    )
    assert student["genppl"] == 14.0 and student["seeds"] == 2
    assert (student["genppl_low"], student["genppl_high"]) == (0.9 * 12, 1.1 * 16)
    assert len(compare.seeds_joined(results["rows"])) == 5


def test_checkpoints_that_are_no_seeds_stay_apart(row):
    rows = [row("idlm", 8, ppl, checkpoint_sha256=str(ppl)) for ppl in (12.0, 16.0)]
    assert compare.seeds_joined(rows) == rows


def test_a_sampler_is_named_where_it_differs_within_a_family(results, row):
    """The other family's predictor is no difference within Duo's."""
    rows = results["rows"]
    assert {sampler for _, _, sampler in compare.lines(rows)} == {""}
    other = row("SEDD", 8, 20.0, model="teacher", family="SEDD", predictor="analytic")
    greedy = row("Duo", 8, 30.0, model="teacher", noise_removal="greedy")
    found = compare.lines([*rows, other, greedy])
    assert ("SEDD", "SEDD", "") in found and ("MDLM", "MDLM", "") in found
    assert ("Duo", "Duo", "greedy") in found and ("Duo", "IDLM-Duo", "ancestral") in found


def test_every_method_is_a_line_and_every_number_of_steps_a_column(results):
    head, _, *body = families.methods(compare.seeds_joined(results["rows"])).splitlines()
    assert head == "| family | method | 8 | 32 |"
    assert body[0].startswith("| Duo | Duo | 24.00 / 2.800<br>[21.60, 26.40] | 14.00 / 2.700")
    assert body[1] == "| Duo | IDLM-Duo | 14.00 / 2.800<br>[10.80, 17.60] |  |"
    assert body[2].startswith("| MDLM | MDLM | 20.00 / 2.800")


def test_what_trainings_took_is_a_line_each_over_their_seeds(results):
    updates = {"updates": 200, "kept_pair": 80, "seconds": 100.0, "updates_per_second": 2.0}
    longer = {"updates": 100, "kept_pair": None, "seconds": 200.0, "updates_per_second": 0.5}
    entries = [{"name": "IDLM-Duo", "seed": 1} | updates, {"name": "IDLM-Duo", "seed": 2} | longer]
    rows = [given | {"seconds": 1800.0} for given in results["rows"]]
    text = families.page(results | {"distillations": entries, "rows": rows})
    hours = f"0.1 hours of training, {len(rows) / 2:.1f} of sampling"
    assert f"One program at a time: {hours}." in text
    assert "| IDLM-Duo | 2 | 150 | 150 | 1.25 | 80, none |" in text.splitlines()
    assert text.index("## Trainings") < text.index("## Published")
    assert "## Trainings" not in families.page(results)


def test_published_rows_stand_apart_and_are_the_papers(results):
    text = families.page(results)
    measured, _, rest = text.partition("## Published")
    assert "GPT-2 large" not in measured and "GPT-2 large" in rest and "Not measured" in rest
    numbers = json.loads(families.PUBLISHED.read_text())["methods"]["IDLM-DCD, greedy"]
    numbers = {int(steps): tuple(own) for steps, own in numbers.items()}
    assert numbers == {4: (77.47, 5.28), 8: (53.61, 5.41), 16: (43.36, 5.41), 32: (39.34, 5.35)}
    assert re.search(r"\| IDLM-MDLM \| 310.38 / 5.78 \| 79.75 / 5.61 \| 32.75", rest)


def test_a_folder_of_families_is_rendered(results, tmp_path):
    save(results, tmp_path)
    pages.render(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.index("## Methods over steps") < text.index("## Published") < text.index("## All")
    for name in ("figure.png", "equal_entropy.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    panels = families.plot(results).axes
    assert [axes.get_title() for axes in panels[:2]] == ["Duo", "MDLM"]
    assert {line.get_label() for line in panels[0].lines} >= {"Duo", "IDLM-Duo"}
