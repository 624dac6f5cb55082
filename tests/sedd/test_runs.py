"""sedd_ext.runs: a run is found from any of its files, and told where it is damaged."""

import os
import types

import pytest
import torch

from duo_ext import Refused
from sedd_ext import runs

WEIGHTS = {"vocab_embed.embedding": torch.ones(3, 2)}
SETTINGS = "algo: {name: idlm}\nmodel: {length: 16}\n"


@pytest.fixture
def folder(tmp_path):
    """A run with two checkpoints and its settings."""
    run = tmp_path / "a::b" / "run"
    for name in (runs.LAST, runs.BEST, runs.CONFIG):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
    for name in (runs.LAST, runs.BEST):
        torch.save({"model": WEIGHTS, "ema": {"shadow_params": []}, "step": 1}, run / name)
    (run / runs.CONFIG).write_text(SETTINGS)
    return run


def test_a_run_is_found_from_its_folder_or_a_file_of_it_wherever_one_stands(folder, monkeypatch):
    for place, path in (
        (folder.parent, "run"),
        (folder, "."),
        (folder, runs.BEST),
        (folder / "checkpoints", "best.pth"),
        (folder / "checkpoints-meta", "checkpoint.pth"),
        (folder / ".hydra", "../checkpoints/best.pth"),
        (folder, f"{folder}/{runs.BEST}"),
        (folder, f"file://{folder}/{runs.BEST}"),
    ):
        monkeypatch.chdir(place)
        saved = runs.denoiser(path, "teacher")
        assert saved.config == {"algo": {"name": "idlm"}, "model": {"length": 16}}
        assert torch.equal(saved.weights["vocab_embed.embedding"], torch.ones(3, 2))


@pytest.mark.filterwarnings("ignore:.*no-op")
def test_the_average_is_read_to_where_the_model_is():
    """A file is read to the CPU; an update of an average there by weights on a GPU would fail."""
    model = torch.nn.Linear(2, 2, device="meta")
    state = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    average = types.SimpleNamespace()
    average.load_state_dict = lambda saved: vars(average).update(saved)
    weights = {name: torch.zeros(p.shape) for name, p in model.state_dict().items()}
    weights["vocab_embed.embedding"] = torch.zeros(3, 2)
    model.vocab_embed = torch.nn.Embedding(1, 1)
    model.vocab_embed.embedding = torch.nn.Parameter(torch.zeros(3, 2, device="meta"))
    del model.vocab_embed.weight
    saved = {
        "model": weights,
        "ema": {"shadow_params": [torch.zeros(p.shape) for p in model.parameters()]},
        "optimizer": state["optimizer"].state_dict(),
        "step": 3,
    }
    runs.load(saved, state | {"ema": average}, "key")
    assert [shadow.device.type for shadow in average.shadow_params] == ["meta"] * 3


DAMAGED = (b"a: [1", b"- 1\n- 2\n", b"", b"\n", b"text", b"3", b"a: \xff", b"model: 3\n")
DAMAGED += (b"model: {}\nalgo: 3\n", b"algo: {}\n")
DAMAGED += (b"a: ${b\n", b"\0" * 40)


@pytest.mark.parametrize("content", DAMAGED)
def test_settings_that_are_damaged_are_one_sentence_with_their_file(folder, content):
    (folder / runs.CONFIG).write_bytes(content)
    with pytest.raises(Refused) as refused:
        runs.denoiser(f"{folder}/{runs.BEST}", "teacher")
    assert str(refused.value) == (
        f"teacher: '{folder}/{runs.CONFIG}' is damaged; it must hold a run's settings, as Hydra "
        "writes them"
    )


def test_a_checkpoint_without_a_run_has_no_settings(folder):
    (folder / runs.CONFIG).unlink()
    assert runs.denoiser(f"{folder}/{runs.BEST}", "teacher").config == {}


@pytest.mark.parametrize(
    "changed", [{"model": 3}, {"ema": None}, {"ema": {"decay": 1}}, {"model": []}]
)
def test_a_checkpoint_of_other_things(folder, changed):
    whole = torch.load(folder / runs.BEST, weights_only=True)
    torch.save(whole | changed, folder / runs.BEST)
    with pytest.raises(Refused, match=r"^key is '.*best\.pth'; it is no SEDD checkpoint"):
        runs.read(f"{folder}/{runs.BEST}", "key")


def test_nothing_is_refused_as_nothing():
    with pytest.raises(Refused, match="teacher is null; wanted: a checkpoint file, a run's"):
        runs.denoiser(None, "teacher")


class Foreign:
    """Made from a file it makes a folder."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


def test_trust_makes_what_a_checkpoint_holds_and_is_named_where_it_can_be_given(folder, tmp_path):
    from sedd_ext import export

    proof, path = tmp_path / "proof", f"{folder}/{runs.BEST}"
    whole = torch.load(path, weights_only=True)
    torch.save(whole | {"x": Foreign(proof)}, path)
    rule = "could run code: only tensors and plain values are loaded"
    with pytest.raises(Refused, match=f"{rule}$"):
        runs.denoiser(path, "teacher")
    with pytest.raises(Refused, match=f"{rule}, unless --trust-checkpoint says that you trust"):
        export.SIDE.read(path, "CHECKPOINT", False)
    assert not proof.exists()
    assert export.SIDE.read(path, "CHECKPOINT", True).config["model"] == {"length": 16}
    assert proof.exists()
