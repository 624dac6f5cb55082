"""Remedies: what an unmodified host needs under current libraries or without a GPU.

A remedy is a class: its name, the cause (what fails without it), when it is needed, what it does.
Each is applied only where it is needed, from outside: no file of the host changes. ``BEFORE`` are
applied before any host's modules are imported; ``AFTER`` of hosting.duo and of sedd_ext.remedies on
the imported modules of Duo and SEDD.
"""

import functools
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Protocol

import fsspec
import torch

from duo_ext import files

STAND_INS = Path(__file__).parent / "stand_ins"


class AnyTree(Protocol):
    """What a remedy asks of a host (``trees.Tree``)."""

    root: Path

    def module(self, name: str) -> ModuleType:
        """One of its top-level modules."""


class Remedy:
    """What a host needs under current libraries, or without a GPU."""

    name: str  # what --check calls it
    cause: str  # what fails without it
    module: str | None = None  # the host's module that it changes in memory, if it changes one

    def needed(self, host: AnyTree) -> bool:
        """Whether a host fails on this machine without the remedy."""
        raise NotImplementedError

    def apply(self, host: AnyTree) -> None:
        """Change what is loaded in this process. Called once, where ``needed`` says so."""
        raise NotImplementedError


def imports(root: Path, name: str) -> bool:
    """Whether the tree in ``root`` imports the package ``name`` when its modules are imported."""
    statement = re.compile(rf"^(import|from) {name}\b", re.MULTILINE)
    folders = (root, root / "model", root / "models")
    sources = [path for folder in folders for path in folder.glob("*.py")]
    return any(statement.search(path.read_text()) for path in sources)


def importable(name: str) -> bool:
    """Whether the module ``name`` can be imported. It is then."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _forget(name):
    """Drop the modules of a package, such as a failed import leaves behind."""
    for module in _modules(name):
        del sys.modules[module]


def _modules(package):
    return [name for name in sys.modules if name.partition(".")[0] == package]


class StandIn(Remedy):
    """Puts stand_ins/PACKAGE on the module path in the place of a package that is missing."""

    def __init__(self, package: str, cause: str):
        self.name, self.cause, self.package = f"stand-in for {package}", cause, package

    def needed(self, host: AnyTree) -> bool:
        return imports(host.root, self.package) and not importable(self.package)

    def apply(self, host: AnyTree) -> None:
        importlib.import_module("lightning")  # torchmetrics must not take the stand-in for the real
        _forget(self.package)
        sys.path.insert(0, str(STAND_INS / self.package))


def withdraw_stand_ins() -> None:
    """Hide the stand-ins from everybody but the modules that have imported them.

    They are known by another name from then on: torch.compile imports the modules whose functions
    it takes in.
    """
    for folder in STAND_INS.iterdir():
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
            for name in _modules(folder.name):
                module = sys.modules.pop(name)
                module.__name__ = f"{__package__}.stand_ins.{name}"
                sys.modules[module.__name__] = module


class AttentionInFloat32(Remedy):
    """Gives float32, which flash-attn does not take, to the stand-in; all else to flash-attn."""

    name = "attention in float32"
    cause = "flash-attn takes fp16 and bf16 alone, and algo.precision=float32 gives it float32"

    def needed(self, host: AnyTree) -> bool:
        there = imports(host.root, "flash_attn") and importable("flash_attn.flash_attn_interface")
        return there and not sys.modules["flash_attn"].__file__.startswith(str(STAND_INS))

    def apply(self, host: AnyTree) -> None:
        installed = importlib.import_module("flash_attn.flash_attn_interface")
        attend = installed.flash_attn_varlen_qkvpacked_func
        ours = self._stand_in().flash_attn_varlen_qkvpacked_func

        @functools.wraps(attend)
        def in_any_precision(qkv, *arguments, **settings):
            function = ours if qkv.dtype == torch.float32 else attend
            return function(qkv, *arguments, **settings)

        installed.flash_attn_varlen_qkvpacked_func = in_any_precision

    def _stand_in(self):
        path = STAND_INS / "flash_attn" / "flash_attn" / "flash_attn_interface.py"
        spec = importlib.util.spec_from_file_location("duo_ext.attention", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


class TorchvisionsOperators(Remedy):
    """Declares the two operators that torchvision registers fakes for, and imports it again."""

    name = "torchvision's operators"
    cause = "torchvision for CUDA beside torch for CPU: operator torchvision::nms does not exist"

    def needed(self, host: AnyTree) -> bool:
        """Known by the error at the import, which lightning meets too."""
        try:
            importable("torchvision")
        except RuntimeError as error:
            return "operator torchvision::" in str(error)
        return False

    def apply(self, host: AnyTree) -> None:
        _forget("torchvision")
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        self.library = library  # its operators live as long as it does
        importlib.import_module("torchvision")


class LocalNamesWhole(Remedy):
    """Lets fsspec chain what begins with a URL alone, for Lightning and the host as well."""

    name = "local names taken whole"
    cause = "fsspec splits a local name at '::', so that a checkpoint is written as another file"

    def needed(self, host: AnyTree) -> bool:
        """Where fsspec has the function that is replaced. Our own code never calls it
        (``files.located``)."""
        known = hasattr(fsspec.core, "_un_chain")
        return known and fsspec.core.url_to_fs("/a::/b")[1] != "/a::/b"

    def apply(self, host: AnyTree) -> None:
        split = fsspec.core._un_chain

        @functools.wraps(split)
        def whole(path, kwargs):
            if "::" not in path or files.is_url(path):
                return split(path, kwargs)
            return [(os.path.abspath(path), "file", kwargs)]

        fsspec.core._un_chain = whole


BEFORE = (
    TorchvisionsOperators(),
    StandIn("flash_attn", "models/dit.py imports flash-attn, which is not installed"),
    AttentionInFloat32(),
    StandIn("torchvision", "dataloader.py imports torchvision, which is not installed"),
    StandIn("timm", "utils.py imports timm, which is not installed"),
    LocalNamesWhole(),
)
