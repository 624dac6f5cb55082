"""A student as a checkpoint that Duo main's ``discrete_diffusion_harness.py`` reads.

The harness takes the raw weights of a checkpoint and knows the names of Duo's own algorithms. So
the file holds the EMA weights, the whole configuration of the checkout, and the name of the class
that samples.
"""

import argparse

import omegaconf

from duo_ext import Refused, families, files, host
from duo_ext.commands import line
from duo_ext.commands.line import resolve
from duo_ext.commands.publishing import KEY
from duo_ext.evaluate import SECTIONS
from duo_ext.weights import checkpoints, pretrained, saves

SCRIPT = "discrete_diffusion_harness.py"
NAMES = {"absorbing": "mdlm", "uniform": "duo_base"}


def write(options: argparse.Namespace) -> None:
    """Write the checkpoint ``options.checkpoint`` to the file ``options.output``.

    Raises Refused outside a checkout that has the harness, and for what it does not know.
    """
    tree = host.active()
    if not (tree.root / SCRIPT).is_file():
        raise Refused(f"--for is harness; --host must be Duo's main, with {SCRIPT}, and is {tree}")
    if options.results or files.exists(options.output):
        raise Refused("--for harness writes a new file, --output, and has no use of --results")
    path = pretrained.in_run(resolve(options.checkpoint))
    saved = pretrained.load(path, KEY, options.trust_checkpoint)
    algo = saved.config.get("algo", {}).get("name")
    if algo is None:
        raise Refused(f"{KEY} is '{path}'; its configuration must have algo.name, and lacks it")
    kind, family = families.of(algo, f"{KEY} is '{path}',")
    if kind not in NAMES:
        raise Refused(f"{KEY} is '{path}', a {kind} model; the harness knows {', '.join(NAMES)}")
    config = tree.compose()
    line.as_trained(config, saved.config, (*SECTIONS, "eval"), [])
    config.algo.name, config.algo.loss_type = NAMES[kind], "elbo"
    config.sampling.predictor = tree.predictor(family.masked, config.algo.time_conditioning)
    model = family.host_class(config, tree.module("dataloader").get_tokenizer(config))
    checkpoints.fill(model.backbone, saved, config, KEY, average=not options.raw)
    plain = omegaconf.OmegaConf.to_container(config, resolve=True)
    content = {
        "hyper_parameters": {"config": omegaconf.OmegaConf.create(plain)},
        "state_dict": model.state_dict(),
    }
    saves.write(options.output, content)
