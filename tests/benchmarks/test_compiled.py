"""benchmarks.compiled at a size that takes no time, and what it counts in compiled kernels."""

import json

import pytest
import torch

from benchmarks import compiled
from benchmarks.rehearsal import fused, guard
from duo_ext import Refused
from duo_ext.core import gaussian


def test_each_form_has_a_row(monkeypatch, tmp_path):
    """Without the compiler."""
    monkeypatch.setattr("benchmarks.compiled.compiled", lambda form: form)
    monkeypatch.setattr(compiled, "keep_memory", lambda: "as it was")
    monkeypatch.setattr(fused, "of_each", lambda *calls: [10.0 + len(call) for call in calls])
    compiled.main(["--rows=4", "--vocabulary=50", f"--output={tmp_path}"])
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["loss"] for row in rows] == list(compiled.FORMS)
    assert all(row["bytes"] > 16 and row["ms"] > 0 and row["ms_compiled"] > 0 for row in rows)
    assert [row["bytes_compiled"] for row in rows] == [11 + len(k) for k in compiled.FORMS.values()]
    assert "| uniform_ratio | " in (tmp_path / "table.md").read_text()


def overwrite(x, y):
    x.add_(y)


def fuse(x, y):
    return (x + y) * (x - y)


def overwrite_and_use(x):
    """inductor keeps the products, to copy them once the row is read."""
    return x.mul_(2).sum(-1)


def softmax(x):
    """Read for the largest, for the sum and for the quotients."""
    return x.softmax(-1)


def center(x):
    """The sum is known at the end of a row, which is read again."""
    return x - x.mean(-1, keepdim=True)


def pick(x, z):
    return x.gather(-1, z[:, None])


def put(x, z):
    """Single entries, and a copy of all others."""
    return x.scatter(-1, z[:, None], 0.0)


WIDE, HALF, TOKEN = (torch.float32, 2), (torch.bfloat16, 2), (torch.int64, 1)
BY_HAND = [
    (overwrite, [WIDE, HALF], (4 + 2) + 4),
    (fuse, [WIDE, HALF], (4 + 2) + 4),
    (overwrite_and_use, [WIDE], (4 + 4) + (4 + 4)),
    (softmax, [WIDE], 4 + 4 + (4 + 4)),
    (center, [HALF], 2 + (2 + 2)),
    (pick, [WIDE, TOKEN], 0),
    (put, [WIDE, TOKEN], 4 + 4),
]


def test_bytes_of_compiled_kernels_are_those_by_hand():
    try:
        guard.build()
    except Refused as refused:
        pytest.skip(str(refused))
    found = fused.of_each(*((formula, *kinds) for formula, kinds, _ in BY_HAND))
    names = [formula.__name__ for formula, *_ in BY_HAND]
    assert dict(zip(names, found, strict=True)) == {f.__name__: wanted for f, _, wanted in BY_HAND}


def test_noise_is_completed_in_few_bytes():
    """Of dense inputs; autograd's way and special.ndtr's took 134."""
    R, V = 3, 50
    p, w = torch.rand(R, V), torch.rand(R, V).topk(4)
    with compiled.Counted(V) as counted:
        gaussian.completed(p, *w, torch.full((R, 1), 0.7), torch.full((R, 1), 0.5), 0)
    assert 40 < counted.traffic.elementwise.total() / (R * V) <= 64
