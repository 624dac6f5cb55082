"""Runs on disk: checkpoints written whole, read without running code, and the way back in."""

import copy
import logging
import os

import numpy
import pytest
import torch


@pytest.fixture
def start(sedd, network, compose):
    """``start(seed)`` is the state of a run with random weights, in SEDD's form."""

    def make(seed=0, wrap=True, **overrides):
        model = network("model.dropout=0", seed=seed)
        noise = sedd.noise_lib.LogLinearNoise()
        parameters = [*model.parameters(), *noise.parameters()]
        return {
            "optimizer": sedd.losses.get_optimizer(compose(), parameters),
            "scaler": torch.amp.GradScaler("cuda", enabled=False),
            "model": Wrapped(model) if wrap else model,
            "noise": noise,
            "ema": sedd.model.ema.ExponentialMovingAverage(model.parameters(), 0.5),
            "step": 0,
        }

    return make


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel holds a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, sigma):
        return self.module(x, sigma)


@pytest.fixture
def advance(sedd, compose):
    def run(state, updates, seed=0):
        graph, optimize = sedd.graph_lib.Absorbing(5), sedd.losses.optimization_manager(compose())
        step_fn = sedd.losses.get_step_fn(state["noise"], graph, True, optimize, 1)
        for update in range(state["step"], state["step"] + updates):
            torch.manual_seed(update)
            step_fn(state, torch.randint(5, (4, 8)))

    return run


def weights(state):
    return [*state["model"].parameters(), *state["ema"].shadow_params]


@pytest.mark.parametrize("wrap", [True, False])
def test_a_resumed_run_is_the_run(sedd, start, advance, tmp_path, wrap):
    path = str(tmp_path / "run" / "checkpoints-meta" / "checkpoint.pth")
    straight = start(wrap=wrap)
    advance(straight, 4)
    state = start(wrap=wrap)
    advance(state, 2)
    sedd.utils.save_checkpoint(path, state)
    resumed = sedd.utils.restore_checkpoint(path, start(seed=9, wrap=not wrap), "cpu")
    advance(resumed, 2)
    assert resumed["step"] == 4
    assert all(map(torch.equal, weights(resumed), weights(straight)))
    assert not torch.equal(weights(resumed)[0], weights(start())[0])


def test_the_layout_is_sedds(sedd, start, advance, tmp_path):
    state = start()
    advance(state, 3)
    path = tmp_path / "checkpoint.pth"
    sedd.utils.save_checkpoint(str(path), state)
    saved = torch.load(path, weights_only=True)  # nothing that needs an exception
    assert set(saved) == {"optimizer", "model", "ema", "step"} and saved["step"] == 3
    assert list(saved["model"]) == list(state["model"].module.state_dict())
    assert set(saved["ema"]) == {"decay", "num_updates", "shadow_params"}
    assert saved["ema"]["num_updates"] == 3
    (group,) = saved["optimizer"]["param_groups"]
    count = len(state["ema"].shadow_params)
    assert group["params"] == list(range(count + 1))  # the noise's parameter comes last
    assert set(saved["optimizer"]["state"]) == set(range(count))


def test_a_checkpoint_is_written_whole_or_not_at_all(sedd, start, tmp_path, monkeypatch):
    path, state = str(tmp_path / "checkpoint.pth"), start()
    sedd.utils.save_checkpoint(path, state)
    before = (tmp_path / "checkpoint.pth").read_bytes()
    state["step"] = 7

    def full_disk(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        sedd.utils.save_checkpoint(path, state)
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == before


def test_the_numpy_scalar_of_sedds_warm_up_is_read_as_a_float(sedd, start, advance, tmp_path):
    state, path = start(), str(tmp_path / "checkpoint.pth")
    advance(state, 1)
    state["optimizer"].param_groups[0]["lr"] = numpy.float64(0.125)
    sedd.utils.save_checkpoint(path, state)
    with pytest.raises(Exception, match="numpy"):
        torch.load(path, weights_only=True)
    group = sedd.utils.read_checkpoint(path)["optimizer"]["param_groups"][0]
    assert type(group["lr"]) is float and group["lr"] == 0.125
    with pytest.raises(Exception, match="numpy"):  # the list of types is not left behind
        torch.load(path, weights_only=True)


def test_other_objects_are_refused_and_not_made(sedd, start, tmp_path):
    class Foreign:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "proof"),)

    path = tmp_path / "checkpoint.pth"
    torch.save({"optimizer": {}, "model": {}, "ema": {}, "step": Foreign()}, path)
    with pytest.raises(ValueError, match=r"holds '\S*mkdir', which could run code: only tensors"):
        sedd.utils.restore_checkpoint(str(path), start(), "cpu")
    torch.save({"optimizer": numpy.arange(3, dtype=object)}, path)
    with pytest.raises(ValueError, match="only tensors and plain values are loaded"):
        sedd.utils.read_checkpoint(str(path))
    assert not (tmp_path / "proof").exists()


def test_files_that_are_no_checkpoints_are_refused(sedd, start, tmp_path):
    path = tmp_path / "checkpoint.pth"
    with pytest.raises(ValueError, match=f"the checkpoint is '{path}'; it cannot be opened"):
        sedd.utils.read_checkpoint(str(path))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"is damaged, or no file of torch.save"):
        sedd.utils.read_checkpoint(str(path))
    for content, lacking in (({"model": {}, "step": 1}, "optimizer, ema"), ([1], "optimizer, mod")):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"is no checkpoint of SEDD: it lacks {lacking}"):
            sedd.utils.read_checkpoint(str(path))


def test_weights_of_another_model_are_refused(sedd, start, network, tmp_path):
    path, state = str(tmp_path / "checkpoint.pth"), start()
    sedd.utils.save_checkpoint(path, state)
    state["model"] = network("tokens=9")
    with pytest.raises(ValueError, match=r"those of another model: size mismatch for vocab_emb"):
        sedd.utils.restore_checkpoint(path, state, "cpu")
    state["model"] = network("model.n_blocks=1")
    with pytest.raises(ValueError, match=r"are those of another model: Unexpected key"):
        sedd.utils.restore_checkpoint(path, state, "cpu")


def test_without_a_checkpoint_a_run_starts_anew_and_says_so(sedd, start, tmp_path, caplog):
    state = start()
    before = copy.copy(state)
    with caplog.at_level(logging.WARNING):
        restored = sedd.utils.restore_checkpoint(str(tmp_path / "none.pth"), state, "cpu")
    assert restored is state and state == before and "a new start" in caplog.text


def test_the_configuration_of_a_run(sedd, compose, tmp_path):
    with pytest.raises(ValueError, match=r"is no folder of a run: it has no .hydra/config.yaml"):
        sedd.utils.load_hydra_config_from_run(str(tmp_path))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("tokens: 5\n")
    assert sedd.utils.load_hydra_config_from_run(str(tmp_path)).tokens == 5
