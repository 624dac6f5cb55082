"""The networks of a tree on the fake device: its host's DIT, its core's pair of updates.

The core is that of the checkout on the module path, which may be another than this program's: what
differs between them is ``precisions``, ``denoiser`` and ``share_chunks``.
"""

import copy
import dataclasses
import importlib
import importlib.util
import inspect
import sys
import types
from pathlib import Path

import omegaconf
import torch

from benchmarks.rehearsal import fakecuda
from duo_ext.core import distiller, rows, schedules
from duo_ext.core.absorbing import AbsorbingProcess
from duo_ext.core.gaussian import GaussianUniformProcess
from duo_ext.core.networks import Denoiser
from duo_ext.core.score import ScoreProcess
from duo_ext.core.uniform import UniformProcess

PUBLISHED = 8 * 1024 * 50258  # logits of a micro-batch on a GPU
OWN_SIZES = {}  # of chunks and pieces, as the tree has them


@dataclasses.dataclass(frozen=True)
class Size:
    """No product of the body's dimensions is ``vocab``, so that shapes tell what is over it."""

    vocab: int = 768
    length: int = 56
    batch: int = 8
    blocks: int = 2
    width: int = 40
    heads: int = 2
    conditioning: int = 35
    dropout: float = 0.1

    @property
    def tokens(self):
        return self.batch * self.length


def precisions():
    """{algo.precision: (of a network's own update, of teacher and fake where they are compared)}.

    A tree that knows none has what the host's DIT says, bf16 on a GPU.
    """
    if importlib.util.find_spec("duo_ext.core.precision") is None:
        return {"bf16": (None, None)}
    return importlib.import_module("duo_ext.core.precision").PRECISIONS


def denoiser(cls, backbone, process, precision):
    """A Denoiser, or a class of it, in a precision or None for the host's own."""
    known = "precision" in inspect.signature(cls).parameters
    return cls(backbone, process != "mdlm", **({"precision": precision} if known else {}))


def share_chunks(size):
    """Chunks and pieces of rows that are as many as at the published size."""
    for kind in ("CHUNK", "PIECE"):
        sizes = OWN_SIZES.setdefault(kind, getattr(rows, kind))
        share = sizes["cuda"] * size.tokens * size.vocab // PUBLISHED
        setattr(rows, kind, sizes | {"cuda": share})


def dit(host, root, process, size, device=True):
    """A DIT of random weights, of a host's own class; SEDD's with SEDD's process."""
    config = _configuration(process, size)
    root = Path(root)
    if host == "sedd" or (host == "standalone" and process == "sedd"):
        network = _import_sedd(host, root)(config)
    else:
        network = _import_duo(host, root).DIT(config, size.vocab)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def _configuration(process, size):
    return omegaconf.OmegaConf.create(
        {
            "tokens": size.vocab - 1,
            "graph": {"type": "absorb"},
            "algo": {
                "backbone": "dit",
                "causal_attention": False,
                "time_conditioning": process != "mdlm",
            },
            "model": {
                "hidden_size": size.width,
                "cond_dim": size.conditioning,
                "length": size.length,
                "n_blocks": size.blocks,
                "n_heads": size.heads,
                "scale_by_sigma": True,
                "dropout": size.dropout,
            },
        }
    )


def average(root):
    """The host's class of a moving average."""
    folder = next(folder for folder in ("models", "model") if (Path(root) / folder).is_dir())
    return _module("rehearsed_ema", Path(root) / folder / "ema.py").ExponentialMovingAverage


def _module(name, path):
    """A module of a host by its file, without the packages that its others import."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _import_duo(host, root):
    _stand_in(host)
    return _module("rehearsed_dit", root / "models" / "dit.py")


def _import_sedd(host, root):
    if host == "standalone":
        root = Path(importlib.import_module("sedd_ext").__file__).parent / "standalone"
    _stand_in(host)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module("model.transformer").SEDD


def _stand_in(host):
    """Hosts import flash-attn, which is no package for a CPU."""
    if host != "standalone" and importlib.util.find_spec("flash_attn") is None:
        core = Path(sys.modules["duo_ext"].__file__).parent
        sys.path.insert(0, str(core / "hosting" / "stand_ins" / "flash_attn"))


def process_of(name, size, on_policy=0.0):
    V = size.vocab
    if name == "gaussian":
        return GaussianUniformProcess(V, schedules.GaussianSchedule(V, -3.55, -1.85))
    classes = {
        "mdlm": (AbsorbingProcess, V - 1),
        "sedd": (ScoreProcess, V - 1),
        "categorical": (UniformProcess,),
    }
    cls, *mask = classes[name]
    return cls(V, *mask, on_policy=on_policy)


def pair(network, process, size, precision, recipe, on_policy=0.0):
    """A Distiller of three copies of a network on the fake device."""
    own, compared = precisions()[precision]
    student, fake, teacher = (
        denoiser(Denoiser, fakecuda.moved(copy.deepcopy(network)), process, precision)
        for precision in (own, own, compared)
    )
    scheduler = types.SimpleNamespace(step=lambda: None, state_dict=dict)
    trained = [
        (denoiser, torch.optim.AdamW(denoiser.backbone.parameters(), lr=1e-4), scheduler)
        for denoiser in (student, fake)
    ]
    return distiller.Distiller(
        process_of(process, size, on_policy), *trained, teacher, distiller.Recipe(**recipe)
    )
