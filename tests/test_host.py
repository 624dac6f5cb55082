"""duo_ext.host: which tree is found, what it is called, what happens when it is made active."""

import logging
import subprocess
import sys
import types

import omegaconf
import pytest

from duo_ext import Refused, host, hosting
from duo_ext.hosting import trees
from sedd_ext import host as sedd_host


def plant(root, newer=False, lacking=()):
    """A tree of empty files with Duo's names."""
    names = [*host.FILES, "configs/algo/mdlm.yaml", *["models/unet.py"] * newer]
    for name in names:
        if name not in lacking:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("")
    return root


# finding -----------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path, monkeypatch):
    """{what names it: a tree}, all there; the working directory is one of them."""
    repository = tmp_path / "repository"
    monkeypatch.setattr(trees, "REPOSITORY", repository)
    planted = {name: plant(tmp_path / name) for name in ("given", "named", "here")}
    planted["third party"] = plant(repository / "third_party" / "duo")
    monkeypatch.setenv("DUO_ROOT", str(planted["named"]))
    monkeypatch.chdir(planted["here"])
    return planted


def test_the_order_in_which_a_tree_is_looked_for(places, monkeypatch):
    assert host.find(str(places["given"])).root == places["given"]
    assert host.find().root == host.find("").root == places["named"]
    monkeypatch.setenv("DUO_ROOT", "")
    assert host.find().root == places["here"]
    monkeypatch.delenv("DUO_ROOT")
    assert host.find().root == places["here"]
    (places["here"] / "algo.py").unlink()
    assert host.find().root == places["third party"]
    (places["third party"] / "models" / "dit.py").unlink()
    assert host.find().root == host.STANDALONE and host.find().name == "standalone"


def test_a_name_may_be_relative_or_of_the_users_home_or_a_link(places, tmp_path, monkeypatch):
    assert host.find("../given").root == places["given"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DUO_ROOT", "~/named")
    assert host.find().root == places["named"]
    (tmp_path / "link").symlink_to(places["given"])
    assert host.find("../link").root == places["given"]
    (tmp_path / "own").symlink_to(host.STANDALONE)
    assert host.find("../own").name == "standalone"


@pytest.mark.parametrize("key", ["--host", "DUO_ROOT"])
def test_a_named_tree_that_is_none_is_refused_with_what_it_lacks(
    places, tmp_path, monkeypatch, key
):
    def refusal(name):
        monkeypatch.setenv("DUO_ROOT", name)
        with pytest.raises(ValueError) as refused:
            host.find(name if key == "--host" else None)
        return str(refused.value)

    half = str(plant(tmp_path / "half", lacking=("algo.py", "models/ema.py")))
    told = f"{key} is '{half}'; it is no Duo tree: it lacks algo.py, models/ema.py"
    assert refusal(half) == told
    for name in (str(tmp_path / "nowhere"), str(tmp_path / "given" / "main.py")):
        told = f"{key} is '{name}'; it is no Duo tree: it lacks {', '.join(host.FILES)}"
        assert refusal(name) == told


def test_the_name_tells_the_branch(tmp_path):
    older, newer = plant(tmp_path / "older"), plant(tmp_path / "newer", newer=True)
    assert (host.find(older).name, host.find(newer).name) == ("duo ch-1", "duo main")
    assert [host.find(root).samples_masked_in_float32 for root in (older, newer)] == [True, False]
    assert host.find(older).configs == older / "configs"


# commits -----------------------------------------------------------------------------------------


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_checkout_says_whether_it_was_changed(tmp_path, monkeypatch):
    root = plant(tmp_path / "duo")
    assert trees.commit(root) is None and str(host.find(root)) == (
        f"duo ch-1 in {root}, commit unknown"
    )
    git(tmp_path, "init", "-q", str(root))
    assert trees.commit(root) is None  # no commit yet
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    git(root, "tag", "-a", "v1", "-m", "v1")
    head = git(root, "rev-parse", "HEAD")
    assert trees.commit(root) == head and len(head) == 40
    assert trees.commit(root / "models") is None  # a part of a checkout is none
    (root / "new.py").write_text("")  # as Duo's own outputs
    assert trees.commit(root) == head
    (root / "algo.py").write_text("changed = True\n")
    assert trees.commit(root) == f"{head}-dirty"
    assert str(host.find(root)) == f"duo ch-1 in {root}, commit {head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert trees.commit(root) is None  # no git here


def test_our_commit_is_the_same_when_results_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "REPOSITORY", tmp_path)
    for name in ("results", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("before")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "all")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "results" / "file").write_text("after")
    assert trees.own_commit() == head
    (tmp_path / "code" / "file").write_text("after")
    assert trees.own_commit() == f"{head}-dirty"


def test_our_commit_is_the_version_where_there_is_no_git(monkeypatch, tmp_path):
    monkeypatch.setattr(trees, "version", lambda name: f"of {name}")
    monkeypatch.setattr(trees, "REPOSITORY", tmp_path)
    assert trees.own_commit() == "idlm of idlm"
    monkeypatch.setenv("PATH", "")
    assert trees.own_commit() == "idlm of idlm"


def test_our_commit_is_unknown_in_a_copy_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(trees, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "meta_path", [])  # of what is installed, too
    assert trees.own_commit() == "unknown"


# activation --------------------------------------------------------------------------------------


def test_one_process_serves_one_host(standalone, tmp_path):
    path = sys.path[:]
    with pytest.raises(ValueError) as refused:
        host.find(plant(tmp_path / "duo")).activate()
    assert str(refused.value) == (
        f"module 'main' of {host.STANDALONE}/main.py is loaded; {tmp_path}/duo needs it as its own"
    )
    assert host.active() is standalone and sys.path == path


def test_to_activate_a_host_again_changes_nothing(standalone, monkeypatch):
    path, remedies = sys.path[:], standalone.remedies[:]
    assert host.find(host.STANDALONE).activate() == standalone
    monkeypatch.setattr(trees, "own_commit", lambda: "made in the meantime")
    assert host.find(host.STANDALONE).activate() == standalone
    assert host.active() is standalone and sys.path == path
    assert standalone.remedies == remedies


@pytest.fixture
def process(monkeypatch):
    """As in a new process no host is active and no module of one is loaded; later all is back."""
    stand_ins = {folder.name for folder in hosting.remedies.STAND_INS.iterdir()}
    tops = {*host.MODULES, *stand_ins}

    def loaded():
        return [name for name in sys.modules if name.partition(".")[0] in tops]

    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(host.Host, "_active", None)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(host.STANDALONE)])
    yield
    for name in loaded():
        del sys.modules[name]


def test_no_host_is_active_at_first(process):
    with pytest.raises(AssertionError, match="no host is active"):
        host.active()


def test_a_folder_whose_name_begins_like_the_hosts_is_another(process, tmp_path, monkeypatch):
    other = types.ModuleType("utils")
    other.__file__ = f"{tmp_path}/duo-old/utils.py"
    monkeypatch.setitem(sys.modules, "utils", other)
    with pytest.raises(ValueError, match=r"module 'utils' of .*/duo-old/utils.py is loaded"):
        host.find(plant(tmp_path / "duo")).activate()


@pytest.fixture
def remedies(monkeypatch):
    """Three remedies for every host; ``remedies.log`` says what became of them, in order."""
    log = []

    def remedy(name, needed=True):
        def apply(tree):
            log.append((name, "main" in sys.modules, sys.path[0] == str(tree.root)))

        found = hosting.remedies.Remedy()
        found.name, found.needed, found.apply = name, lambda tree: needed, apply
        return found

    before, after = (remedy("a"), remedy("unneeded", False)), (remedy("b"),)
    monkeypatch.setattr(hosting.remedies, "BEFORE", before)
    monkeypatch.setattr(hosting.duo, "AFTER", after)
    return types.SimpleNamespace(log=log, applied=[before[0], after[0]])


def test_remedies_come_before_and_after_the_import(process, remedies, tmp_path):
    (plant(tmp_path / "duo") / "main.py").write_text("import algo\nanswer = 7\n")
    tree = host.find(tmp_path / "duo")
    assert tree.activate() is tree is host.active()
    assert remedies.log == [("a", False, False), ("b", True, True)]
    assert tree.remedies == remedies.applied
    assert tree.module("main").answer == 7
    assert tree.module("models").__path__[0] == f"{tmp_path}/duo/models"
    tree.activate()
    assert len(remedies.log) == 2 and sys.path.count(str(tree.root)) == 1


@pytest.mark.parametrize("source", ["import einops", "import utils\nimport einops.layers.torch"])
def test_a_package_that_is_not_installed_is_named_with_what_installs_it(
    process, remedies, tmp_path, monkeypatch, source
):
    monkeypatch.setitem(sys.modules, "einops", None)
    (plant(tmp_path / "duo") / "main.py").write_text(source)
    with pytest.raises(Refused) as refused:
        host.find(tmp_path / "duo").activate()
    assert str(refused.value) == (
        f"the package 'einops' is not installed, which the tree in {tmp_path}/duo needs; say pip "
        "install 'idlm[duo]', or install that package"
    )


def test_a_module_that_the_tree_itself_lacks_is_a_fault(process, remedies, tmp_path):
    (plant(tmp_path / "duo") / "main.py").write_text("import utils.gone")
    with pytest.raises(ModuleNotFoundError, match=r"utils\.gone"):
        host.find(tmp_path / "duo").activate()


def test_so_it_is_in_a_sedd_tree(tmp_path, monkeypatch):
    tree = sedd_host.Host(tmp_path, "sedd", None)
    monkeypatch.setattr(sedd_host.Host, "_active", None)
    monkeypatch.setattr(sedd_host.Host, "apply", lambda *given: None)
    monkeypatch.setattr(sedd_host.Host, "require_own", lambda *given: None)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def lacks(self, name):
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

    monkeypatch.setattr(sedd_host.Host, "module", lacks)
    with pytest.raises(Refused, match=r"package 'datasets' .* say pip install 'idlm\[sedd\]', or"):
        tree.activate()


def test_the_predictor_of_a_model_is_the_hosts_that_evaluates_least():
    """ch-1 has one where tokens are masked; main and ours refuse it under time conditioning."""
    for name in ("standalone", "duo main", "duo ch-1"):
        tree = host.Host(host.STANDALONE, name, None)
        timed = "ancestral_cache" if name == "duo ch-1" else "ancestral"
        assert tree.predictor(True, False) == "ancestral_cache"
        assert tree.predictor(True, True) == timed and tree.predictor(False, True) == "ancestral"


# running -----------------------------------------------------------------------------------------

MAIN = """
import dataloader
import hydra
import utils


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(config):
    return "duo", dataloader.asked(config)


def _train(diffusion_model, config, logger, tokenizer):
    return diffusion_model, dataloader.asked(config), logger, tokenizer


def _generate_samples(diffusion_model, config, logger, tokenizer):
    return utils.call(diffusion_model)
"""
DATALOADER = """
def asked(config):
    assert config.asked >= 0, "or else"
    return config.asked


def get_tokenizer(config):
    assert config.asked != 13
    return "tokenizer"
"""
UTILS = "def call(function):\n    return function()\n"
CONFIG = {
    "mode": "train",
    "seed": 1,
    "asked": 5,
    "optim": {"lr": 1},
    "sampling": {"steps": 1, "p_nucleus": 1},
    "loader": {"batch_size": 1, "global_batch_size": 1},
    "trainer": {
        "max_steps": 1, "accelerator": "cpu",
        "devices": 1, "num_nodes": 1, "accumulate_grad_batches": 1,
    },
}  # fmt: skip


@pytest.fixture
def duo(process, remedies, tmp_path):
    """``duo(main)`` is an active tree with a main module of this text."""

    def make(program=MAIN):
        root = plant(tmp_path / "duo")
        for name, text in (("main", program), ("dataloader", DATALOADER), ("utils", UTILS)):
            (root / f"{name}.py").write_text(text)
        return host.find(root).activate()

    return make


def config_of(**changes):
    return omegaconf.OmegaConf.create(CONFIG | changes)


def test_a_host_runs_its_own_main_or_its_mode_with_a_class_of_ours(duo):
    tree = duo()
    assert tree.run(config_of()) == ("duo", 5)
    model, asked, logger, tokenizer = tree.run(config_of(), "ours")
    assert (model, asked, tokenizer) == ("ours", 5, "tokenizer")
    assert isinstance(logger, logging.Logger)


def test_the_modes_are_those_of_the_hosts_main(duo):
    tree = duo()
    assert list(tree.modes) == ["train", "sample_eval"]
    with pytest.raises(ValueError, match=r"mode is 'ppl_eval'; it must be one of train, sample_ev"):
        tree.run(config_of(mode="ppl_eval"))


def test_a_host_may_have_modes_that_others_lack(duo):
    tree = duo(f"{MAIN}\n_eval_ppl = _train\n\n\ndef _eval_fid(**given):\n    return 'fid'\n")
    assert list(tree.modes) == ["train", "sample_eval", "ppl_eval", "fid_eval"]
    assert tree.run(config_of(mode="fid_eval"), "ours") == "fid"


def test_a_value_that_cannot_work_is_refused_before_the_hosts_code(duo):
    with pytest.raises(ValueError, match=r"optim.lr is 0; it must be a positive number"):
        duo().run(config_of(optim={"lr": 0}, asked=-1))


@pytest.mark.parametrize("algorithm", [None, "ours"])
def test_what_duo_asserts_becomes_a_sentence(duo, algorithm):
    with pytest.raises(ValueError) as refused:
        duo().run(config_of(asked=-1), algorithm)
    assert str(refused.value) == (
        'Duo refuses this: assert config.asked >= 0, "or else" (dataloader.py, line 3) or else'
    )
    assert isinstance(refused.value.__cause__, AssertionError)


def test_an_assertion_without_a_message_does_too(duo):
    told = r"^Duo refuses this: assert config.asked != 13 \(dataloader.py, line 8\)$"
    with pytest.raises(ValueError, match=told):
        duo().run(config_of(asked=13), "ours")


def ours():
    raise AssertionError("ours")


def test_an_assertion_of_ours_stays_one(duo):
    """Also where Duo's code calls it."""
    with pytest.raises(AssertionError, match=r"^ours$"):
        duo().run(config_of(mode="sample_eval"), ours)


def test_so_does_one_of_the_standalone_tree(standalone, tiny, monkeypatch):
    monkeypatch.setattr(standalone.module("main"), "main", lambda config: ours())
    with pytest.raises(AssertionError, match=r"^ours$"):
        standalone.run(tiny("algo=mdlm"))


def test_the_modes_of_the_standalone_tree(standalone):
    assert list(standalone.modes) == ["train", "sample_eval", "ppl_eval"]


def test_a_composition_takes_any_key(standalone):
    config = standalone.compose(["algo=idlm", "model=sotu", "+loader.extra=1"])
    assert (config.algo.name, config.model.hidden_size, config.loader.extra) == ("idlm", 128, 1)
    config.loader.another = 2
    assert config.loader.another == 2
