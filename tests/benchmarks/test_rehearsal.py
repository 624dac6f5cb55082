"""benchmarks.rehearsal: what it counts is right, and the core's pairs keep within bounds.

Each child process serves one fake device; the tests skip where it cannot be built.
"""

import json
import re
import subprocess
import sys
import textwrap

import pytest

from benchmarks.rehearsal import __main__ as rehearsal
from benchmarks.rehearsal import guard, report
from duo_ext import Refused

# of a micro-batch; an update may add one
WAITS = {"mdlm": 1, "sedd": 1, "categorical": 2, "gaussian": 3}
# bytes a token and entry of the vocabulary that elementwise operations move in a pair
BYTES = {"mdlm": 50, "sedd": 50, "categorical": 230, "gaussian": 435}
# the same with algo.compile; a third of 143, 124, 336 and 782, which it was before closed forms
COMPILED = {"mdlm": 47, "sedd": 41, "categorical": 112, "gaussian": 260}
# forward passes of body and head that a pair's matrix products are
PASSES = {"mdlm": (9, 3.5), "sedd": (9, 3.5), "categorical": (9, 10), "gaussian": (11, 11)}


@pytest.fixture(scope="session")
def library():
    try:
        return guard.build()
    except Refused as refused:
        pytest.skip(str(refused))


def measured(names, precision):
    """{name: its row} of a pair in the standalone tree."""
    given = ["--pairs", "1", "--precision", precision, "--only", *names]
    options = rehearsal.arguments(given)
    for key in ("duo", "duo_main", "sedd"):
        setattr(options, key, None)
    return {row["name"]: row for row in rehearsal.measured(options)}


@pytest.fixture(scope="session")
def rows(library):
    """Of all processes, in the precision that is the default."""
    names = [f"standalone/{process}" for process in report.PROCESSES]
    return measured([*names, "standalone/mdlm/options"], "mixed")


def test_no_operator_gets_tensors_of_two_devices(rows):
    assert {name: row["mixed"] for name, row in rows.items() if row["mixed"]} == {}


@pytest.mark.parametrize("process", report.PROCESSES)
def test_the_host_seldom_waits_for_the_device(rows, process):
    row = rows[f"standalone/{process}"]
    for part, waits in row["waits"].items():
        bound = 1 if "update" in part else WAITS[process]
        assert waits <= bound, f"{part}: {row['waits_at'][part]}"


@pytest.mark.parametrize("process", report.PROCESSES)
def test_elementwise_operations_move_few_bytes(rows, process):
    row = rows[f"standalone/{process}"]
    assert 10 < row["elementwise_bytes"] <= BYTES[process], row["bytes_by_operator"]


@pytest.mark.parametrize("process", report.PROCESSES)
def test_compiled_they_move_a_third_of_autograds(rows, process):
    row = rows[f"standalone/{process}"]
    assert 10 < row["compiled_bytes"] <= COMPILED[process]


@pytest.mark.parametrize("process", report.PROCESSES)
def test_a_pair_runs_the_passes_of_docs_scale(rows, process):
    row = rows[f"standalone/{process}"]
    bodies, heads = PASSES[process]
    assert sum(row["bodies"].values()) == pytest.approx(bodies, rel=0.06)  # embeddings, time too
    assert sum(row["heads"].values()) == pytest.approx(heads, rel=0.05)


def test_networks_in_float32_have_no_product_in_bf16(library):
    """Under the trainer's autocast to bf16, which lies around a step."""
    row = measured(["standalone/mdlm"], "float32")["standalone/mdlm"]
    assert row["products"].keys() == {"float32"}


@pytest.fixture(scope="session")
def counted(library):
    """``counted(code)``: the JSON that code on the fake device prints last."""

    def run(code):
        lines = ["import ctypes, json", f"ctypes.CDLL({str(library)!r}, ctypes.RTLD_GLOBAL)"]
        lines += ["from benchmarks.rehearsal import counts, fakecuda", "fakecuda.pretend()"]
        lines += ["import torch", textwrap.dedent(code)]
        command = [sys.executable, "-c", "\n".join(lines)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=rehearsal.HERE)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_waits_and_mixed_devices_are_seen(counted):
    """One of each that waits, of some that do not, and operands of two devices."""
    waits, mixed = counted(
        """
        waiting = {
            "item": lambda x: x[0].item(),
            "truth": lambda x: bool(x.any()),
            "tolist": lambda x: x.tolist(),
            "to the CPU": lambda x: x.cpu(),
            "from the CPU": lambda x: torch.ones(3).to("cuda"),
            "new_tensor": lambda x: x.new_tensor(1.0),
            "picked by booleans": lambda x: x[x > 1],
            "put by booleans": lambda x: x.__setitem__(x > 1, 0.0),
            "nonzero": lambda x: x.nonzero(),
            "isfinite": lambda x: bool(torch.isfinite(x[0])),
        }
        free = {
            "made": lambda x: torch.zeros(3, device="cuda"),
            "like": lambda x: torch.rand_like(x),
            "picked": lambda x: x[torch.zeros(2, dtype=torch.long, device="cuda")],
            "where": lambda x: torch.where(x > 1, x, 0.0),
            "cast": lambda x: x.to(torch.bfloat16),
            "a number": lambda x: x + torch.tensor(1.0),
            "later": lambda x: x.to("cpu", non_blocking=True),
        }
        mixing = {
            "sum": lambda x: x + torch.ones(3),
            "product": lambda x: x @ torch.ones(3),
            "where": lambda x: torch.where(torch.ones(3) > 0, x, x),
        }

        def run(what):
            with fakecuda.Device() as device:
                what(torch.arange(3.0, device="cuda"))
            return device.waits.total(), device.mixed.total()

        found = {name: run(what) for name, what in (waiting | free | mixing).items()}
        waits = {name: n for name, (n, _) in found.items() if n}
        mixed = {name: n for name, (_, n) in found.items() if n}
        assert waits.keys() == waiting.keys(), waits
        assert mixed.keys() == mixing.keys(), mixed
        print(json.dumps([waits, mixed]))
        """
    )
    assert set(waits.values()) == set(mixed.values()) == {1}


def test_bytes_and_kernels_of_known_operations(counted):
    """Tensors of 6 rows of 10 entries; 1 is 6 x 10 x 4 bytes."""
    moved = counted(
        """
        R, V, D = 6, 10, 3
        tokens = torch.zeros(R, 1, dtype=torch.long)
        known = {
            "sums": (lambda x, i: x + x[:, :1] + x, (1 + 1) + (2 + 1)),  # a column is not over it
            "softmax": (lambda x, i: x.softmax(-1), 2),
            "in place": (lambda x, i: x.mul_(2), 2),
            "made": (lambda x, i: torch.zeros_like(x), 1),
            "empty": (lambda x, i: torch.empty_like(x), 0),
            "view": (lambda x, i: x.view(2, 3, V).transpose(0, 1), 0),
            "unflattened": (lambda x, i: x.unflatten(-1, (2, 5)).exp(), 2),
            "half": (lambda x, i: x.bfloat16(), 1.5),
            "broadcast": (lambda x, i: x[:1].expand(R, V) + x, 2 + 0),
            "gathered": (lambda x, i: x.gather(-1, i), 0),
            "rows": (lambda x, i: x[i[:, 0]], 2),
            "overwritten": (lambda x, i: x.copy_(torch.zeros_like(x)), 1 + 2),
            "masked": (lambda x, i: x.masked_fill(torch.ones(V, device="cuda") > 0, 0.0), 4),
            "weights": (lambda x, i: torch.ones(V, D, device="cuda") * 2, 0),
            "a product": (lambda x, i: x @ torch.ones(V, D, device="cuda"), 0),
        }
        found = {}
        for name, (what, wanted) in known.items():
            traffic = counts.Traffic(counts.over_vocabulary(V, D))
            with fakecuda.Device() as device:
                x = torch.ones(R, V, device="cuda")
                i = tokens.to("cuda")
                device.watchers = (traffic,)
                what(x, i)
            found[name] = traffic.elementwise.total() / (R * V * 4), wanted
            if name == "a product":
                assert traffic.products == {"mv": 0} or traffic.products.total() == R * V * 4
        print(json.dumps(found))
        """
    )
    assert {name: n for name, (n, _) in moved.items()} == {n: w for n, (_, w) in moved.items()}


def test_attention_and_gradients_are_those_of_the_cpu(counted):
    """Under bf16 autocast too; one kernel forward, one backward; 4 and 8 B H L L K operations."""
    errors, kernels, flops = counted(
        """
        torch.manual_seed(0)
        plain = [torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3)]
        expected = fakecuda.plain_attention(*plain, is_causal=True)
        expected.square().sum().backward()
        fakes = [torch.nn.Parameter(fakecuda.Fake(x.detach().clone())) for x in plain]
        launched, products = counts.Kernels(), counts.Products(99)
        with fakecuda.Device(watchers=(launched, products)):
            attention = torch.nn.functional.scaled_dot_product_attention
            found = attention(*fakes, is_causal=True)
            one = launched.count
            found.backward(2 * found.detach())
            with torch.autocast("cuda", torch.bfloat16):
                assert attention(*fakes).dtype == torch.bfloat16
        errors = [(found.inner - expected).abs().max().item()]
        errors += [(f.grad.inner - x.grad).abs().max().item() for f, x in zip(fakes, plain)]
        print(json.dumps([errors, one, sum(products.flops.values())]))
        """
    )
    assert max(errors) < 1e-5 and kernels == 1
    assert flops == (4 + 8 + 4) * 2 * 3 * 5 * 5 * 4


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--only", "stand"], "--only is 'stand', which names none of standalone/mdlm"),
        (["--sedd", "none"], "--sedd is 'none', where there is no model/transformer.py"),
        (["--tree", "none"], "--tree is 'none', where there is no duo_ext/standalone/models/dit"),
    ],
)
def test_what_is_not_there_is_one_sentence(given, sentence):
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        rehearsal.main(given)


def test_without_a_compiler_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(guard.shutil, "which", lambda name: None)
    monkeypatch.setattr(guard.torch.version, "cuda", None)
    with pytest.raises(
        Refused, match=r"no C\+\+ compiler was found; .* needs \$CXX, g\+\+ or c\+\+"
    ):
        guard.build()


def test_rows_take_the_place_of_their_like(rows, tmp_path):
    made = dict.fromkeys(("commit", "host_commit", "torch", "command"), "x")
    pairs = [row | made for row in rows.values()]
    report.write(tmp_path, "before", pairs)
    report.write(tmp_path, "after", [row | {"elementwise_bytes": 41.0} for row in pairs[:1]])
    report.write(tmp_path, "after", [row | {"elementwise_bytes": 42.0} for row in pairs[:1]])
    found = report.read(tmp_path)
    assert len(found["before"]) == len(rows) and len(found["after"]) == 1
    assert found["after"][0]["elementwise_bytes"] == 42.0
    table = (tmp_path / "table.md").read_text()
    assert "| standalone | mdlm | before | " in table and "| 42 | " in table
    assert (tmp_path / "figure.png").exists()
