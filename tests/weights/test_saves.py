"""weights.saves: no second copy in memory, each state once, the last two, whole or not at all."""

import subprocess
import sys

import pytest
import torch

from duo_ext import files
from duo_ext.weights import saves

PEAK = """if True:
    import re, sys, torch
    from duo_ext.weights import saves

    def megabytes(name):
        return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

    tensors = [torch.ones(200 * 2**18), *torch.ones(100, 2**17).unbind()]
    saves.write(sys.argv[1] + "/first", {"imports": "what saving needs"})
    open("/proc/self/clear_refs", "w").write("5")
    before = megabytes("VmRSS")
    saves.write(sys.argv[1] + "/last.ckpt", {"state": tensors})
    print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_save_adds_no_copy_to_the_memory(tmp_path):
    """Of 250 MB, 200 of them in one tensor, less than 30 at any time."""
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 30
    assert (tmp_path / "last.ckpt").stat().st_size > 250 * 2**20


def value(path):
    with files.opened(path) as file:
        return torch.load(file, weights_only=True)["x"]


@pytest.mark.parametrize("place", ["", "memory://saves"], ids=["local", "memory"])
@pytest.mark.parametrize(
    ("name", "before"), [("last.ckpt", "previous.ckpt"), ("checkpoint.pth", "previous.pth")]
)
def test_the_last_two_are_kept(tmp_path, place, name, before):
    folder = place + str(tmp_path)
    for x in range(4):
        saves.write(f"{folder}/{name}", {"x": x})
        assert value(f"{folder}/{name}") == x
        assert not x or value(f"{folder}/{before}") == x - 1
    saves.write(f"{folder}/best.ckpt", {"x": 9})
    system, path = files.located(folder)
    names = {found.rpartition("/")[2] for found in system.ls(path, detail=False)}
    assert names == {name, before, "best.ckpt"}


def test_in_a_folder_without_a_name_the_one_before_lies_beside_it(tmp_path, monkeypatch):
    """Not at the root of the disk."""
    monkeypatch.chdir(tmp_path)
    for x in range(2):
        saves.write("last.ckpt", {"x": x})
    assert saves.previous("last.ckpt") == "previous.ckpt" and value("previous.ckpt") == 0


@pytest.mark.parametrize("links", [True, False])
def test_one_state_is_written_once_and_has_all_its_names(tmp_path, monkeypatch, links):
    """Where a file system has no links, by a copy."""

    def refuse(*given):
        raise OSError("no links")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    last, best = f"{tmp_path}/last.ckpt", f"{tmp_path}/best.ckpt"
    kept, written = saves.Saves(), []

    def save(state, path):
        kept.save(state, path, lambda: written.append(state) or saves.write(path, {"x": state}))

    for state, path in (
        (1, last),
        (1, last),
        (2, best),
        (2, last),
        (2, best),
        (2, last),
        (3, last),
    ):
        save(state, path)
    assert written == [1, 2, 3]
    assert [value(path) for path in (last, f"{tmp_path}/previous.ckpt", best)] == [3, 2, 2]


def test_a_full_disk_costs_neither_of_the_two(tmp_path):
    """Met amid a tensor, where torch calls it something else."""
    last = tmp_path / "last.ckpt"
    for x in range(2):
        saves.write(last, {"x": x})
    script = """if True:
        import resource, signal, sys, torch
        from duo_ext.weights import saves
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        try:
            saves.write(sys.argv[1], {"x": torch.ones(2**20)})
        except OSError as error:
            print(error)
    """
    command = [sys.executable, "-c", script, str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{last} cannot be written: File too large; what was there is kept\n"
    assert (value(last), value(tmp_path / "previous.ckpt")) == (1, 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_faults_of_torch_keep_their_name(tmp_path):
    class Broken:
        def __reduce__(self):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        saves.write(tmp_path / "last.ckpt", {"x": Broken()})
    assert not list(tmp_path.iterdir())
