"""The processes of a run."""

import signal

import pytest
import torch

from duo_ext import Refused
from sedd_ext import processes

ADDRESS = (("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1"))


@pytest.fixture
def joined(monkeypatch):
    """This process as one of two."""
    before = signal.getsignal(signal.SIGTERM)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), *ADDRESS):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    processes.join("cpu")
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("joined")
def test_a_process_that_torchrun_ends_says_why():
    """Where one is lost, the others may get SIGTERM before they meet that in a collective."""
    with pytest.raises(SystemExit, match="error: ended by SIGTERM, as when another process of"):
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)


@pytest.mark.parametrize("lost", processes.TORCHRUN)
def test_a_number_of_processes_that_torchrun_has_not_set_is_refused(monkeypatch, lost):
    """A cluster may set WORLD_SIZE for its own ends; to wait for the others would be for ever."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), *ADDRESS):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(lost)
    with pytest.raises(Refused, match=f"WORLD_SIZE is 2, but {lost} is not set: .* torchrun"):
        processes.join("cpu")
