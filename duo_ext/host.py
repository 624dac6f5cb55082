"""Find, check and import the Duo tree that the extension runs in.

A host is a directory with Duo's flat modules (main, algo, trainer_base, dataloader, ...) and its
configs. What differs between hosts is answered here and in compat.py, and nowhere else.
"""

import importlib
import inspect
import logging
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import hydra
import omegaconf

from duo_ext import compat, settings

STANDALONE = Path(__file__).parent / "standalone"
REPOSITORY = Path(__file__).parents[1]
MODULES = ("main", "algo", "trainer_base", "dataloader", "metrics", "utils", "models")
FILES = ("main.py", "algo.py", "trainer_base.py", "dataloader.py", "metrics.py", "utils.py")
FILES += ("models/dit.py", "models/ema.py", "configs/config.yaml")

_active = None


@dataclass(frozen=True)
class Host:
    """A Duo tree on disk. ``name`` is "standalone", "duo ch-1" or "duo main"."""

    root: Path
    name: str
    commit: str | None = field(compare=False)
    remedies: list = field(default_factory=list, compare=False)

    def __str__(self):
        where = "" if self.name == "standalone" else f" in {self.root}"
        return f"{self.name}{where}, commit {self.commit or 'unknown'}"

    @property
    def configs(self):
        return self.root / "configs"

    def module(self, name):
        """One of the host's top-level modules; ``activate`` comes first."""
        return importlib.import_module(name)

    def activate(self):
        """Put the tree first on the module path, import it and apply the remedies that it needs.

        One process serves one host. Raises ValueError if modules of another are loaded.
        """
        global _active
        root = str(self.root)
        for name in MODULES:
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if loaded and not loaded.startswith(f"{root}{os.sep}"):
                raise ValueError(
                    f"module '{name}' of {loaded} is loaded; {root} needs it as its own"
                )
        if _active != self:
            self.apply(compat.BEFORE)
            sys.path.insert(0, root)
            self.module("main")
            compat.withdraw_stand_ins()
            self.apply(compat.AFTER)
            _active = self
        return _active

    def apply(self, remedies):
        """Apply those of the remedies that this host needs on this machine."""
        for remedy in remedies:
            if remedy.needed(self):
                remedy.apply(self)
                self.remedies.append(remedy)

    @property
    def modes(self):
        """What ``mode=`` may be: {name: the function of the host's main that does it}."""
        program = self.module("main")
        functions = {
            "train": "_train",
            "sample_eval": "_generate_samples",
            "ppl_eval": "_eval_ppl",
            "fid_eval": "_eval_fid",
        }
        return {m: getattr(program, f) for m, f in functions.items() if hasattr(program, f)}

    def run(self, config, algorithm=None):
        """Duo's main with a composed configuration, or its mode with a class of ours.

        Raises ValueError if a value cannot work, also where Duo itself asserts that.
        """
        mode = settings.choose("mode", config.mode, self.modes)
        settings.check(config)
        try:
            if algorithm is None:
                return inspect.unwrap(self.module("main").main)(config)
            import lightning  # which some remedies come before

            lightning.seed_everything(config.seed, verbose=False)
            return mode(
                diffusion_model=algorithm,
                config=config,
                logger=logging.getLogger("duo_ext"),
                tokenizer=self.module("dataloader").get_tokenizer(config),
            )
        except AssertionError as error:
            if refusal := self._refusal(error):
                raise ValueError(refusal) from error
            raise

    def _refusal(self, error):
        """What Duo asserts of a configuration, as a sentence; None for any other assertion."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        inside = frame.filename.startswith(f"{self.root}{os.sep}")
        if self.name == "standalone" or not inside or "site-packages" in frame.filename:
            return None
        place = f"{os.path.relpath(frame.filename, self.root)}, line {frame.lineno}"
        return f"Duo refuses this: {frame.line} ({place}) {error}".strip()

    @property
    def samples_masked_in_float32(self):
        """ch-1 ignores sampling.use_float64 where tokens are masked."""
        return self.name == "duo ch-1"

    def compose(self, overrides=()):
        """The host's configuration, as its command line composes it, open to any key."""
        with hydra.initialize_config_dir(str(self.configs), version_base=None):
            config = hydra.compose("config", list(overrides))
        omegaconf.OmegaConf.set_struct(config, False)
        return config


def find(given=None):
    """The tree to run in: ``given`` (--host), else $DUO_ROOT, else the working directory if it is
    a Duo checkout, else third_party/duo if it is there, else the standalone tree.

    Raises ValueError if a tree that was named is none, with what it lacks.
    """
    for key, named in (("--host", given), ("DUO_ROOT", os.environ.get("DUO_ROOT"))):
        if named:
            root = Path(named).expanduser().absolute()
            if lacks(root):
                raise ValueError(
                    f"{key} is '{named}'; it is no Duo tree: it lacks {', '.join(lacks(root))}"
                )
            return _host(root)
    for root in (Path.cwd(), REPOSITORY / "third_party" / "duo"):
        if not lacks(root):
            return _host(root)
    return _host(STANDALONE)


def lacks(root):
    """The files of a Duo tree that a directory has not."""
    return [name for name in FILES if not (root / name).is_file()]


def _host(root):
    root = root.resolve()
    if root == STANDALONE.resolve():
        return Host(root, "standalone", own_commit())
    newer = (root / "models" / "unet.py").is_file()
    return Host(root, "duo main" if newer else "duo ch-1", commit(root))


def own_commit():
    """The commit of the checkout that this package runs from, or its installed version."""
    return commit(REPOSITORY) or f"idlm {version('idlm')}"


def commit(checkout):
    """The commit of a git checkout, marked if it was changed; None if it is none."""
    if not (checkout / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        command = ["git", "-C", str(checkout), *describe]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:  # no git here
        return None


def active():
    """The host of this process."""
    assert _active is not None, "no host is active"
    return _active
