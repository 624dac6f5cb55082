"""hydra_plugins.idlm: our configs are on the search path of Duo's and SEDD's programs alone."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from duo_ext import Refused
from duo_ext.hosting import trees
from hydra_plugins import idlm

DUO = "mode loader sampling training eval checkpointing"
SEDD = "tokens graph noise sampling optim training"


def search_path(folder, *more):
    """What a program's search path becomes whose primary config lies in a folder."""
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    for provider, place in (("main", folder), *more):
        if place is not None:
            path.append(provider, str(place))
    path.append("schema", "structured://")
    idlm.IDLM().manipulate_search_path(path)
    return [(item.provider, item.path) for item in path.get_path()]


def ours(found):
    return [path for provider, path in found if provider == "idlm"]


@pytest.fixture
def program(tmp_path):
    """``program("mode loader")``: the folder of a config.yaml with these keys."""

    def make(keys, text="{}: 1\n"):
        (tmp_path / "config.yaml").write_text("".join(text.format(key) for key in keys.split()))
        return tmp_path

    return make


@pytest.fixture
def registered(monkeypatch):
    """The calls that register our resolvers."""
    calls = []
    monkeypatch.setattr(idlm, "_register_resolvers", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize(("keys", "name"), [(DUO, "duo"), (SEDD, "sedd")])
def test_a_program_is_known_by_the_keys_of_its_config(program, registered, keys, name):
    for scheme in ("file://", ""):
        found = search_path(f"{scheme}{program(f'{keys} trainer hydra')}")
        assert ours(found) == [f"file://{trees.overlays(name)}"] and registered
        # the program's own entries come first
        assert [provider for provider, _ in found] == ["hydra", "main", "schema", "idlm"]
        registered.clear()


@pytest.mark.parametrize("keys", [DUO, SEDD])
def test_a_program_that_lacks_one_of_the_keys_is_another(program, registered, keys):
    for key in keys.split():
        rest = " ".join(other for other in keys.split() if other != key)
        assert not ours(search_path(f"file://{program(f'{rest} data model')}"))
    assert not registered


def test_keys_that_cannot_be_resolved_are_keys_all_the_same(program, registered):
    assert ours(search_path(f"file://{program(DUO, '{}: ${{nowhere:1}}' + chr(10))}"))


def test_a_program_without_a_config_of_that_name_is_another(tmp_path, registered):
    (tmp_path / "other.yaml").write_text("".join(f"{key}: 1\n" for key in DUO.split()))
    for place in (
        f"file://{tmp_path}",
        f"file://{tmp_path}/nowhere",
        "pkg://duo_ext.configs",
        None,
    ):
        assert not ours(search_path(place))
    assert not registered


def test_a_folder_that_somebody_adds_does_not_make_a_program_duos(program, tmp_path, registered):
    added = program(DUO)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.yaml").write_text("a: 1\n")
    assert not ours(search_path(f"file://{tmp_path}/own", ("command-line", f"file://{added}")))


BROKEN = {
    "a list": b"- 1\n- a: 2\n",
    "a word": b"word\n",
    "nothing": b"",
    "a template": b"a: {{ name }}: {% if b %}\n",
    "no UTF-8": b"a: \xff\xfe\n",
    "a tab": b"a:\n\t- b\n",
    "a key twice": b"a: 1\na: 2\n",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_config_that_cannot_be_read_is_left_to_its_program(tmp_path, registered, content):
    """Which may well name another as its primary config."""
    (tmp_path / "config.yaml").write_bytes(BROKEN[content])
    assert not ours(search_path(f"file://{tmp_path}"))


APP = """
import json
import sys

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config):
    ours = [name for name in sys.modules if name.partition(".")[0] in ("duo_ext", "sedd_ext")]
    providers = [source.provider for source in HydraConfig.get().runtime.config_sources]
    seen = ["hydra_plugins.idlm" in sys.modules, "torch" in sys.modules]
    print(json.dumps([config.name, config.db.port, providers, ours, *seen]))


main()
"""


def test_an_unrelated_program_is_not_touched(tmp_path):
    """A new interpreter: it finds the plugin, as every Hydra program does, and nothing of ours."""
    (tmp_path / "conf" / "db").mkdir(parents=True)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [db: small, _self_]\nname: a\n")
    (tmp_path / "conf" / "db" / "small.yaml").write_text("port: 80\n")
    (tmp_path / "conf" / "db" / "large.yaml").write_text("port: 81\n")
    command = [sys.executable, tmp_path / "app.py", "db=large", f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name, port, providers, modules, plugin, torch = json.loads(done.stdout)
    assert (name, port, plugin) == ("a", 81, True)
    assert providers == ["hydra", "main", "schema"] and modules == [] and not torch


def test_the_standalone_tree_finds_our_entries_through_the_plugin_alone(standalone, monkeypatch):
    config = standalone.compose(["algo=idlm", "data=sotu", "model=sotu", "+machine=cpu"])
    assert config.algo.class_path == "duo_ext.algorithms.IDLM" and config.model.hidden_size == 128
    assert config.data.tokenizer_name_or_path.endswith("assets/tokenizers/sotu32")
    assert "${idlm_text:sotu32}" in str(OmegaConf.to_container(config.data)["train"])
    monkeypatch.setattr(idlm.IDLM, "manipulate_search_path", lambda self, search_path: None)
    with pytest.raises(MissingConfigException, match="algo/idlm"):
        standalone.compose(["algo=idlm"])
    assert standalone.compose(["algo=mdlm"]).algo.name == "mdlm"


# several checkouts --------------------------------------------------------------------------------

COMPOSE = """
import sys

import duo_ext
import hydra
import sedd_ext

package = sys.modules[f"{sys.argv[1]}_ext"].__path__[0]
with hydra.initialize_config_dir(f"{package}/standalone/configs", version_base=None):
    print(hydra.compose("config", sys.argv[2:]).checkout)
"""


@pytest.fixture
def compose():
    """``compose(folder, path, *arguments)``: COMPOSE in a folder, with more on the module path."""

    def run(folder, path, *arguments):
        environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{os.environ['PYTHONPATH']}"}
        command = [sys.executable, "-c", COMPOSE, *arguments]
        return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)

    return run


@pytest.fixture
def checkout(tmp_path):
    """``checkout(name)``: another checkout, with an entry ``+checkout=own`` in each overlay."""

    def make(name):
        heavy = shutil.ignore_patterns("assets", "__pycache__")
        for part in ("duo_ext", "sedd_ext", "hydra_plugins", "configs"):
            shutil.copytree(trees.REPOSITORY / part, tmp_path / name / part, ignore=heavy)
        for overlay in (tmp_path / name / "configs").iterdir():
            (overlay / "checkout").mkdir()
            entry = f"# @package _global_\ncheckout: {name}\n"
            (overlay / "checkout" / "own.yaml").write_text(entry)
        return tmp_path / name

    return make


@pytest.mark.parametrize("program", idlm.PROGRAMS)
def test_the_configs_are_those_of_the_checkout_whose_code_runs(program, checkout, compose):
    """Also where another is installed, as this one may be, or lies further back on the path."""
    first, second = checkout("first"), checkout("second one")
    for folder, path in ((first, second), (second, first), (first.parent, first)):
        done = compose(folder, path, program, "+checkout=own")
        expected = folder if folder in (first, second) else path
        assert done.stdout.strip() == expected.name, done.stderr


@pytest.mark.parametrize("part", ["hydra_plugins", "sedd_ext"])
def test_parts_of_two_checkouts_in_one_process_are_refused(part, checkout, compose, tmp_path):
    shutil.move(checkout("other") / part, tmp_path / "alone" / part)
    done = compose(tmp_path, tmp_path / "alone", "duo", "+checkout=own")
    sentence = (
        f"/alone/{part}/{'idlm' if part == 'hydra_plugins' else '__init__'}.py' is of another"
    )
    assert done.returncode and "duo_ext.Refused: " in done.stderr and sentence in done.stderr


@pytest.mark.parametrize("program", idlm.PROGRAMS)
def test_an_installation_has_the_configs_inside_its_packages(program, tmp_path, monkeypatch):
    assert (trees.overlays(program) / "algo" / "idlm.yaml").is_file()
    monkeypatch.setattr(trees, "REPOSITORY", tmp_path)
    (tmp_path / "configs" / program).mkdir(parents=True)  # a folder of somebody else's
    (tmp_path / f"{program}_ext" / "configs").mkdir(parents=True)
    assert trees.overlays(program) == tmp_path / f"{program}_ext" / "configs"


def test_one_checkout_may_be_reached_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(trees.REPOSITORY)
    trees.require_one_checkout(tmp_path / "link" / "hydra_plugins" / "idlm.py")
    monkeypatch.setattr(trees, "REPOSITORY", tmp_path)
    with pytest.raises(Refused, match=f"idlm.py' is of another checkout .* {tmp_path};"):
        trees.require_one_checkout(idlm.__file__)
