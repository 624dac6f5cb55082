"""A plain ``pip install .`` carries everything that the commands read."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = {".yaml", ".json", ".xz", ".ckpt", ".safetensors"}


def test_wheel_holds_configs_and_assets(tmp_path):
    source = tmp_path / "source"  # a build leaves files in its tree
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "results"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = set()
    for folder, place in (("duo_ext", "duo_ext"), ("configs/duo", "duo_ext/configs")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in DATA:
                wanted.add(f"{place}/{path.relative_to(ROOT / folder)}")
    assert len(wanted) > 30 and not wanted - held
