"""weights.pretrained: what a folder may look like, where a name leads, what is refused and why."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import huggingface_hub
import omegaconf
import pytest
import safetensors
import safetensors.torch
import torch
from huggingface_hub import errors

from duo_ext.weights import checkpoints, pretrained

KEY = "algo.teacher_path"
NAME = "vocab_embed.embedding"
FREQUENCIES = "rotary_emb.inv_freq"
PUBLISHED = {
    "architectures": ["MDLM"],
    "auto_map": {"AutoModelForMaskedLM": "modeling_mdlm.MDLM"},
    "model_type": "mdlm",
    "vocab_size": 40,
    "model_length": 16,
    "hidden_dim": 32,
    "cond_dim": 16,
    "n_blocks": 2,
    "n_heads": 2,
    "dropout": 0.1,
    "time_conditioning": False,
}


@pytest.fixture
def dit(standalone, tiny):
    """``dit()`` is a DIT with random weights, ``dit(config)`` one of another configuration."""

    def make(config=None, seed=0):
        torch.manual_seed(seed)
        config = tiny("algo=mdlm") if config is None else config
        made = standalone.module("models").dit.DIT(config, vocab_size=40).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return made

    return make


def logits(network):
    generator = torch.Generator().manual_seed(1)
    tokens_BL = torch.randint(40, (3, 16), generator=generator)
    with torch.no_grad():
        return network(tokens_BL, torch.tensor([0.0, 0.5, 2.0]))


def loaded(saved, network):
    """The network with the weights of ``saved``, which fit it."""
    checkpoints.check(saved, network, KEY)
    checkpoints.load(network, saved)
    return network


def published(folder, network, prefix="backbone.", safe=True, shard="1GB", config=PUBLISHED):
    """A folder as the hub has them, written by the hub's own client."""
    weights = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    folder.mkdir(exist_ok=True)
    huggingface_hub.save_torch_state_dict(
        weights, folder, max_shard_size=shard, safe_serialization=safe
    )
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


# -------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("prefix", ["backbone.", "", "student._orig_mod."])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_in_every_form(dit, tmp_path, safe, shard, prefix):
    own = dit()
    folder = published(tmp_path / "model", own, prefix, safe, shard)
    assert (len(list((tmp_path / "model").glob("*-of-*"))) > 1) == (shard == "20KB")
    saved = pretrained.load(folder, KEY)
    assert saved.average is None and saved.weights.keys() == own.state_dict().keys()
    assert torch.equal(logits(loaded(saved, dit(seed=1))), logits(own))


def test_the_configuration_of_a_published_model_is_duos(dit, tmp_path):
    folder = published(tmp_path / "model", dit())
    sizes = {"length": 16, "hidden_size": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 2}
    model = sizes | {"dropout": 0.1}
    config = pretrained.read_folder(folder, KEY).config
    assert config == {"model": model, "algo": {"time_conditioning": False}}
    (tmp_path / "model" / "config.json").write_text('{"n_heads": 4}')
    assert pretrained.read_folder(folder, KEY).config == {"model": {"n_heads": 4}}


def test_folders_of_the_mixin_that_duos_dit_is(dit, tiny, tmp_path):
    config = omegaconf.OmegaConf.to_container(tiny("algo=mdlm"), resolve=False)
    for name, given in (("plain", config), ("omegaconf", tiny("algo=mdlm"))):
        own = dit(given)
        own.save_pretrained(tmp_path / name)
        saved = pretrained.load(str(tmp_path / name), KEY)
        assert torch.equal(logits(loaded(saved, dit(seed=1))), logits(own))
        # the mixin drops a configuration that is not plain
        assert saved.config == (checkpoints.inert(config) if name == "plain" else {})


def test_safetensors_come_before_a_pickle(dit, tmp_path):
    published(tmp_path / "model", dit(seed=1), safe=False)
    folder = published(tmp_path / "model", dit())
    saved = pretrained.read_folder(folder, KEY)
    assert torch.equal(logits(loaded(saved, dit(seed=2))), logits(dit()))


def test_the_frequencies_may_be_absent(dit, tmp_path):
    own = dit()
    weights = {name: value for name, value in own.state_dict().items() if name != FREQUENCIES}
    pretrained.write_folder(tmp_path / "model", weights, {}, "")
    saved = pretrained.load(str(tmp_path / "model"), KEY)
    assert FREQUENCIES not in saved.weights
    assert torch.equal(logits(loaded(saved, dit(seed=1))), logits(own))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("safe", [True, False])
def test_half_precision_becomes_float32_but_positions_stay_exact(dit, tmp_path, safe, dtype):
    own = dit()
    saved = pretrained.load(published(tmp_path / "model", dit().to(dtype), safe=safe), KEY)
    assert {value.dtype for value in saved.weights.values()} == {dtype}
    other = loaded(saved, dit(seed=1))
    for name, value in other.state_dict().items():
        ours = own.state_dict()[name]
        expected = ours if name == FREQUENCIES else ours.to(dtype).float()
        assert value.dtype == torch.float32 and torch.equal(value, expected), name


# ----------------------------------------------------------------------------- where names lead


@pytest.fixture
def hub(monkeypatch):
    """Stands for the hub: ``hub.give`` is its folder or error, ``hub.asked`` what was asked."""
    record = types.SimpleNamespace(asked=[], give=None)

    def snapshot_download(name, allow_patterns):
        record.asked.append((name, allow_patterns))
        if isinstance(record.give, Exception):
            raise record.give
        return record.give

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return record


def test_a_hub_id_is_downloaded_without_code(dit, hub, tmp_path):
    hub.give = published(tmp_path / "model", dit())
    saved = pretrained.load("kuleshov-group/mdlm-owt", KEY)
    assert torch.equal(logits(loaded(saved, dit(seed=1))), logits(dit()))
    [(name, patterns)] = hub.asked
    assert name == "kuleshov-group/mdlm-owt"
    fits = huggingface_hub.utils.filter_repo_objects
    weights = ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"]
    weights += ["model.safetensors.index.json", "pytorch_model.bin.index.json", "config.json"]
    assert list(fits(weights, allow_patterns=patterns)) == weights
    others = ["modeling_mdlm.py", "training_args.bin", "flax_model.msgpack", "runs/last.ckpt"]
    assert not list(fits(others, allow_patterns=patterns))


def test_a_checkpoint_is_read_as_ever(teacher, hub, tmp_path, monkeypatch):
    path = teacher("mdlm")
    for given in (path, f"file://{path}"):
        saved = pretrained.load(given, KEY)
        assert saved.average and saved.config["algo"]["name"] == "mdlm"
    (tmp_path / "owner").mkdir()
    shutil.copy(path, tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert pretrained.load("owner/name", KEY).average  # what is here comes before the hub
    assert not hub.asked


FILES = ("none.ckpt", "runs/x.ckpt", "a/b.pt", "a/b.pth", "a/b.bin", "a/b.safetensors")
NO_HUB_IDS = ("none", "a/b/c", "/a/b", "./a", "a/b!", "a/", "../b", "~/a")


@pytest.mark.parametrize("path", [*FILES, *NO_HUB_IDS])
def test_a_missing_file_is_not_sought_on_the_hub(hub, path):
    with pytest.raises(ValueError) as refused:
        pretrained.load(path, KEY)
    assert "No such file" in str(refused.value) and not hub.asked
    assert str(refused.value).startswith(f"{KEY} is '{path}'; ")


@pytest.mark.parametrize("path", ["nowhere://bucket/name", "???"])
def test_what_is_no_path(hub, path):
    with pytest.raises(ValueError) as refused:
        pretrained.load(path, KEY)
    assert str(refused.value).startswith(f"{KEY} is '{path}'; it cannot be opened: ")
    assert not hub.asked


def test_trust_is_for_checkpoints(monkeypatch):
    asked = []
    monkeypatch.setattr(checkpoints, "read", lambda *given: asked.append(given) or {})
    monkeypatch.setattr(checkpoints, "denoiser", lambda checkpoint: checkpoint)
    pretrained.load("a.ckpt", KEY, trust=True)
    pretrained.load("a.ckpt", KEY)
    assert asked == [("a.ckpt", KEY, True), ("a.ckpt", KEY, False)]


RESPONSE = types.SimpleNamespace(headers={}, request=None)
HUB_ERRORS = {
    "is gated": errors.GatedRepoError("403 Client Error.\n\nCannot", response=RESPONSE),
    "no model of that name": errors.RepositoryNotFoundError("401\n\nNot", response=RESPONSE),
    "cannot be reached": errors.LocalEntryNotFoundError("Got: ConnectError\nAn error"),
    "(disk full)": OSError("disk full\nand more"),
    "(no name)": errors.HFValidationError("no name"),
    "()": RuntimeError(),
}


def test_no_path_at_all_is_a_sentence():
    with pytest.raises(
        ValueError, match="is null; wanted: a checkpoint file, a run's or a hub's folder"
    ):
        pretrained.load(None, KEY)


@pytest.mark.parametrize("reason", HUB_ERRORS)
def test_why_the_hub_gives_nothing(hub, reason):
    hub.give = HUB_ERRORS[reason]
    with pytest.raises(ValueError) as refused:
        pretrained.load("owner/name", KEY)
    message = str(refused.value)
    assert message.startswith(
        f"{KEY} is 'owner/name'; there is no such file or folder, and the hub"
    )
    assert message.endswith("; wanted: a checkpoint file, a run's or a hub's folder, or a hub id")
    assert reason in message and "\n" not in message


def test_the_hub_offline(tmp_path):
    """The real client, in a process that may not ask the network."""
    code = "from duo_ext.weights import pretrained; pretrained.load('owner/name', 'key')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "Refused: key is 'owner/name'; " in done.stderr
    assert "the hub cannot be reached" in done.stderr


# ------------------------------------------------------------------------------------- refusals


def refusal(folder):
    """The one line with which a folder is refused."""
    with pytest.raises(ValueError) as refused:
        pretrained.load(str(folder), KEY)
    message = str(refused.value)
    assert message.startswith(f"{KEY} is '{folder}'; ") and "\n" not in message
    return message.partition("; ")[2]


@pytest.fixture
def folder(dit, tmp_path):
    """A good folder with one safetensors."""
    return Path(published(tmp_path / "model", dit()))


def test_files_that_are_missing(folder, dit):
    (folder / "model.safetensors").rename(folder / "other")
    assert "neither model.safetensors nor pytorch_model.bin" in refusal(folder)
    (folder / "config.json").rename(folder / "none")
    assert refusal(folder) == "config.json cannot be opened: No such file or directory"
    for safe in (True, False):
        published(folder, dit(), safe=safe, shard="20KB")
        last = max(folder.glob("*-of-*"))
        last.unlink()
        assert refusal(folder) == f"{last.name} is missing"
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_config_that_is_none(folder, text, reason):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert refusal(folder).startswith(f"config.json {reason}")


@pytest.mark.parametrize("table", [None, {}, [], {"a": "../a"}, {"a": "/a"}, {"a": 3, "b": ""}])
def test_an_index_that_leads_nowhere_or_elsewhere(folder, table):
    (folder / "model.safetensors").rename(folder.parent / "a")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert refusal(folder) == (
        "model.safetensors.index.json must have a weight_map to files beside it"
    )


@pytest.mark.parametrize("safe", [True, False])
def test_truncated_weights(dit, tmp_path, safe):
    folder = tmp_path / "model"
    published(folder, dit(), safe=safe)
    name = "model.safetensors" if safe else "pytorch_model.bin"
    content = (folder / name).read_bytes()
    for size in (0, 4, 100, len(content) // 2, len(content) - 1):
        (folder / name).write_bytes(content[:size])
        assert refusal(folder).startswith(f"{name} is damaged")


def test_weights_that_are_no_dit(folder, dit):
    for weights, count in (({"lm_head.weight": torch.ones(2)}, 0), ({}, 0)):
        safetensors.torch.save_file(weights, folder / "model.safetensors")
        assert refusal(folder).endswith(f"must hold one DIT, hence one {NAME}, and hold {count}")
    two = {f"{part}.{NAME}": torch.ones(2, 2) for part in ("teacher", "student")}
    safetensors.torch.save_file(two | {f"x{NAME}": torch.ones(1)}, folder / "model.safetensors")
    assert refusal(folder).endswith("and hold 2")


@pytest.mark.parametrize("content", [[1], torch.ones(2), {NAME: [1.0]}, {"state_dict": {}}])
def test_a_pickle_of_other_things(folder, content):
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    assert "pytorch_model.bin is damaged or holds other things than named" in refusal(folder)


class Foreign:
    """Unpickled by a trusting reader it makes the folder ``proof``."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_no_code_of_a_folder_runs(folder, tmp_path, dit):
    proof = tmp_path / "proof"
    (folder / "modeling_mdlm.py").write_text(f"import os; os.mkdir({str(proof)!r})")
    assert pretrained.load(str(folder), KEY)
    (folder / "model.safetensors").unlink()
    torch.save({NAME: torch.ones(2, 2), "x": Foreign(proof)}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin is damaged or holds other things" in refusal(folder)
    with pytest.raises(ValueError):
        pretrained.load(str(folder), KEY, trust=True)
    assert not proof.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert proof.exists()  # the same file, read with trust, does run


# -------------------------------------------------------------------------------------- writing


def test_what_is_written_is_a_folder_of_duos_dit(dit, tiny, tmp_path):
    own, config = dit(), omegaconf.OmegaConf.to_container(tiny("algo=mdlm"), resolve=False)
    weights = own.state_dict()
    turned = {name: w.T.contiguous().T if w.ndim == 2 else w for name, w in weights.items()}
    pretrained.write_folder(
        tmp_path / "a" / "out", turned, {"config": config, "vocab_size": 40}, "# card\n"
    )
    out = tmp_path / "a" / "out"
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert json.loads((out / "config.json").read_text()) == {"config": config, "vocab_size": 40}
    assert (out / "README.md").read_text() == "# card\n"
    with safetensors.safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == weights.keys()
    assert torch.equal(logits(type(own).from_pretrained(out)), logits(own))
    saved = pretrained.load(str(out), KEY)
    assert saved.config == checkpoints.inert(config) and saved.average is None
    assert torch.equal(logits(loaded(saved, dit(seed=1))), logits(own))


def test_half_weights_are_written_in_float32(dit, tmp_path):
    pretrained.write_folder(tmp_path / "out", dit().half().state_dict(), {}, "")
    weights = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def written(folder):
    pretrained.write_folder(folder, {"a": torch.ones(2)}, {}, "card")


def test_an_empty_folder_is_filled_and_any_other_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    written(tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 3
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    reasons = {
        "full": "it must be a new or an empty folder",
        "file": "the folder cannot be written: Not a directory",
        "file/below": "the folder cannot be written: Not a directory",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError) as refused:
            written(tmp_path / name)
        assert str(refused.value) == f"--output is '{tmp_path / name}'; {reason}"
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "note").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]


def test_an_output_that_is_no_local_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--output is 's3://a/b'; it must be a local folder"):
        written("s3://a/b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_could_not_be_finished_is_not_there(tmp_path, monkeypatch, error):
    def fail(path, data):
        if path.name == "README.md":
            raise error
        path.write_text("half")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises((ValueError, KeyboardInterrupt)) as refused:
        written(tmp_path / "out")
    assert isinstance(error, KeyboardInterrupt) or "No space left" in str(refused.value)
    assert not list(tmp_path.iterdir())
