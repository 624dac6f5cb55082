"""Puts our configs on Hydra's search path in a Duo or SEDD program, and in no other."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

# The keys by which a program's primary config is known.
PROGRAMS = {
    "duo": {"mode", "loader", "sampling", "training", "eval", "checkpointing"},
    "sedd": {"tokens", "graph", "noise", "sampling", "optim", "training"},
}


class IDLM(SearchPathPlugin):
    """Makes ``algo=idlm`` and our data, model and experiment entries resolve."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        primary = [item.path for item in search_path.get_path() if item.provider == "main"]
        for program, keys in PROGRAMS.items():
            if primary and keys <= _keys(Path(primary[0].removeprefix("file://")) / "config.yaml"):
                search_path.append("idlm", f"file://{_overlays(program)}")
                _register_resolvers()


def _keys(path):
    try:
        return set(OmegaConf.load(path))
    except Exception:  # what is wrong with a file is for its own program to say
        return set()


def _overlays(program):
    import sedd_ext
    from duo_ext.hosting import trees

    trees.require_one_checkout(__file__, sedd_ext.__file__)
    return trees.overlays(program)


def _register_resolvers():
    from duo_ext.data import corpus

    corpus.register_resolvers()
