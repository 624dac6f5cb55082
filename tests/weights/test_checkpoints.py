"""weights.checkpoints: what is refused and why, what is compared, which weights are taken."""

import inspect
import io
import os
import pickle
import random
import re
import sys
import types
import zipfile
from pathlib import Path

import omegaconf
import pytest
import torch

from duo_ext import Refused, host
from duo_ext.weights import checkpoints, pickles, pretrained
from sedd_ext import runs


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


def test_trust_makes_whatever_a_file_holds(tmp_path):
    proof = tmp_path / "proof"
    (tmp_path / "a.ckpt").write_bytes(save({"state_dict": {}, "x": Foreign(proof)}))
    with pytest.raises(ValueError, match=r"'\w+\.mkdir'.*algo.trust_checkpoint=true"):
        checkpoints.read(str(tmp_path / "a.ckpt"), "key", trust=False)
    assert not proof.exists()
    checkpoints.read(str(tmp_path / "a.ckpt"), "key", trust=True)
    assert proof.exists()


@pytest.fixture
def as_duo_saves(tokenizer):
    """A checkpoint as Duo's save_hyperparameters leaves it: omegaconf's types and a tokenizer."""
    config = {"algo": {"name": "mdlm", "steps": [1, 2.5, None, True]}, "data": {"valid": "${.a}"}}
    config = omegaconf.OmegaConf.create(config | {"seed": "${idlm_counted:3}"})
    omegaconf.OmegaConf.register_new_resolver("idlm_counted", int, use_cache=True, replace=True)
    assert config.seed == 3  # its resolvers' results are saved with a configuration
    yield {
        "state_dict": {"backbone.a": torch.ones(3)},
        "hyper_parameters": {"config": config, "tokenizer": tokenizer},
    }
    omegaconf.OmegaConf.clear_resolver("idlm_counted")


def test_duos_own_types_are_read_and_its_tokenizer_is_not_made(as_duo_saves, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(save(as_duo_saves))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.ckpt", weights_only=True)
    before = set(torch.serialization.get_safe_globals())
    read = checkpoints.read(str(tmp_path / "a.ckpt"), "key")
    assert set(torch.serialization.get_safe_globals()) == before
    config = as_duo_saves["hyper_parameters"]["config"]
    assert read["hyper_parameters"]["config"] == config
    assert type(read["hyper_parameters"]["tokenizer"]) is pickles.Tokenizer
    saved = checkpoints.denoiser(read)
    written = omegaconf.OmegaConf.to_container(config, resolve=False)
    assert saved.config == checkpoints.inert(written)


def test_only_the_types_that_duo_saves_are_known(as_duo_saves, tmp_path):
    as_duo_saves["x"] = Foreign(tmp_path / "proof")
    known = pickles.known_types(io.BytesIO(save(as_duo_saves)))
    assert not any("mkdir" in name for _, name in known)
    assert (omegaconf.DictConfig, "omegaconf.dictconfig.DictConfig") in known
    foreign = {made for made, name in known if re.match("transformers|tokenizers", name)}
    assert foreign == {pickles.Tokenizer}
    assert {made for made, _ in known} <= {
        pickles.Tokenizer,
        *pickles.CONFIG_TYPES.values(),
    }
    for content in (GOOD, b"no"):
        assert pickles.known_types(io.BytesIO(content)) == []
    assert not (tmp_path / "proof").exists()


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


def saved_of(backbone, shadow=None, **weights):
    """As ``denoiser`` makes it of a checkpoint with these weights, some of them replaced."""
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    ema = {"ema": {"shadow_params": shadow}} if shadow else {}
    return checkpoints.denoiser({"state_dict": state | weights, **ema})


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
        checkpoints.check(saved_of(other), own, "some.key")
    assert str(refused.value) == (
        f"some.key: the checkpoint has {name} {value}, this configuration asks for {wanted}"
    )


def test_equal_dimensions_pass_whatever_the_length(backbone):
    shadow = [p.detach() for p in backbone().parameters()]
    checkpoints.check(saved_of(backbone("model.length=8"), shadow), backbone(), "key")


def test_a_weight_that_is_missing_or_foreign_or_of_another_shape_is_named(backbone):
    own, name = backbone(), "backbone.blocks.1.norm1.weight"
    for change in ({name: torch.ones(5)}, {"backbone.extra": torch.ones(1)}):
        with pytest.raises(ValueError, match=f"key: the checkpoint has {next(iter(change))}"):
            checkpoints.check(saved_of(own, **change), own, "key")
    saved = saved_of(own)
    del saved.weights[name.removeprefix("backbone.")]
    with pytest.raises(ValueError, match=f"has {name} none, this configuration asks for \\(32,\\)"):
        checkpoints.check(saved, own, "key")


def test_another_network_and_another_average(backbone):
    own = backbone()
    with pytest.raises(ValueError, match="key: the checkpoint holds no DIT"):
        checkpoints.check(
            checkpoints.denoiser({"state_dict": {"model.a": torch.ones(1)}}), own, "key"
        )
    shadow = [p.detach() for p in own.parameters()]
    for wrong in (shadow[:-1], [*shadow[:-1], torch.ones(3)]):
        with pytest.raises(ValueError, match="key: the checkpoint's EMA"):
            checkpoints.check(saved_of(own, wrong), own, "key")


def test_frequencies_that_are_left_out_are_the_models_own(backbone):
    own, source = backbone(), backbone()
    saved = saved_of(source)
    frequencies = saved.weights.pop("rotary_emb.inv_freq")
    checkpoints.check(saved, own, "key")
    checkpoints.load(own, saved)
    assert torch.equal(own.rotary_emb.inv_freq, frequencies)
    assert "rotary_emb.inv_freq" not in saved.weights
    del saved.weights["blocks.0.attn_out.weight"]  # no other may be
    with pytest.raises(ValueError, match=r"model.n_blocks 1, this configuration asks for 2"):
        checkpoints.check(saved, own, "key")


TOLD = {"model.length": (32, 16), "model.n_heads": (4, 2), "algo.time_conditioning": (True, False)}
TOLD |= {"model.scale_by_sigma": (True, False), "graph.type": ("absorb", "uniform")}


@pytest.mark.parametrize("name", TOLD)
def test_what_no_shape_shows_is_compared_where_the_file_says_it(name):
    theirs, ours = TOLD[name]
    section, _, leaf = name.partition(".")
    saved = checkpoints.Saved({}, config={section: {leaf: theirs, "other": 1}})
    same, other = ({section: {leaf: value}} for value in (theirs, ours))
    checkpoints.check_config(saved, omegaconf.OmegaConf.create(same), "key")
    with pytest.raises(ValueError) as refused:
        checkpoints.check_config(saved, omegaconf.OmegaConf.create(other), "key")
    assert str(refused.value) == (
        f"key: the checkpoint was trained with {name} {theirs}, this configuration asks for {ours}"
    )
    for silent in ({}, {section: {}}, {section: {leaf: None}}):
        checkpoints.check_config(
            checkpoints.Saved({}, config=silent), omegaconf.OmegaConf.create(other), "key"
        )


def test_a_value_of_the_file_may_refer_to_another():
    saved = checkpoints.Saved({}, config={"model": {"length": "${data.length}"}, "data": {}})
    saved.config["data"]["length"] = 16
    checkpoints.check_config(saved, omegaconf.OmegaConf.create({"model": {"length": 16}}), "key")


@pytest.fixture
def evaluating():
    """Duo's main.py lets a configuration call Python's eval."""
    omegaconf.OmegaConf.register_new_resolver("eval", lambda code: eval(code), replace=True)
    yield
    omegaconf.OmegaConf.clear_resolver("eval")


@pytest.mark.parametrize("form", ["checkpoint", "folder"])
@pytest.mark.parametrize("call", ["${eval:CODE}", "${idlm_asset:${eval:CODE}}", "${${.name}:CODE}"])
def test_a_configuration_of_a_file_runs_no_code(backbone, evaluating, tmp_path, form, call):
    proof = tmp_path / "proof"
    call = call.replace("CODE", f"\"__import__('os').mkdir('{proof}')\"")
    weights = backbone().state_dict()
    data = {"train": "text", "valid": "${.train}", "tokens": "${idlm_asset:tokenizers/sotu32}"}
    config = {"data": data, "model": {"name": "eval", "length": call, "sizes": [1, call]}}
    if form == "folder":
        pretrained.write_folder(tmp_path / "folder", weights, {"config": config}, "")
        saved = pretrained.load(str(tmp_path / "folder"), "key")
    else:
        saved = checkpoints.denoiser({"state_dict": {}, "hyper_parameters": {"config": config}})
    ours = omegaconf.OmegaConf.create({"model": {"length": 16}})
    checkpoints.check_config(saved, ours, "key")
    resolved = omegaconf.OmegaConf.to_container(
        omegaconf.OmegaConf.create(saved.config), resolve=True
    )
    assert not proof.exists()
    assert resolved["data"]["valid"] == "text" and saved.config["data"] == data
    assert resolved["model"] == {"name": "eval", "sizes": [1]}


OTHERS = (
    {"hyper_parameters": None}, {"hyper_parameters": [1]}, {"hyper_parameters": {"config": None}},
    {"hyper_parameters": {"config": "conf.yaml"}}, {"ema": None}, {"ema": {}},
)  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_checkpoint_of_another_program_is_one_without_a_configuration_or_an_average(other):
    saved = checkpoints.denoiser({"state_dict": {"backbone.a": torch.ones(1)}} | other)
    assert saved.config == {} and saved.average is None and list(saved.weights) == ["a"]


# ----------------------------------------------------------------------------------- weights


def test_the_average_is_taken_where_there_is_one_else_the_raw_weights(backbone):
    source, target = backbone(), backbone()
    torch.nn.init.normal_(source.output_layer.linear.weight)
    shadow = [p.detach() + 1 for p in source.parameters()]
    checkpoints.load(target, saved_of(source))
    assert all(map(torch.equal, target.parameters(), source.parameters()))
    checkpoints.load(target, saved_of(source, shadow))
    assert all(map(torch.equal, target.parameters(), shadow))
    checkpoints.load(target, saved_of(source, shadow), average=False)
    assert all(map(torch.equal, target.parameters(), source.parameters()))
    assert all(p.requires_grad for p in target.parameters())


@pytest.mark.parametrize("form", ["plain", "omegaconf"])
def test_a_checkpoint_of_the_host_carries_its_configuration(teacher, form):
    checkpoint = checkpoints.read(teacher("mdlm"), "key")
    if form == "omegaconf":
        hyper = checkpoint["hyper_parameters"]
        hyper["config"] = omegaconf.OmegaConf.create(hyper["config"])
    saved = checkpoints.denoiser(checkpoint)
    assert saved.config["algo"]["name"] == "mdlm" and saved.config["model"]["length"] == 16
    assert type(saved.config) is type(saved.config["algo"]) is dict
    assert saved.config["data"]["valid"] == "${.train}"  # unresolved, as it was written
    assert len(saved.weights) == len(checkpoint["state_dict"])
    assert "vocab_embed.embedding" in saved.weights
    assert saved.average is checkpoint["ema"]["shadow_params"]
    bare = checkpoints.denoiser({"state_dict": {"noise.a": torch.ones(1)}})
    assert bare == checkpoints.Saved({}, None, {})


def test_the_hash_is_the_files_or_that_of_weights_that_lie_in_no_one_file(backbone, tmp_path):
    own = backbone()
    (tmp_path / "a.ckpt").write_bytes(b"abc")
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checkpoints.sha256(str(tmp_path / "a.ckpt"), own) == of_abc
    assert checkpoints.sha256(f"file://{tmp_path}/a.ckpt", own) == of_abc
    for elsewhere in (str(tmp_path), "owner/name"):
        assert checkpoints.sha256(elsewhere, own) == checkpoints.fingerprint(own)


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


def test_no_module_of_ours_reads_a_checkpoint_with_trust_unless_it_is_asked_to():
    calls = []
    for path in Path(host.__file__).parent.rglob("*.py"):
        calls += [(path.name, call) for call in re.findall(r"torch\.load\(.*", path.read_text())]
    asked = [call for call in calls if "weights_only=True" not in call[1]]
    assert len(calls) > 1 and len(asked) == 1
    assert asked[0][0] == "pickles.py" and "weights_only=trust is not True" in asked[0][1]
    for function in (checkpoints.read, pretrained.load):
        assert inspect.signature(function).parameters["trust"].default is False


def wrapped(weights, before="", inside=False):
    """A DIT's weights under the names that DDP or torch.compile give them."""
    within = "blocks.0._orig_mod." if inside else "blocks.0."
    return {f"{before}{name}".replace("blocks.0.", within): w for name, w in weights.items()}


BEFORE = ("backbone.", "module.backbone.", "_orig_mod.backbone.", "backbone._orig_mod.")
BEFORE += ("backbone.module._orig_mod.", "", "module.", "_orig_mod.", "anything.module.")


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("before", BEFORE)
def test_weights_of_ddp_and_torch_compile_are_taken_from_wherever_they_lie(
    backbone, tmp_path, before, inside
):
    """In a checkpoint of Lightning's, one of SEDD's and a folder alike."""
    own = backbone().state_dict()
    named = wrapped(own, before, inside)
    torch.save({"state_dict": named}, tmp_path / "a.ckpt")
    torch.save({"model": named, "ema": {"shadow_params": None}, "step": 1}, tmp_path / "a.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    torch.save(named, tmp_path / "folder" / "pytorch_model.bin")
    for saved in (
        pretrained.load(str(tmp_path / "a.ckpt"), "key"),
        runs.denoiser(str(tmp_path / "a.pth"), "key"),
        pretrained.load(str(tmp_path / "folder"), "key"),
    ):
        assert saved.weights.keys() == own.keys()
        assert all(torch.equal(saved.weights[name], own[name]) for name in own)
        checkpoints.check(saved, backbone(), "key")


def test_of_several_networks_the_backbone_is_meant(backbone):
    own, other = backbone().state_dict(), backbone().state_dict()
    other = {name: value + 1 for name, value in other.items()}
    both = wrapped(other, "teacher.module.") | wrapped(own, "module.backbone._orig_mod.")
    found = checkpoints.dit(both)
    assert found.keys() == own.keys() and all(torch.equal(found[n], own[n]) for n in own)
    for wrong, told in (
        (wrapped(own, "teacher.") | wrapped(other, "student."), "must hold one DIT"),
        (wrapped(own) | wrapped(other, "module."), "weights twice"),
        ({"backbone.a": 3}, "no named tensors"),
        ({3: torch.ones(1)}, "no named tensors"),
    ):
        with pytest.raises(Refused, match=told):
            checkpoints.dit(wrong)


def test_weights_that_are_no_network_are_refused_with_the_key(tmp_path):
    torch.save({"state_dict": {"a": 3}}, tmp_path / "a.ckpt")
    with pytest.raises(Refused, match=r"^key is '.*a\.ckpt'; its weights are no named tensors$"):
        pretrained.load(str(tmp_path / "a.ckpt"), "key")


def test_another_run_is_told_by_its_whole_values_and_equal_numbers_are_equal():
    theirs = {"optim.lr": 0.000123456789, "optim.beta1": 0, "seed": 1, "teacher": "ab" * 32}
    assert checkpoints.differing(theirs, theirs | {"optim.beta1": 0.0, "seed": "1"}) == ""
    told = checkpoints.differing(theirs, theirs | {"optim.lr": 0.000123456, "teacher": "cd" * 32})
    assert told == (
        "its optim.lr is 0.000123456789, this run's 0.000123456; "
        "its teacher is abababababab, this run's cdcdcdcdcdcd"
    )


def test_a_configuration_whose_section_is_none_is_refused():
    with pytest.raises(Refused, match=r"^its configuration has algo None, which is no section$"):
        checkpoints.Saved({}, config={"algo": None})


def test_averages_that_are_no_tensors_are_refused():
    checkpoint = {"state_dict": {"backbone.x": torch.ones(1)}, "ema": {"shadow_params": ["x"]}}
    with pytest.raises(Refused, match=r"^its averages are no tensors$"):
        checkpoints.denoiser(checkpoint)


def test_adapters_without_their_settings_are_refused():
    with pytest.raises(Refused, match=r"^it holds adapters, and not the run's settings$"):
        checkpoints.adapter({"idlm": {"adapter": {}}})


def test_a_trusted_file_of_a_missing_module_says_what_is_missing(tmp_path, monkeypatch):
    module = types.ModuleType("goneaway")
    module.Class = type("Class", (), {"__module__": "goneaway"})
    monkeypatch.setitem(sys.modules, "goneaway", module)
    torch.save({"state_dict": {}, "x": module.Class()}, tmp_path / "x.ckpt")
    monkeypatch.delitem(sys.modules, "goneaway")
    with pytest.raises(Refused, match="cannot be made here: No module named 'goneaway'"):
        checkpoints.read(f"{tmp_path}/x.ckpt", "key", trust=True)
