"""Find, check and import the Duo tree that the extension runs in.

A host is a directory with Duo's flat modules (main, algo, trainer_base, dataloader, ...) and its
configs. What differs between hosts is answered here and in hosting/, and nowhere else.
"""

import inspect
import logging
import os
import sys
from pathlib import Path

from duo_ext import settings
from duo_ext.hosting import duo, remedies, trees

STANDALONE = Path(__file__).parent / "standalone"
MODULES = ("main", "algo", "trainer_base", "dataloader", "metrics", "utils", "models")
FILES = ("main.py", "algo.py", "trainer_base.py", "dataloader.py", "metrics.py", "utils.py")
FILES += ("models/dit.py", "models/ema.py", "configs/config.yaml")

_active = None


class Host(trees.Tree):
    """A Duo tree on disk. ``name`` is "standalone", "duo ch-1" or "duo main"."""

    program = "Duo"

    def activate(self):
        """Put the tree first on the module path, import it and apply the remedies that it needs.

        One process serves one host. Raises Refused if modules of another are loaded.
        """
        global _active
        self.require_own(MODULES)
        if _active != self:
            self.apply(remedies.BEFORE)
            sys.path.insert(0, str(self.root))
            with self.needing("duo"):
                self.module("main")
            remedies.withdraw_stand_ins()
            self.apply(duo.AFTER)
            _active = self
        return _active

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

        Raises Refused if a value cannot work, also where Duo itself asserts that.
        """
        mode = settings.choose("mode", config.mode, self.modes)
        settings.check(config)
        with self.refusing():
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

    def predictor(self, masked, time_conditioning):
        """sampling.predictor of a model: where it may, an evaluation serves until a token changes.

        ch-1 knows no other where tokens are masked, and makes no use of it under time conditioning.
        """
        cached = masked and (not time_conditioning or self.name == "duo ch-1")
        return "ancestral_cache" if cached else "ancestral"

    @property
    def samples_masked_in_float32(self):
        """ch-1 ignores sampling.use_float64 where tokens are masked."""
        return self.name == "duo ch-1"

    @property
    def samples_masked_in_float64(self):
        """main refuses anything else there."""
        return self.name == "duo main"


def find(given=None):
    """The tree to run in: ``given`` (--host), else $DUO_ROOT, else the working directory if it is
    a Duo checkout, else third_party/duo if it is there, else the standalone tree.

    Raises Refused if a tree that was named is none, with what it lacks.
    """
    named = [("--host", given), ("DUO_ROOT", os.environ.get("DUO_ROOT"))]
    local = [Path.cwd(), trees.REPOSITORY / "third_party" / "duo"]
    root = trees.locate("Duo", FILES, named, local)
    if root in (None, STANDALONE.resolve()):
        return Host(STANDALONE.resolve(), "standalone", trees.own_commit())
    newer = (root / "models" / "unet.py").is_file()
    return Host(root, "duo main" if newer else "duo ch-1", trees.commit(root))


def active():
    """The host of this process."""
    assert _active is not None, "no host is active"
    return _active
