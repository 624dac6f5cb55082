"""duo_ext.checkpoints: what is refused and why, what is compared, which weights are taken."""

import io
import os
import pickle
import random
import re
import zipfile
from pathlib import Path

import omegaconf
import pytest
import torch

from duo_ext import checkpoints, host


def save(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class Foreign:
    """Unpickled by a trusting reader it makes the folder ``proof``."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


GOOD = save({"state_dict": {"backbone.a": torch.ones(3)}, "epoch": 1, "names": ["a", None, 0.5]})
OLD = save({"state_dict": {}}, _use_new_zipfile_serialization=False)


def refusal(path, content=None):
    """The one line with which a file of this content is refused."""
    if content is not None:
        Path(path).write_bytes(content)
    with pytest.raises(ValueError) as refused:
        checkpoints.read(str(path), "algo.teacher_path")
    message = str(refused.value)
    assert message.startswith(f"algo.teacher_path is '{path}'; it ") and "\n" not in message
    return message


def test_tensors_and_plain_values_are_read(tmp_path):
    for content in (GOOD, OLD):
        (tmp_path / "good.ckpt").write_bytes(content)
        assert "state_dict" in checkpoints.read(str(tmp_path / "good.ckpt"), "key")
    (tmp_path / "good.ckpt").write_bytes(GOOD)
    read = checkpoints.read(f"file://{tmp_path}/good.ckpt", "key")
    assert read["names"] == ["a", None, 0.5] and read["state_dict"]["backbone.a"].sum() == 3


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "file").write_bytes(GOOD)
    assert "No such file" in refusal(tmp_path / "missing.ckpt")
    assert "Is a directory" in refusal(tmp_path)
    assert "Not a directory" in refusal(tmp_path / "file" / "below.ckpt")
    assert "nowhere" in refusal("nowhere://bucket/last.ckpt")
    assert "None" in refusal(None)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_garbage_of_every_kind(tmp_path):
    rng = random.Random(0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "hello")
    cases = [bytes([first]) + b" is no checkpoint\n" for first in range(256)]
    cases += [rng.randbytes(rng.randrange(60)) for _ in range(500)]
    cases += [b"", archive.getvalue(), pickle.dumps({"a": 1})[:-3]]
    for content in cases:
        assert "it is damaged, or no file of torch.save" in refusal(tmp_path / "a.ckpt", content)


@pytest.mark.parametrize("whole", [GOOD, OLD], ids=["zip", "legacy"])
def test_a_truncated_checkpoint(tmp_path, whole):
    for size in range(0, len(whole), max(1, len(whole) // 50)):
        assert "damaged" in refusal(tmp_path / "a.ckpt", whole[:size])


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_an_object_is_refused_by_its_name_and_its_code_does_not_run(tmp_path, new):
    proof = tmp_path / "proof"
    content = save({"state_dict": {}, "x": Foreign(proof)}, _use_new_zipfile_serialization=new)
    message = refusal(tmp_path / "a.ckpt", content)
    assert re.search(r"it holds '\w+\.mkdir'", message)
    assert "weights_only" not in message  # torch's advice is to switch the protection off
    assert not proof.exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert proof.exists()  # the same file, read with trust, does run


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"state_dict": 3}, torch.ones(2)])
def test_a_file_without_a_state_dict(tmp_path, content):
    assert "it has no 'state_dict'" in refusal(tmp_path / "a.ckpt", save(content))


# -------------------------------------------------------------------------------- comparison


@pytest.fixture
def backbone(standalone, tiny):
    """``backbone("model.length=8", vocabulary=40)`` is a DIT."""

    def make(*overrides, vocabulary=40, algo="duo_base"):
        config = tiny(f"algo={algo}", *overrides)
        return standalone.module("models").dit.DIT(config, vocabulary)

    return make


def checkpoint_of(backbone, shadow=None):
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    return {"state_dict": weights} | ({"ema": {"shadow_params": shadow}} if shadow else {})


CHANGES = {
    "vocabulary 41": {"vocabulary": 41},
    "model.hidden_size 64": {"change": "model.hidden_size=64"},
    "model.n_blocks 3": {"change": "model.n_blocks=3"},
    "width of a head 8": {"change": "model.n_heads=4"},
    "model.cond_dim 8": {"change": "model.cond_dim=8"},
    "model.cond_dim none": {"change": "algo.causal_attention=true"},
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_the_dimension_that_differs_is_named_with_both_values(backbone, sentence):
    change = dict(CHANGES[sentence])
    other = backbone(*filter(None, [change.pop("change", None)]), **change)
    own = backbone()
    name, _, value = sentence.rpartition(" ")
    wanted = checkpoints.dimensions(own.state_dict())[name]
    with pytest.raises(ValueError) as refused:
        checkpoints.check(checkpoint_of(other), own, "some.key")
    assert str(refused.value) == (
        f"some.key: the checkpoint has {name} {value}, this configuration asks for {wanted}"
    )


def test_equal_dimensions_pass_whatever_the_length(backbone):
    shadow = [p.detach() for p in backbone().parameters()]
    checkpoints.check(checkpoint_of(backbone("model.length=8"), shadow), backbone(), "key")


def test_a_weight_that_is_missing_or_foreign_or_of_another_shape_is_named(backbone):
    own, name = backbone(), "backbone.blocks.1.norm1.weight"
    for change in ({name: torch.ones(5)}, {"backbone.extra": torch.ones(1)}):
        checkpoint = checkpoint_of(own)
        checkpoint["state_dict"] |= change
        with pytest.raises(ValueError, match=f"key: the checkpoint has {next(iter(change))}"):
            checkpoints.check(checkpoint, own, "key")
    checkpoint = checkpoint_of(own)
    del checkpoint["state_dict"][name]
    with pytest.raises(ValueError, match=f"has {name} none, this configuration asks for \\(32,\\)"):
        checkpoints.check(checkpoint, own, "key")


def test_another_network_and_another_average(backbone):
    own = backbone()
    with pytest.raises(ValueError, match="key: the checkpoint holds no DIT"):
        checkpoints.check({"state_dict": {"model.a": torch.ones(1)}}, own, "key")
    shadow = [p.detach() for p in own.parameters()]
    for wrong in (shadow[:-1], [*shadow[:-1], torch.ones(3)]):
        with pytest.raises(ValueError, match="key: the checkpoint's EMA"):
            checkpoints.check(checkpoint_of(own, wrong), own, "key")


@pytest.mark.parametrize("saved", [{"config": {"model": {"length": 32}}}, {"config": {}}, None])
def test_the_length_is_compared_where_the_checkpoint_says_it(saved):
    checkpoint = {"state_dict": {}} | ({"hyper_parameters": saved} if saved else {})
    checkpoints.check_length(checkpoint, 32, "key")
    if saved and saved["config"]:
        with pytest.raises(ValueError, match=r"key: .*model.length 32, .* asks for 16"):
            checkpoints.check_length(checkpoint, 16, "key")
    else:
        checkpoints.check_length(checkpoint, 16, "key")


# ----------------------------------------------------------------------------------- weights


def test_the_average_is_taken_where_there_is_one_else_the_raw_weights(backbone):
    source, target = backbone(), backbone()
    torch.nn.init.normal_(source.output_layer.linear.weight)
    shadow = [p.detach() + 1 for p in source.parameters()]
    checkpoints.load_average(target, checkpoint_of(source))
    assert all(map(torch.equal, target.parameters(), source.parameters()))
    checkpoints.load_average(target, checkpoint_of(source, shadow))
    assert all(map(torch.equal, target.parameters(), shadow))
    assert all(p.requires_grad for p in target.parameters())


def test_a_checkpoint_of_the_host_carries_its_configuration(teacher):
    checkpoint = checkpoints.read(teacher("mdlm"), "key")
    config = checkpoints.saved_config(checkpoint)
    assert config["algo"]["name"] == "mdlm" and config["model"]["length"] == 16
    assert not omegaconf.OmegaConf.is_config(config)
    assert checkpoints.saved_config({"state_dict": {}}) == {}
    weights = checkpoints.backbone_weights(checkpoint)
    assert len(weights) == len(checkpoint["state_dict"]) and "vocab_embed.embedding" in weights


def test_the_fingerprint_changes_with_one_weight_and_with_nothing_else(backbone):
    own = backbone()
    first = checkpoints.fingerprint(own)
    twin = backbone()
    twin.load_state_dict(own.state_dict())
    assert checkpoints.fingerprint(twin.eval()) == first and len(first) == 64
    for parameter in twin.parameters():
        with torch.no_grad():
            before = parameter.view(-1)[-1].item()
            parameter.view(-1)[-1] += 2**-10
            assert checkpoints.fingerprint(twin) != first
            parameter.view(-1)[-1] = before
    assert checkpoints.fingerprint(twin) == first


def test_no_module_of_ours_reads_a_checkpoint_with_trust():
    for path in Path(host.__file__).parent.rglob("*.py"):
        for call in re.findall(r"torch\.load\(.*", path.read_text()):
            assert "weights_only=True" in call, path
