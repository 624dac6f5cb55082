"""A host on disk: a directory with the flat modules of a program that is extended, Duo or SEDD.

``Tree`` finds it, imports it and applies the remedies that it needs; the two programs' trees are
``duo_ext.host.Host`` and ``sedd_ext.host.Host``.
"""

import contextlib
import importlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import hydra
import omegaconf

from duo_ext import Refused
from duo_ext.hosting import remedies
from duo_ext.hosting.remedies import Remedy

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Tree:
    """A program's source tree. A subclass names the program and says what belongs to its trees."""

    program: ClassVar[str]  # its name in sentences; in lower case, the name of folders and extras
    standalone: ClassVar[Path]  # our own small tree of the same layout
    modules: ClassVar[tuple]  # the top-level modules of a tree, which no other tree may have loaded
    imported: ClassVar[tuple]  # those that ``activate`` imports
    files: ClassVar[tuple]  # the files by which a tree is known
    _active: ClassVar["Tree | None"] = None  # of a subclass: the tree that is activated

    root: Path
    name: str  # "standalone", or the program, with its branch where branches differ
    commit: str | None = field(compare=False)
    remedies: list = field(default_factory=list, compare=False)  # those that were applied

    @classmethod
    def find(cls, path: str | Path | None = None) -> "Tree":
        """The tree to run in.

        It is ``path`` (--host), else $DUO_ROOT or $SEDD_ROOT, else the working directory if it is a
        checkout of the program, else the submodule in third_party if it is there, else the
        standalone tree. Raises Refused if a tree that was named is none, with what it lacks.
        """
        variable = f"{cls.program.upper()}_ROOT"
        named = [("--host", path), (variable, os.environ.get(variable))]
        local = [Path.cwd(), REPOSITORY / "third_party" / cls.program.lower()]
        root = locate(cls.program, cls.files, named, local)
        if root in (None, cls.standalone.resolve()):
            return cls(cls.standalone.resolve(), "standalone", own_commit())
        return cls(root, cls.called(root), commit(root))

    @classmethod
    def active(cls) -> "Tree":
        """The tree of this process."""
        assert cls._active is not None, "no host is active"
        return cls._active

    @classmethod
    def called(cls, root: Path) -> str:
        """The ``name`` of the checkout in ``root``."""
        return cls.program.lower()

    def activate(self) -> "Tree":
        """Put the tree first on the module path, import it and apply the remedies that it needs.

        One process serves one tree; to activate it again changes nothing. Raises Refused if modules
        of another are loaded, or a package is missing.
        """
        cls = type(self)
        self.require_own(self.modules)
        if cls._active != self:
            self.apply(remedies.BEFORE)
            sys.path.insert(0, str(self.root))
            with self.needing(self.program.lower()):
                for name in self.imported:
                    self.module(name)
            remedies.withdraw_stand_ins()
            self.after_import()
            cls._active = self
        return cls._active

    def after_import(self) -> None:
        """What a program needs once its modules are imported."""

    def __str__(self):
        where = "" if self.name == "standalone" else f" in {self.root}"
        return f"{self.name}{where}, commit {self.commit or 'unknown'}"

    @property
    def configs(self) -> Path:
        """The folder of the tree's own Hydra configurations."""
        return self.root / "configs"

    def compose(self, overrides: Iterable[str] = ()) -> omegaconf.DictConfig:
        """The tree's configuration with ``overrides``, as its command line composes it.

        Any key may be set in it.
        """
        with hydra.initialize_config_dir(str(self.configs), version_base=None):
            config = hydra.compose("config", list(overrides))
        omegaconf.OmegaConf.set_struct(config, False)
        return config

    def module(self, name: str) -> ModuleType:
        """One of the tree's top-level modules, once it is on the module path."""
        return importlib.import_module(name)

    @contextlib.contextmanager
    def needing(self, extra: str) -> Iterator[None]:
        """Inside a with block: Refused where the tree imports a package that is not installed.

        ``extra`` is the extra of this distribution that has the tree's packages.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            name = str(error.name).partition(".")[0]
            if error.name is None or self.has(name) or self.has(f"{name}.py"):
                raise
            raise Refused(
                f"the package '{name}' is not installed, which the tree in {self.root} needs; say "
                f"pip install 'idlm[{extra}]', or install that package"
            ) from error

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Inside a with block: what the tree's own modules refuse of a configuration becomes
        Refused."""
        try:
            yield
        except (AssertionError, ValueError, NotImplementedError) as error:
            if refusal := self._refusal(error):
                raise Refused(refusal) from error
            raise

    def _refusal(self, error):
        """What the tree's own modules say of a configuration, as a sentence; None for an error that
        arose anywhere else, a fault or a sentence of ours."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        inside = frame.filename.startswith(f"{self.root}{os.sep}")
        if self.name == "standalone" or not inside or "site-packages" in frame.filename:
            return None
        place = f"{os.path.relpath(frame.filename, self.root)}, line {frame.lineno}"
        return f"{self.program} refuses this: {frame.line} ({place}) {error}".strip()

    def has(self, name: str) -> bool:
        """Whether the tree has a file or folder of this name."""
        return (self.root / name).exists()

    def require_own(self, modules: Iterable[str]) -> None:
        """Raise Refused if one of ``modules`` is loaded from elsewhere: a process serves one
        tree."""
        for name in modules:
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if loaded and not loaded.startswith(f"{self.root}{os.sep}"):
                raise Refused(
                    f"module '{name}' of {loaded} is loaded; {self.root} needs it as its own"
                )

    def apply(self, offered: Iterable[Remedy]) -> None:
        """Apply the remedies among ``offered`` that this tree needs on this machine."""
        for remedy in offered:
            if remedy.needed(self):
                remedy.apply(self)
                self.remedies.append(remedy)


def locate(
    program: str, files: Iterable[str], named: Iterable[tuple], local: Iterable[Path]
) -> Path | None:
    """The root of the tree to run in.

    It is the first path that ``named``, [(what named it, path or None)], has; else the first folder
    of ``local`` that is a tree of ``program``, known by its ``files``; else None. Raises Refused if
    a path that was named is no tree of it, with what it lacks.
    """
    for key, given in named:
        if given:
            root = Path(given).expanduser().absolute()
            missing = lacking(root, files)
            if missing:
                raise Refused(
                    f"{key} is '{given}'; it is no {program} tree: it lacks {', '.join(missing)}"
                )
            return root.resolve()
    return next((root.resolve() for root in local if not lacking(root, files)), None)


def lacking(root: Path, files: Iterable[str]) -> list[str]:
    """The names among ``files`` that are no files in ``root``."""
    return [name for name in files if not (root / name).is_file()]


def overlays(program: str) -> Path:
    """The folder of our Hydra configs for a program, "duo" or "sedd".

    It belongs to the duo_ext that is running: an installation has it inside the package, a checkout
    has it beside the package. It is not found by an import, because where one checkout is installed
    and another is run, Python finds ``duo_ext.configs`` in the installed one.
    """
    installed = REPOSITORY / f"{program}_ext" / "configs"
    return installed if installed.is_dir() else REPOSITORY / "configs" / program


def require_one_checkout(*files: str) -> None:
    """Raise Refused if one of ``files``, modules of ours, lies in another checkout than duo_ext."""
    for file in files:
        if Path(file).resolve().parents[1] != REPOSITORY.resolve():
            raise Refused(
                f"'{file}' is of another checkout than duo_ext, which is that of {REPOSITORY}; "
                "the first of the two on the module path (PYTHONPATH) must hold both"
            )


def own_commit() -> str:
    """The commit of the checkout that this package runs from, or its installed version, or
    "unknown" for a copy that is neither.

    The folder results/, where commands write, does not count as a change of the checkout.
    """
    return commit(REPOSITORY, besides="results") or _installed_version()


def _installed_version():
    try:
        return f"idlm {version('idlm')}"
    except PackageNotFoundError:  # only the dependencies are installed
        return "unknown"


def commit(checkout: Path, besides: str | None = None) -> str | None:
    """The commit of a git checkout, marked if it was changed outside the folder ``besides``; None
    if it is none."""
    if not (checkout / ".git").exists():
        return None
    places = [":/", *([f":/!{besides}"] if besides else [])]
    try:
        head = _git(checkout, "rev-parse", "--verify", "HEAD")
        changed = _git(checkout, "diff", "HEAD", "--name-only", "--", *places)
    except FileNotFoundError:  # no git here
        return None
    return head and head + ("-dirty" if changed else "")


def _git(checkout, *words):
    """What a git command prints; nothing where it fails."""
    command = ["git", "-C", str(checkout), *words]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
