"""duo_ext.hosting: each remedy on a host that needs it, and on one that does not."""

import importlib
import importlib.machinery
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import datasets
import omegaconf
import pytest
import tokenizers
import torch
import transformers

from duo_ext import compat
from duo_ext.hosting import duo, kept_tokens, remedies


def remedy(name):
    (found,) = [r for r in (*remedies.BEFORE, *duo.AFTER) if r.name == name]
    return found


class FakeHost:
    """A tree of a few small modules, loaded under other names than a real host's."""

    def __init__(self, root, sources):
        self.root, self.loaded = root, {}
        for name, source in sources.items():
            path = root / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))

    def module(self, name):
        if name not in self.loaded:
            spec = importlib.util.spec_from_file_location(f"fake_{name}", self.root / f"{name}.py")
            self.loaded[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(self.loaded[name])
        return self.loaded[name]


@pytest.fixture
def fake(tmp_path):
    """``fake(main="...", dataloader="...")`` is a host with these modules."""
    return lambda **sources: FakeHost(tmp_path / "duo", sources)


@pytest.fixture(params=[True, False], ids=["GPU", "no GPU"])
def gpu(request, monkeypatch):
    """With and without a GPU, as far as torch tells."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


# stand-ins ---------------------------------------------------------------------------------------

NAMES = ("flash_attn", "torchvision", "timm")


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        del sys.modules[name]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder: of the packages with a stand-in those that a test writes there are installed."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name not in NAMES:
                return None
            own = [p for p in sys.path if p == str(folder) or p.startswith(str(remedies.STAND_INS))]
            spec = importlib.machinery.PathFinder.find_spec(name, own)
            if spec is None:
                raise ModuleNotFoundError(name)
            return spec

    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    yield folder
    forget()


def install(folder, name, source):
    """A package of two modules, the second of which comes first."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"from . import part\n{source}\n")
    (folder / name / "part.py").write_text("")


BROKEN = 'raise ImportError("libcudart.so.11.0: cannot open shared object file")'


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ["absent", "whole", "broken"])
def test_a_stand_in_is_needed_where_the_host_imports_what_is_not_there(
    fake, installed, name, state
):
    if state != "absent":
        install(installed, name, BROKEN * (state == "broken"))
    stand_in = remedy(f"stand-in for {name}")
    assert stand_in.needed(fake(algo=f"import {name}")) == (state != "whole")
    assert not stand_in.needed(fake(algo="import torch"))


def test_what_a_host_imports_is_read_from_its_modules(fake, tmp_path):
    for statement in ("import timm", "from timm.scheduler import X", "import timm.scheduler as s"):
        assert remedies.imports(fake(algo=f"import os\n{statement}\n").root, "timm")
    assert not remedies.imports(fake(algo="").root, "timm")
    lazy = "def f():\n    import timm"  # as late as that it is not needed
    for other in ("import timmy", "# import timm", "import os as timm", "text = 'from timm'", lazy):
        assert not remedies.imports(fake(algo=other).root, "timm")
    assert remedies.imports(fake(**{"models/dit": "import timm"}).root, "timm")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("broken", [False, True], ids=["absent", "broken"])
def test_a_stand_in_is_there_for_the_host_alone(fake, installed, name, broken):
    if broken:
        install(installed, name, BROKEN)
    stand_in, tree = remedy(f"stand-in for {name}"), fake(algo=f"import {name}")
    path = sys.path[:]
    assert stand_in.needed(tree)
    stand_in.apply(tree)
    used = tree.module("algo").__dict__[name]
    assert used.__file__.startswith(f"{remedies.STAND_INS}/{name}/")
    assert f"{name}.part" not in sys.modules
    remedies.withdraw_stand_ins()
    assert sys.path == path and name not in sys.modules
    with pytest.raises(ImportError):
        importlib.import_module(name)
    assert tree.module("algo").__dict__[name] is used


def test_a_stand_in_comes_after_lightning_which_would_take_it_for_the_real(
    fake, installed, monkeypatch
):
    seen, real = [], importlib.import_module

    def watched(name):
        seen.append((name, any(p.startswith(str(remedies.STAND_INS)) for p in sys.path)))
        return real(name)

    monkeypatch.setattr(importlib, "import_module", watched)
    remedy("stand-in for torchvision").apply(fake())
    assert seen == [("lightning", False)]


def test_to_withdraw_leaves_what_is_installed(installed):
    install(installed, "timm", "")
    timm = importlib.import_module("timm")
    remedies.withdraw_stand_ins()
    assert sys.modules["timm"] is timm


@pytest.fixture
def stand_in(installed, fake):
    """``stand_in("timm.scheduler")`` is a module of a stand-in."""

    def load(name):
        remedy(f"stand-in for {name.partition('.')[0]}").apply(fake())
        return importlib.import_module(name)

    return load


def test_images_ask_for_torchvision(stand_in):
    torchvision = stand_in("torchvision")
    assert torchvision.transforms
    with pytest.raises(AttributeError, match=r"torchvision.datasets: .*pip install torchvision"):
        torchvision.datasets  # noqa: B018


def test_the_cosine_schedule_asks_for_timm(stand_in):
    class Schedule(stand_in("timm.scheduler").CosineLRScheduler):
        pass

    with pytest.raises(ValueError, match=r"cosine_decay_warmup, which needs timm: pip install"):
        Schedule("optimizer", t_initial=3)


# flash-attn --------------------------------------------------------------------------------------


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.fixture
def angles(standalone):
    """``angles(9, 8)``: (cos, sin), each (9, 4), for heads of width 8, as the standalone DIT's."""

    def make(L, width):
        rotary = standalone.module("models").dit.Rotary(width).double()
        return [half[:, : width // 2] for half in rotary(L)]

    return make


def own_rotation(standalone, x_BLHD, cos, sin):
    """The standalone DIT's: on (B, H, L, D) with each angle twice."""
    twice = [half.repeat(1, 2) for half in (cos, sin)]
    return standalone.module("models").dit.rotate(x_BLHD.transpose(1, 2), *twice).transpose(1, 2)


def test_rotary_is_the_standalone_dits_own(stand_in, standalone, angles):
    x, weight = random(2, 9, 3, 8).requires_grad_(), random(2, 9, 3, 8, seed=1)
    apply = stand_in("flash_attn.layers.rotary").apply_rotary_emb_torch
    found, wanted = apply(x, *angles(9, 8)), own_rotation(standalone, x, *angles(9, 8))
    assert_same(found, wanted)
    assert not torch.allclose(found[:, 1:], x[:, 1:])
    assert_same(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, wanted)))


def test_rotary_turns_the_first_part_of_a_head(stand_in, standalone, angles):
    x = random(2, 9, 3, 12)
    found = stand_in("flash_attn.layers.rotary").apply_rotary_emb_torch(x, *angles(9, 8))
    assert torch.equal(found[..., 8:], x[..., 8:])
    assert_same(found[..., :8], own_rotation(standalone, x[..., :8], *angles(9, 8)))


def test_rotary_keeps_the_precision_of_what_it_turns(stand_in, angles):
    rotary = stand_in("flash_attn.layers.rotary")
    x = random(1, 4, 2, 8).bfloat16()
    assert rotary.apply_rotary_emb_torch(x, *angles(4, 8)).dtype == torch.bfloat16
    with pytest.raises(NotImplementedError, match="halves"):
        rotary.apply_rotary_emb_torch(x, *angles(4, 8), interleaved=True)


def test_rotary_of_queries_and_keys_is_in_place(stand_in, standalone, angles):
    given, weight = random(2, 9, 3, 2, 8).requires_grad_(), random(2, 9, 3, 2, 8, seed=1)
    qkv = given * 1
    turned = stand_in("flash_attn.layers.rotary").apply_rotary_emb_qkv_(qkv, *angles(9, 8))
    assert turned is qkv
    q, k, v = given.unbind(2)
    wanted = [own_rotation(standalone, part, *angles(9, 8)) for part in (q, k)]
    wanted = torch.stack([*wanted, v], 2)
    assert_same(qkv, wanted)
    assert_same(*(torch.autograd.grad((y * weight).sum(), given)[0] for y in (qkv, wanted)))


LENGTHS = ((5,), (3, 1, 6), (4, 4, 4))


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_is_softmax_attention_within_each_sequence(stand_in, lengths, causal, scale):
    N, H, D = sum(lengths), 2, 4
    qkv, weight = random(N, 3, H, D).requires_grad_(), random(N, H, D, seed=1)
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    found = stand_in("flash_attn").flash_attn_interface.flash_attn_varlen_qkvpacked_func(
        qkv, ends, max(lengths), 0.0, softmax_scale=scale, causal=causal
    )
    rows = []
    for start, end in itertools.pairwise(ends.tolist()):
        for query in range(start, end):
            seen = slice(start, query + 1 if causal else end)
            q, k, v = qkv[query, 0], qkv[seen, 1], qkv[seen, 2]
            scores = torch.einsum("hd,khd->hk", q, k) * (scale or D**-0.5)
            rows.append(torch.einsum("hk,khd->hd", scores.softmax(-1), v))
    wanted = torch.stack(rows)
    assert_same(found, wanted)
    assert_same(*(torch.autograd.grad((y * weight).sum(), qkv)[0] for y in (found, wanted)))


def test_attention_over_sequences_of_one_length_does_not_wait_to_know_it(stand_in):
    """A tensor without values could not be asked where they end."""
    attention = stand_in("flash_attn").flash_attn_interface.flash_attn_varlen_qkvpacked_func
    qkv = random(12, 3, 2, 4)
    ends = torch.tensor([0, 4, 8, 12], dtype=torch.int32)
    found = attention(qkv, torch.empty_like(ends, device="meta"), 4)
    rows = [attention(qkv[n : n + 4], torch.tensor([0, 4]), 4) for n in (0, 4, 8)]
    assert_same(found, torch.cat(rows))
    assert_same(found, attention(qkv, ends, 5))


# torchvision for CUDA ----------------------------------------------------------------------------

# What torchvision does at its import; torch for CPU has not loaded its library of operators.
OPERATORS = """
import torch

torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
torch.library.register_fake("torchvision::qnms")(lambda dets, scores, iou_threshold: dets)
"""
DEFINED = """
from duo_ext.hosting import duo, kept_tokens, remedies

remedy = remedies.BEFORE[0]
assert remedy.needed(None)
remedy.apply(None)
import torchvision
assert not remedy.needed(None)
schema = str(torchvision.torch.ops.torchvision.nms.default._schema)
print(schema, torchvision.part.__name__)
"""


def run(folder, *arguments, **options):
    """What a new interpreter prints, with a folder on its module path and without a GPU."""
    path = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_torchvision_without_its_operators_is_imported_with_their_names(tmp_path):
    install(tmp_path, "torchvision", OPERATORS)
    printed = run(tmp_path, "-c", DEFINED)
    arguments = "Tensor dets, Tensor scores, float iou_threshold"
    assert printed == f"torchvision::nms({arguments}) -> Tensor torchvision.part\n"


@pytest.mark.parametrize("source", ["", BROKEN, 'raise RuntimeError("another")', None])
def test_any_other_torchvision_gets_no_operators(installed, source):
    if source is not None:
        install(installed, "torchvision", source)
    assert not remedy("torchvision's operators").needed(None)


# local names taken whole -------------------------------------------------------------------------

WHOLE = """
import sys

import fsspec
import torch
from lightning.fabric.utilities.cloud_io import _atomic_save

from duo_ext.hosting import duo, kept_tokens, remedies

(remedy,) = [r for r in remedies.BEFORE if r.name == "local names taken whole"]
assert remedy.needed(None)
remedy.apply(None)
assert not remedy.needed(None)
_atomic_save({"a": 1}, sys.argv[1])
with fsspec.open("zip://inner::file://" + sys.argv[2]) as file:
    print(file.read())
"""


def test_a_local_name_is_no_chain_of_urls_for_lightning_either(tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.writestr("inner", "text")
    path = tmp_path / "a::b" / "last.ckpt"
    path.parent.mkdir()
    assert run(tmp_path, "-c", WHOLE, path, tmp_path / "outer.zip") == "b'text'\n"
    assert path.is_file() and not (tmp_path / "a").exists()


# processes counted as devices --------------------------------------------------------------------

COUNTING = """
import torch

def get_dataloaders(config, tokenizer, skip_train=False):
    assert torch.cuda.device_count() == config.trainer.devices
    if skip_train == "fail":
        raise OSError
    return tokenizer, skip_train
"""


@pytest.fixture
def resolver():
    """Duo's resolver of the number of devices."""
    omegaconf.OmegaConf.register_new_resolver("device_count", lambda: 0, replace=True)
    yield lambda: omegaconf.OmegaConf.create({"a": "${device_count:}"}).a
    omegaconf.OmegaConf.clear_resolver("device_count")


def test_processes_are_counted_where_there_is_no_gpu(fake, gpu):
    counted = remedy("processes counted as devices")
    assert counted.needed(fake(dataloader=COUNTING)) == (not gpu)
    assert not counted.needed(fake(dataloader="import torch"))


def test_the_loaders_see_the_processes_as_devices(fake, resolver, monkeypatch):
    real = torch.cuda.device_count
    tree = fake(dataloader=COUNTING)
    remedy("processes counted as devices").apply(tree)
    loaders = tree.module("dataloader").get_dataloaders
    for devices in (1, 3):
        config = omegaconf.OmegaConf.create({"trainer": {"devices": devices}})
        assert loaders(config, "tokenizer", skip_train=True) == ("tokenizer", True)
        assert loaders(config=config, tokenizer="t") == ("t", False)
        with pytest.raises(OSError):
            loaders(config, "tokenizer", "fail")
        assert torch.cuda.device_count is real
    assert resolver() == 1


# tokens of one tokenizer -------------------------------------------------------------------------

KEEPING = """
import os

import datasets

def get_dataset(dataset_name, tokenizer, wrap, mode, cache_dir, block_size=1024):
    path = os.path.join(cache_dir, mode)
    if os.path.exists(path):
        return datasets.load_from_disk(path)
    bos = tokenizer.encode(tokenizer.bos_token)[0]
    (ids,) = tokenizer(["we"], add_special_tokens=False)["input_ids"]
    made = datasets.Dataset.from_dict({"input_ids": [[bos, *ids]]})
    made.save_to_disk(path)
    return made
"""


def letters(order, bos="<s>"):
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *order])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=bos, eos_token="</s>" if bos == "<s>" else "<s>"
    )


@pytest.fixture
def keeping(fake, tmp_path):
    """``keeping(tokenizer)`` is the first block of a host that keeps tokens by their text alone."""
    tree, apart = fake(dataloader=KEEPING), remedy("tokens of one tokenizer")
    assert apart.needed(tree)
    apart.apply(tree)

    def get(tokenizer, folder="text"):
        get_dataset = tree.module("dataloader").get_dataset
        return get_dataset(folder, tokenizer, wrap=True, mode="train", cache_dir=str(tmp_path))[0]

    return get


def test_kept_tokens_are_those_of_the_tokenizer_that_made_them(keeping, tmp_path):
    assert keeping(letters("we")) == keeping(letters("we")) == {"input_ids": [0, 2, 3]}
    for other in (letters("ew"), letters("wex"), letters("we", bos="</s>")):
        with pytest.raises(
            ValueError, match=rf"data.cache_dir: '{tmp_path}/train' holds .*another"
        ):
            keeping(other)
    (tmp_path / "train.tokenizer").unlink()  # as plain Duo leaves it
    assert keeping(letters("we")) == {"input_ids": [0, 2, 3]}
    for other in (letters("w"), letters("we", bos="</s>")):
        with pytest.raises(
            ValueError, match=r"tokens of another tokenizer than data.tokenizer_nam"
        ):
            keeping(other)


def test_unfinished_tokens_are_refused(keeping, tmp_path):
    keeping(letters("we"))
    (tmp_path / "train" / "state.json").unlink()
    with pytest.raises(ValueError, match=rf"'{tmp_path}/train' is unfinished or damaged; remove"):
        keeping(letters("we"))


def test_a_text_that_a_tokenizer_cannot_encode_is_named(keeping, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("ww\nwwwe\n")
    with pytest.raises(ValueError, match=r"data.tokenizer_name_or_path is .*cannot encode 'e'"):
        keeping(letters("w"), str(tmp_path / "text"))
    with pytest.raises(Exception, match=r"Missing \[UNK\]"):  # no text of the user's own
        keeping(letters("w"), "openwebtext")


def test_what_is_kept_besides_tokens_has_no_record(keeping, tmp_path):
    text = datasets.Dataset.from_dict({"text": ["we"]})
    save = datasets.Dataset.save_to_disk
    with kept_tokens.kept_tokens(letters("we"), wrap=True):
        text.save_to_disk(tmp_path / "raw")
        assert datasets.load_from_disk(str(tmp_path / "raw"))[0] == {"text": "we"}
    assert not list(tmp_path.glob("*.tokenizer")) and datasets.Dataset.save_to_disk is save


def test_a_host_that_keeps_no_tokens_needs_no_record(fake):
    assert not remedy("tokens of one tokenizer").needed(fake(dataloader=COUNTING))


# GenPPL on the model's device --------------------------------------------------------------------

JUDGING = """
class Metrics:
    def record_generative_perplexity(self, text_samples, max_length, {more}device="cuda"):
        return locals()
"""


def test_the_judge_gets_the_device_that_it_is_given(fake):
    tree = fake(metrics=JUDGING.format(more="retokenize=True, "))
    on_device = remedy("GenPPL on the model's device")
    assert on_device.needed(tree)
    on_device.apply(tree)

    def recorded(*arguments, **options):
        metrics = tree.module("metrics").Metrics()
        found = metrics.record_generative_perplexity(["a"], 8, *arguments, **options)
        assert (found["self"], found["text_samples"], found["max_length"]) == (metrics, ["a"], 8)
        return found["retokenize"], found["device"]

    assert recorded(torch.device("cpu")) == (True, torch.device("cpu"))  # as Duo calls it
    assert recorded("cpu") == (True, "cpu")
    assert recorded(False, "cpu") == recorded(retokenize=False, device="cpu") == (False, "cpu")
    assert recorded() == (True, "cuda")


def test_a_judge_whose_device_comes_third_needs_no_remedy(fake):
    assert not remedy("GenPPL on the model's device").needed(fake(metrics=JUDGING.format(more="")))


# texts cut at the judge's context ----------------------------------------------------------------

CUTTING = """
class Metrics:
    gen_ppl_eval_model_name_or_path = {judge!r}

    def _eval_retokenize(self, text_samples, max_length, device):
        return text_samples, (max_length, device), 1024
"""


@pytest.mark.parametrize(
    ("said", "chunk"),
    [
        ({"model_type": "gpt2", "n_positions": 127}, 127),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "llama", "max_position_embeddings": 4096}, 1024),
        ({"model_type": "bloom"}, 1024),  # has no positions
    ],
    ids=str,
)
def test_texts_are_cut_at_what_the_judge_reads_and_never_later_than_duo_cuts(
    fake, tmp_path, said, chunk
):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text(json.dumps(said))
    tree = fake(metrics=CUTTING.format(judge=str(tmp_path / "judge")))
    cut = remedy("texts cut at the judge's context")
    assert cut.needed(tree)
    cut.apply(tree)
    found = tree.module("metrics").Metrics()._eval_retokenize(["a"], max_length=8, device="cpu")
    assert found == (["a"], (8, "cpu"), chunk)


def test_metrics_that_cut_no_texts_need_no_remedy(fake):
    assert not remedy("texts cut at the judge's context").needed(fake(metrics="class Metrics: ..."))


# checkpoints -------------------------------------------------------------------------------------

LOADING = """
import torch

def _load_from_checkpoint(diffusion_model, config, tokenizer):
    return torch.load(config.eval.checkpoint_path)

def _train(diffusion_model, config, logger, tokenizer):
    path = config.training.finetune_path or config.checkpointing.resume_ckpt_path
    return torch.load(path) if path else "from scratch"
"""


class Foreign:
    """Made from a file it makes a folder."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def proof(tmp_path):
    return tmp_path / "proof"


@pytest.fixture
def checkpoint(tmp_path, tokenizer, proof):
    """``checkpoint("duo")`` or ``("foreign")``: the path of a file of Duo's types, and another."""

    def make(kind):
        config = omegaconf.OmegaConf.create({"algo": {"name": "mdlm"}, "steps": [1, 2]})
        content = {"state_dict": {}, "hyper_parameters": {"config": config, "tokenizer": tokenizer}}
        if kind == "foreign":
            content["callback"] = Foreign(proof)
        torch.save(content, tmp_path / f"{kind}.ckpt")
        return str(tmp_path / f"{kind}.ckpt")

    return make


@pytest.fixture
def program(fake, monkeypatch):
    """A host's main with the remedy, and torch's safety as it was before."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    tree = fake(main=LOADING)
    admitted = remedy("known types in checkpoints")
    assert admitted.needed(tree)
    admitted.apply(tree)
    yield tree.module("main")
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


PLACES = {
    "eval.checkpoint_path": "_load_from_checkpoint",
    "training.finetune_path": "_train",
    "checkpointing.resume_ckpt_path": "_train",
}


def load(program, key, path, **algo):
    """Call the function that loads what ``key`` names."""
    config = omegaconf.OmegaConf.create(
        {
            "algo": {"backbone": "dit", **algo},
            "eval": {"checkpoint_path": ""},
            "training": {"finetune_path": ""},
            "checkpointing": {"resume_ckpt_path": None, "resume_from_ckpt": True},
        }
    )
    omegaconf.OmegaConf.update(config, key, path)
    omegaconf.OmegaConf.set_struct(config, True)
    given = {"diffusion_model": None, "config": config, "tokenizer": None}
    if PLACES[key] == "_train":
        given["logger"] = None
    return getattr(program, PLACES[key])(**given)


@pytest.mark.parametrize("key", PLACES)
def test_duos_own_types_are_admitted(program, checkpoint, key):
    path = checkpoint("duo")
    with pytest.raises(Exception, match="weights_only"):
        torch.load(path)
    loaded = load(program, key, path)
    assert loaded["hyper_parameters"]["config"].steps == [1, 2]
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "0"


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
@pytest.mark.parametrize("key", PLACES)
def test_another_type_is_refused_by_its_name_and_made_with_trust_alone(
    program, checkpoint, proof, key
):
    path = checkpoint("foreign")
    for algo in ({}, {"trust_checkpoint": False}, {"trust_checkpoint": "no"}):
        with pytest.raises(ValueError) as refused:
            load(program, key, path, **algo)
        message = str(refused.value)
        assert message.startswith(f"{key} is '{path}'; it holds '{os.mkdir.__module__}.mkdir', ")
        assert "algo.trust_checkpoint=true" in message and "\n" not in message
        assert not proof.exists() and not torch.serialization.get_safe_globals()
    assert load(program, key, path, trust_checkpoint=True)["state_dict"] == {}
    assert proof.exists()


def test_what_is_not_loaded_is_not_looked_at(program, checkpoint, tmp_path):
    assert load(program, "training.finetune_path", "") == "from scratch"
    with pytest.raises(ValueError, match=r"training.finetune_path is '.*'; it cannot be opened"):
        load(program, "training.finetune_path", f"{tmp_path}/none.ckpt")
    with pytest.raises(FileNotFoundError):  # the host's own: a first run has nothing to resume
        load(program, "checkpointing.resume_ckpt_path", f"{tmp_path}/none.ckpt")
    with pytest.raises(Exception, match="weights_only"):
        load(program, "eval.checkpoint_path", checkpoint("foreign"), backbone="hf_dit")


def test_a_host_that_says_how_to_load_needs_no_admission(fake):
    tree = fake(main=LOADING.replace("_path)", "_path, weights_only=True)"))
    assert not remedy("known types in checkpoints").needed(tree)


# hf backbones ------------------------------------------------------------------------------------

HUB = """
def _load_from_checkpoint(diffusion_model, config, tokenizer):
    if 'hf' in config.algo.backbone:
        return diffusion_model(config, tokenizer=tokenizer).to('cuda')
    return "a checkpoint's", config.algo.backbone, tokenizer
"""


def test_hub_models_stay_on_the_cpu_where_there_is_no_gpu(fake, gpu):
    on_cpu = remedy("hf backbones on the CPU")
    assert on_cpu.needed(fake(main=HUB)) == (not gpu)
    assert not on_cpu.needed(fake(main=HUB.replace("'cuda'", "'cpu'")))


def test_a_hub_model_is_made_and_left_where_it_is(fake):
    tree = fake(main=HUB)
    remedy("hf backbones on the CPU").apply(tree)

    def load(backbone):
        config = omegaconf.OmegaConf.create({"algo": {"backbone": backbone}})
        return tree.module("main")._load_from_checkpoint(
            diffusion_model=lambda config, tokenizer: (config, tokenizer),
            config=config,
            tokenizer="tokenizer",
        )

    config, tokenizer = load("hf_dit")
    assert (config.algo.backbone, tokenizer) == ("hf_dit", "tokenizer")
    assert load("dit") == ("a checkpoint's", "dit", "tokenizer")


TAKES_BF16 = """
import torch

def flash_attn_varlen_qkvpacked_func(qkv, cu_seqlens, max_seqlen, dropout_p=0.0, causal=False):
    if qkv.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    return "flash-attn's"
"""


def test_flash_attn_leaves_float32_to_the_stand_in(fake, installed):
    host = fake(**{"model/transformer": "from flash_attn.flash_attn_interface import attend"})
    attention = remedy("attention in float32")
    assert not attention.needed(host)
    install(installed, "flash_attn", "")
    (installed / "flash_attn" / "flash_attn_interface.py").write_text(TAKES_BF16)
    forget()
    assert attention.needed(host)
    attention.apply(host)
    attend = importlib.import_module("flash_attn.flash_attn_interface")
    ends, qkv = torch.tensor([0, 3, 6]), torch.randn(6, 3, 2, 4)
    whole = attend.flash_attn_varlen_qkvpacked_func(qkv, ends, 3, dropout_p=0.0)
    q, k, v = qkv.unflatten(0, (2, 3)).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
    torch.testing.assert_close(whole, scores.transpose(1, 2).flatten(0, 1))
    half = attend.flash_attn_varlen_qkvpacked_func(qkv.bfloat16(), ends, 3, dropout_p=0.0)
    assert half == "flash-attn's"


# a host's own script -----------------------------------------------------------------------------

SCRIPT = """
import json
import sys

import beside
import dataloader
import flash_attn.layers.rotary
import omegaconf

if __name__ == "__main__":
    config = omegaconf.OmegaConf.create({"trainer": {"devices": 2}})
    print(json.dumps({
        "argv": sys.argv,
        "path": sys.path[0],
        "beside": beside.__file__,
        "flash_attn": flash_attn.__file__,
        "lightning": "lightning" in sys.modules,
        "loaders": dataloader.get_dataloaders(config, "tokenizer"),
        "module": __spec__.name,
    }))
"""


def test_a_script_is_run_as_python_would_with_the_remedies(tmp_path, monkeypatch):
    """flash-attn is broken here; lightning, slow to import, is an empty module."""
    site, duo = tmp_path / "site", tmp_path / "duo"
    site.mkdir()
    (site / "lightning.py").write_text("")
    install(site, "flash_attn", BROKEN)
    judging = JUDGING.format(more="retokenize=True, ")
    FakeHost(duo, {"main": SCRIPT, "beside": "", "dataloader": COUNTING, "metrics": judging})
    words = ["mode=train", "--cfg", "job", "-m", "x"]
    printed = run(site, "-m", "duo_ext.compat", "duo/main.py", *words, cwd=tmp_path)
    printed = json.loads(printed)
    assert printed["argv"] == ["duo/main.py", *words]
    assert Path(printed["path"]) == duo and Path(printed["beside"]) == duo / "beside.py"
    assert printed["flash_attn"].startswith(str(remedies.STAND_INS)) and printed["lightning"]
    assert printed["loaders"] == ["tokenizer", False]
    # as Lightning starts the other processes of a run
    monkeypatch.setenv(compat.SCRIPT, str(duo / "main.py"))
    again = json.loads(run(site, "-m", printed["module"], *words, cwd=tmp_path))
    assert again == printed | {"argv": [str(duo / "main.py"), *words]}


def test_a_script_that_is_not_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.delenv(compat.SCRIPT, raising=False)
    monkeypatch.setattr(sys, "argv", ["compat", f"{tmp_path}/main.py"])
    with pytest.raises(SystemExit, match=r"^error: SCRIPT is '.*main.py'; there is no such file$"):
        compat.main()
