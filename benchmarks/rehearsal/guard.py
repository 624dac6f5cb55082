"""Builds guard.cpp, the few lines of C++ without which torch knows no device "cuda"."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from duo_ext import Refused

SOURCE = Path(__file__).with_name("guard.cpp")


def build():
    """The path of the shared library, built against this torch if it is not there already.

    Raises Refused without a C++ compiler, and where torch has CUDA itself.
    """
    if torch.version.cuda or torch.version.hip:
        raise Refused(
            f"torch is {torch.__version__}, which has a GPU's functions of its own; the rehearsal "
            "needs a build of torch for the CPU"
        )
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        raise Refused("no C++ compiler was found; the rehearsal needs $CXX, g++ or c++")
    made_of = SOURCE.read_bytes() + torch.__version__.encode()
    folder = Path(tempfile.gettempdir()) / f"idlm-rehearsal-{os.getuid()}"
    library = folder / f"guard-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        _compile(compiler, library)
    return library


def _compile(compiler, library):
    root = Path(torch.__file__).parent
    new = library.with_suffix(f".{os.getpid()}")
    flags = ["-O1", "-shared", "-fPIC", "-std=c++20"]
    places = [
        f"-I{root / 'include'}",
        f"-L{root / 'lib'}",
        f"-Wl,-rpath,{root / 'lib'}",
        "-lc10",
        "-ltorch_cpu",
    ]
    command = [compiler, *flags, str(SOURCE), "-o", str(new), *places]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    new.replace(library)
