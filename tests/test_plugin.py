"""hydra_plugins.idlm: our configs are on the search path of Duo's and SEDD's programs alone."""

import importlib.resources
import json
import subprocess
import sys

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

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


@pytest.mark.parametrize(("keys", "package"), [(DUO, "duo_ext"), (SEDD, "sedd_ext")])
def test_a_program_is_known_by_the_keys_of_its_config(program, registered, keys, package):
    for scheme in ("file://", ""):
        found = search_path(f"{scheme}{program(f'{keys} trainer hydra')}")
        assert ours(found) == [f"pkg://{package}.configs"] and registered
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


def test_every_overlay_is_a_package_that_is_there():
    for overlay in idlm.OVERLAYS:
        assert importlib.resources.files(overlay).is_dir()
