"""duo_ext.ranks: how the processes of a run find, tell and wait for each other."""

import atexit
import signal
import time

import pytest
import torch

from duo_ext import Refused, ranks

ADDRESS = (("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1"))


@pytest.fixture
def of_two(monkeypatch):
    """The variables of the first of two processes."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), *ADDRESS):
        monkeypatch.setenv(name, value)


@pytest.fixture
def joined(monkeypatch, of_two):
    """This process as one of two."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, timeout: None)
    yield ranks.join("cpu")
    signal.signal(signal.SIGTERM, before)


def test_a_process_that_torchrun_ends_says_why(joined):
    """Where one is lost, the others may get SIGTERM before they meet that in a collective."""
    assert joined == (torch.device("cpu"), ranks.Ranks(0, 2))
    with pytest.raises(SystemExit, match="error: ended by SIGTERM, as when another process of"):
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)


def test_a_process_leaves_the_others_before_python_ends(monkeypatch, of_two, tmp_path):
    """Else a thread of gloo's may abort it: under load 2 of 100 ends."""
    init = torch.distributed.init_process_group
    own = {"init_method": f"file://{tmp_path}/store", "rank": 0, "world_size": 1}
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, timeout: init(backend, **own)
    )
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    at_the_end = []
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    ranks.join("cpu")
    assert torch.distributed.is_initialized()
    for leave in at_the_end * 2:  # Lightning may have left before
        leave()
    assert at_the_end and not torch.distributed.is_initialized()


@pytest.mark.parametrize("lost", ranks.TORCHRUN)
def test_a_number_of_processes_that_torchrun_has_not_set_is_refused(monkeypatch, of_two, lost):
    """A cluster may set WORLD_SIZE for its own ends; to wait for the others would be for ever."""
    monkeypatch.delenv(lost)
    with pytest.raises(Refused, match=f"WORLD_SIZE is 2, but {lost} is not set: .* torchrun"):
        ranks.join("cpu")


def test_a_device_that_torch_cannot_use_is_named_by_its_setting():
    with pytest.raises(Refused, match="--device is 'tpu'; torch cannot use it here"):
        ranks.join("tpu", "--device")


def test_one_process_asks_no_other():
    alone, made = ranks.ALONE, []
    assert alone.shared("abc", str.upper) == ["A", "B", "C"] and alone.gather(3) == [3]
    assert alone.agree(lambda: 4) == 4
    assert alone.in_turn(lambda: made.append(1)) is None and made == [1]


@pytest.mark.parametrize("world", [2, 3])
def test_work_is_shared_and_its_results_are_known_to_all(in_processes, world):
    def work():
        _, own = ranks.join("cpu")
        found = own.shared("abcde", lambda letter: (letter, own.rank))
        return found, own.agree(lambda: own.rank), own.gather(own.rank)

    shared = [(letter, n % world) for n, letter in enumerate("abcde")]
    assert in_processes(world, work) == [(shared, 0, list(range(world)))] * world


def test_the_first_process_makes_what_the_others_find(in_processes, tmp_path):
    def make():
        path, there = tmp_path / "cache", (tmp_path / "cache").exists()
        if not there:
            time.sleep(0.2)  # the others would come first
            path.touch()
        return there

    def work():
        _, own = ranks.join("cpu")
        return own.in_turn(make)

    assert in_processes(3, work) == [False, True, True]
