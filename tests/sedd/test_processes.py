"""The processes of a run."""

import signal

import pytest
import torch

from sedd_ext import processes


@pytest.fixture
def joined(monkeypatch):
    """This process as one of two."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    processes.join("cpu")
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("joined")
def test_a_process_that_torchrun_ends_says_why():
    """Where one is lost, the others may get SIGTERM before they meet that in a collective."""
    with pytest.raises(SystemExit, match="error: ended by SIGTERM, as when another process of"):
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
