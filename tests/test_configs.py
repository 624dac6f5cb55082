"""Every configuration file composes and resolves; every key of ours is one that something reads."""

import ast
import inspect
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from duo_ext import ALGORITHMS, host
from duo_ext.data import corpus
from duo_ext.hosting import trees

GROUPS = ("algo", "data", "model", "lr_scheduler", "noise", "strategy")
BASES = {"idlm": "duo_base", "idlm_mdlm": "mdlm", "idlm_dcd": "duo_base"}
OVERLAY = trees.overlays("duo")
OURS = [*OVERLAY.glob("algo/idlm*.yaml"), *OVERLAY.glob("idlm/*.yaml")]
READ_BY_HOSTS = {"algo.class_path"}  # by a host's own main.py, with the patch offered to it
OF_A_USER = ("tokenizer_name_or_path", "train", "valid")
# assets that are trained: a tree without them composes all the same
TRAINED = (
    *("judge", "judge_bpe"),
    *(f"teachers/{n}.ckpt" for n in ("mdlm", "duo", "arithmetic_mdlm", "arithmetic_duo")),
)


def names(group):
    folders = (host.STANDALONE / "configs" / group, OVERLAY / group)
    return [path.stem for folder in folders for path in sorted(folder.glob("*.yaml"))]


@pytest.fixture
def resolved(tiny, tmp_path, monkeypatch):
    """``resolved("algo=mdlm", ...)``: all values of the composition, without a text being made."""
    ask = corpus.asset

    def asset(name):
        try:
            return ask(name)
        except ValueError:
            if name not in TRAINED:
                raise
            return f"{tmp_path}/{name}"

    def compose(*overrides):
        config = tiny(*overrides, base=())
        missing = OmegaConf.missing_keys(config)
        assert missing <= {"algo.teacher_path", *(f"data.{key}" for key in OF_A_USER)}
        return OmegaConf.to_container(config, resolve=True)

    with monkeypatch.context() as patched:
        patched.setattr(corpus, "asset", asset)
        patched.setattr(corpus, "text_dir", lambda name: tmp_path / name)
        patched.setattr(corpus.arithmetic, "kept", lambda root: f"{tmp_path}/arithmetic")
        corpus.register_resolvers()
        yield compose
    corpus.register_resolvers()


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in names(group)])
def test_every_choice_of_every_group_composes_and_resolves(resolved, choice):
    assert resolved(choice)


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_composes_and_resolves(resolved, name):
    """Those of OpenWebText on data of the standalone tree, which has no such data."""
    bpe, arithmetic = name.startswith("sotu_bpe_"), name.startswith("arithmetic_")
    shipped = name.startswith("sotu_") or arithmetic
    config = resolved(f"+experiment={name}", *() if shipped else ("data=sotu",))
    tokenizer = "tokenizers/sotu_bpe2048" if bpe else "tokenizers/sotu32"
    tokenizer = "arithmetic/tokenizer" if arithmetic else tokenizer
    assert config["data"]["tokenizer_name_or_path"].endswith(tokenizer)
    ours = config["algo"]["name"] in ALGORITHMS
    if ours:
        assert config["trainer"]["max_steps"] % config["algo"]["guard"]["every"] == 0
        teacher = config["algo"]["teacher_path"]
        assert teacher is None if bpe else teacher.endswith(".ckpt") == shipped
    if shipped:
        gpu = bpe and not name.startswith("sotu_bpe_cpu_")
        assert config["trainer"]["accumulate_grad_batches"] == 1
        assert config["trainer"]["accelerator"] == ("cuda" if gpu else "cpu")
        assert config["trainer"]["precision"] == ("bf16" if gpu else 32)
        assert config["wandb"] is None
        assert config["model"]["length"] == (256 if gpu else 40 if arithmetic else 128)
    else:
        assert config["mode"] == ("train" if ours else "sample_eval")
        assert "wandb" not in config  # a machine is the user's choice


MACHINES = {"cpu": ("cpu", False, 32), "gpu": ("cuda", True, "bf16")}


@pytest.mark.parametrize("name", names("machine"))
def test_a_machine_is_chosen_alone(resolved, name):
    config = resolved(f"+machine={name}")
    trainer = config["trainer"]
    found = trainer["accelerator"], config["loader"]["pin_memory"], trainer["precision"]
    assert found == MACHINES[name]
    assert trainer["devices"] == 1 and config["wandb"] is None


@pytest.mark.parametrize("name", ["sotu_bpe_mdlm", "sotu_bpe_idlm_duo"])
def test_what_is_meant_for_a_gpu_runs_on_a_cpu_by_one_word(resolved, name):
    config = resolved(f"+experiment={name}", "machine=cpu")
    assert config["trainer"]["accelerator"] == "cpu" and config["loader"]["pin_memory"] is False
    assert config["trainer"]["precision"] == 32


@pytest.mark.parametrize(("model", "size"), [("sotu_bpe", 18_278_784), ("sotu_bpe_cpu", 3_945_792)])
def test_the_models_of_sotu_bpe_have_18_and_4_million_parameters(standalone, tiny, model, size):
    from models import dit

    config = tiny("data=sotu_bpe", f"model={model}", base=())
    parameters = dit.DIT(config, vocab_size=2048).parameters()
    assert sum(p.numel() for p in parameters) == size


@pytest.mark.parametrize("name", names("machine"))
def test_a_machine_says_nothing_that_no_host_asks_for(tiny, name):
    known = flat(OmegaConf.to_container(tiny(base=()))).keys() | {"wandb"}  # Duo's own, not ours
    machine = OmegaConf.to_container(OmegaConf.load(OVERLAY / f"machine/{name}.yaml"))
    assert flat(machine).keys() <= known


def flat(config, prefix=""):
    """{"a.b": value} of a nested dictionary."""
    values = {}
    for key, value in config.items():
        below = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        values |= below or {f"{prefix}{key}": value}
    return values


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_of_ours_keeps_every_key_of_its_base(tiny, name):
    ours, base = (
        OmegaConf.to_container(tiny(f"algo={algo}", base=())) for algo in (name, BASES[name])
    )
    ours, base = flat(ours), flat(base)
    assert base.keys() <= ours.keys()
    changed = {key for key in base if ours[key] != base[key]}
    assert changed == {
        "algo.name",
        "trainer._target_",
        "trainer.limit_val_batches",
        "callbacks.checkpoint_monitor.monitor",
        "callbacks.checkpoint_monitor.save_top_k",
    } | ({"sampling.predictor"} if name == "idlm_mdlm" else set())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_class_path_of_a_file_is_the_registered_class(tiny, name):
    config = tiny(f"algo={name}", base=())
    assert config.algo.name == name
    assert hydra.utils.get_class(config.algo.class_path).__name__ == ALGORITHMS[name].split(".")[-1]


def declared():
    """The keys that our own files of algorithms set, as "trainer.limit_val_batches"."""
    keys = set()
    for path in OURS:
        config = OmegaConf.to_container(OmegaConf.load(path))
        config.pop("defaults", None)
        keys |= flat(config).keys()
    return sorted(keys)


OF_DUO_ALONE = {"class_path", "teacher_path", "teacher_ema", "trust_checkpoint"}


def test_a_distillation_has_the_same_settings_for_sedd():
    """Keys and defaults; the files lie on two search paths."""
    duo, sedd = (
        OmegaConf.to_container(OmegaConf.load(path))["algo"]
        for path in (OVERLAY / "idlm/common.yaml", trees.overlays("sedd") / "algo/idlm.yaml")
    )
    assert sedd.pop("name") == "idlm"
    assert {key: duo[key] for key in duo.keys() - OF_DUO_ALONE} == sedd
    assert set(sedd) | OF_DUO_ALONE == set(duo) and list(duo["guard"]) == list(sedd["guard"])


def test_the_declared_keys_are_found():
    assert {"algo.guard.unigram_kl", "algo.tau", "sampling.predictor"} <= set(declared())


@pytest.fixture(scope="module")
def words():
    """Every attribute, and the last part of every dotted string, in the sources."""
    found = set()
    for path in Path(host.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value.rpartition(".")[2])
    return found


@pytest.fixture(scope="module")
def idlm(tiny):
    return tiny("algo=idlm", base=())


@pytest.mark.parametrize("key", sorted({*declared()} - READ_BY_HOSTS))
def test_no_key_of_ours_is_one_that_nothing_reads(idlm, words, key):
    """A key of an object is a parameter of its class; any other is a word of the sources."""
    holder, _, leaf = key.rpartition(".")
    target = OmegaConf.select(idlm, f"{holder}._target_")
    if leaf == "_target_":
        assert callable(hydra.utils.get_object(target))
    elif target:
        if holder == "trainer":
            target = "lightning.Trainer"  # what manual_trainer passes its settings on to
        assert leaf in inspect.signature(hydra.utils.get_object(target)).parameters
    else:
        assert leaf in words
