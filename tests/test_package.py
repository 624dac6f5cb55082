"""A plain ``pip install .`` carries everything that the commands read."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = {".yaml", ".json", ".xz", ".ckpt", ".safetensors"}


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """The names of the files in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files in its tree
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "results"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def files(folder, place, endings):
    """The names under which the files of a folder must lie in the wheel."""
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in endings]
    return {f"{place}/{path.relative_to(ROOT / folder)}" for path in paths}


def test_wheel_holds_configs_and_assets(held):
    wanted = files("duo_ext", "duo_ext", DATA) | files("configs/duo", "duo_ext/configs", DATA)
    assert len(wanted) > 30 and not wanted - held


def test_wheel_holds_every_module_the_plugin_and_the_stand_ins(held):
    wanted = files("duo_ext", "duo_ext", {".py"}) | files("sedd_ext", "sedd_ext", {".py"})
    wanted |= files("hydra_plugins", "hydra_plugins", {".py"})
    assert not wanted - held
    assert "hydra_plugins/idlm.py" in wanted
    stand_in = "duo_ext/stand_ins/flash_attn/flash_attn/layers/rotary.py"
    assert stand_in in wanted and "duo_ext/stand_ins/timm/timm/scheduler.py" in wanted


def test_wheel_takes_no_name_of_others(held):
    """Duo's own modules are flat, and hydra_plugins is a folder that all plugins share."""
    tops = {name.partition("/")[0] for name in held if ".dist-info/" not in name}
    assert tops == {"duo_ext", "sedd_ext", "hydra_plugins"}
    assert "hydra_plugins/__init__.py" not in held
