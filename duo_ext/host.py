"""Find, check and import the Duo tree that the extension runs in.

A host is a directory with Duo's flat modules (main, algo, trainer_base, dataloader, ...) and its
configs. What differs between hosts is answered here and in hosting/, and nowhere else.
"""

import inspect
import logging
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from duo_ext import settings
from duo_ext.hosting import duo, trees
from duo_ext.values import choose

STANDALONE = Path(__file__).parent / "standalone"
MODULES = ("main", "algo", "trainer_base", "dataloader", "metrics", "utils", "models")
FILES = ("main.py", "algo.py", "trainer_base.py", "dataloader.py", "metrics.py", "utils.py")
FILES += ("models/dit.py", "models/ema.py", "configs/config.yaml")


class Host(trees.Tree):
    """A Duo tree on disk. ``name`` is "standalone", "duo ch-1" or "duo main"."""

    program, standalone, modules, files = "Duo", STANDALONE, MODULES, FILES
    imported = ("main",)  # which imports the others

    @classmethod
    def called(cls, root: Path) -> str:
        return "duo main" if (root / "models" / "unet.py").is_file() else "duo ch-1"

    def after_import(self) -> None:
        self.apply(duo.AFTER)

    @property
    def modes(self) -> dict[str, Callable]:
        """{what ``mode=`` may be: the function of the host's main that does it}."""
        program = self.module("main")
        functions = {
            "train": "_train",
            "sample_eval": "_generate_samples",
            "ppl_eval": "_eval_ppl",
            "fid_eval": "_eval_fid",
        }
        return {m: getattr(program, f) for m, f in functions.items() if hasattr(program, f)}

    def run(self, config: DictConfig, algorithm: type | None = None) -> None:
        """Run Duo's main with a composed configuration, or its ``mode`` with a class of ours.

        Raises Refused if a value cannot work, also where it is Duo that asserts it.
        """
        mode = choose("mode", config.mode, self.modes)
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

    def predictor(self, masked: bool, time_conditioning: bool) -> str:
        """The value of sampling.predictor for a model.

        With "ancestral_cache" one network evaluation serves until a token changes, which is right
        for masked tokens without time conditioning. ch-1 takes no other predictor for masked
        tokens, and under time conditioning evaluates at each step all the same.
        """
        cached = masked and (not time_conditioning or self.name == "duo ch-1")
        return "ancestral_cache" if cached else "ancestral"

    @property
    def samples_masked_in_float32(self) -> bool:
        """Whether sampling.use_float64 is ignored where tokens are masked, as in ch-1."""
        return self.name == "duo ch-1"

    @property
    def samples_masked_in_float64(self) -> bool:
        """Whether sampling in float32 is refused where tokens are masked, as in main."""
        return self.name == "duo main"


find, active = Host.find, Host.active
