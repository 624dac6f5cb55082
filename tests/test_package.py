"""A plain ``pip install .`` carries everything that the commands read and asks for what they call,
and make works in any folder."""

import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DATA = {".yaml", ".json", ".xz", ".ckpt", ".safetensors"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked as pip installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files in its tree
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "results"))
    options = ("-q", "--no-deps", "--no-build-isolation", "-w", folder)  # nothing is downloaded
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    zipfile.ZipFile(built).extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def held(wheel):
    """The names of the files in the wheel."""
    return {f"{path.relative_to(wheel)}" for path in wheel.rglob("*") if path.is_file()}


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
    stand_in = "duo_ext/hosting/stand_ins/flash_attn/flash_attn/layers/rotary.py"
    assert stand_in in wanted and "duo_ext/hosting/stand_ins/timm/timm/scheduler.py" in wanted


def test_wheel_takes_no_name_of_others(held):
    """Duo's own modules are flat, and hydra_plugins is a folder that all plugins share."""
    tops = {name.partition("/")[0] for name in held if ".dist-info/" not in name}
    assert tops == {"duo_ext", "sedd_ext", "hydra_plugins"}
    assert "hydra_plugins/__init__.py" not in held


@pytest.mark.parametrize(
    "command", ["duo_ext algo=idlm algo.teacher_path=x", "sedd_ext teacher=x algo=idlm"]
)
def test_the_commands_find_their_configs_in_an_installation(wheel, command):
    program, *overrides = command.split(" ")
    environment = os.environ | {"PYTHONPATH": str(wheel), "DUO_ROOT": "", "SEDD_ROOT": ""}
    command = [sys.executable, "-m", program, "--cfg", "job", *overrides]
    done = subprocess.run(command, env=environment, cwd=wheel, capture_output=True, text=True)
    assert "host: standalone, commit idlm 0.1.0\n" in done.stdout, done.stderr
    assert "fake_warmup: " in done.stdout, done.stderr


# What we call that came late, or does what it must since then: the first release, the one before.
CALLED = {
    "lightning:Trainer.fit": ("2.6.0", "2.5.6"),
    "transformers:AutoModelForCausalLM.from_pretrained": ("4.43.0", "4.42.4"),
    "torch.nn.utils:get_total_norm": ("2.6.0", "2.5.1"),
    "huggingface_hub.errors:LocalEntryNotFoundError": ("0.25.0", "0.24.7"),
}


@pytest.mark.parametrize("name", CALLED)
def test_what_we_call_is_in_every_release_that_may_be_installed(wheel, name):
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    wanted = message_from_string(metadata.read_text()).get_all("Requires-Dist")
    requirements = {need.name: need.specifier for need in map(Requirement, wanted)}
    first, before = CALLED[name]
    specifier = requirements[re.match(r"\w+", name)[0]]
    assert specifier.contains(first) and not specifier.contains(before)
    assert pkgutil.resolve_name(name)


FOLDER = "a folder, with = (odd) [names], it's ${so} $(so) #1"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_works_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("setup.py", "constraints.txt"):
        (folder / name).touch()
    targets = ("install", "demo-duo", "demo-mdlm", "demo-sedd", "demo-dcd", "results", "clean")
    command = ["make", "-n", "--no-print-directory", *targets]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert FOLDER not in done.stdout
    lines = [shlex.split(line) for line in done.stdout.replace("\\\n", "").splitlines()]
    runs = [line[3:] for line in lines if line[1:3] in (["-m", "duo_ext"], ["-m", "sedd_ext"])]
    parsed = [OverridesParser.create().parse_overrides(overrides) for overrides in runs]
    given = [{o.key_or_group: o.value() for o in overrides} for overrides in parsed]
    assert len(given) == 5 and all("hydra.run.dir" in overrides for overrides in given)
    dcd, idlm = given[-2:]
    teacher = os.path.normpath(f"{idlm['hydra.run.dir']}/{idlm['algo.teacher_path']}")
    assert teacher == f"{dcd['hydra.run.dir']}/checkpoints/last.ckpt"
