"""duo_ext.commands.folder: one run at a time in a folder, and a folder of its own for each."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from duo_ext import Refused
from duo_ext.commands import folder

HOLD = "from duo_ext.commands import folder; folder.claim({!r}); print('held', flush=True); input()"


@contextlib.contextmanager
def holder(place, program=HOLD):
    """Another process that has claimed the folder."""
    command = [sys.executable, "-c", textwrap.dedent(program).format(str(place))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_belongs_to_one_process(tmp_path):
    with holder(tmp_path / "run") as process:
        wanted = rf"hydra.run.dir is '.*run'; process {process.pid} on .* is at work there"
        with pytest.raises(Refused, match=wanted):
            folder.claim(tmp_path / "run")


def test_the_process_that_has_it_may_claim_it_again_by_any_name(tmp_path, monkeypatch):
    folder.claim(tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    for name in ("run", "run/", "link", tmp_path / "run"):
        folder.claim(name)
    with holder(tmp_path / "other"):
        pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_was_ended_holds_nobody_up(tmp_path, end):
    with holder(tmp_path) as process:
        process.send_signal(end)
        process.wait()
        folder.claim(tmp_path)


def test_nor_does_a_data_worker_that_outlives_it(tmp_path):
    """A worker is forked and has its parent's open files."""
    forking = """
        import os, sys, time
        from duo_ext.commands import folder
        folder.claim({!r})
        worker = os.fork()
        if not worker:
            time.sleep(60)
        print("held", flush=True)
        print(worker, flush=True)
        input()
    """
    with holder(tmp_path, forking) as process:
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        os.kill(worker, 0)  # it lives
        folder.claim(tmp_path)
        os.kill(worker, signal.SIGKILL)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(folder.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder.fcntl, "lockf", refuse)
    folder.claim(tmp_path)
    assert "has no locks: nothing keeps two runs from one folder" in caplog.text


def test_names_that_are_taken_get_a_number(tmp_path):
    name = str(tmp_path / "104500")
    assert [folder.unused(name) for _ in range(3)] == [name, f"{name}-2", f"{name}-3"]
    assert sorted(os.listdir(tmp_path)) == ["104500", "104500-2", "104500-3"]


@pytest.mark.parametrize("rank", folder.LIGHTNING)
def test_a_run_claims_its_folder_once_whatever_started_it(monkeypatch, rank):
    for name in folder.LIGHTNING:
        monkeypatch.delenv(name, raising=False)
    first = folder.guarded(["seed=1"])
    assert first == ["seed=1", "++hydra.callbacks.idlm._target_=duo_ext.commands.folder.Claim"]
    monkeypatch.setenv(rank, "0")
    assert folder.guarded(first) == first
    monkeypatch.setenv(rank, "1")
    assert folder.guarded(first) == ["seed=1", "hydra.output_subdir=null"]


def test_processes_that_srun_alone_numbers_are_runs_of_their_own_for_sedd(monkeypatch):
    """sedd_ext is numbered by torchrun: what srun starts four times are four runs."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert folder.guarded([], folder.TORCHRUN)[0].endswith("duo_ext.commands.folder.Claim")
    assert not folder.is_first_process()
