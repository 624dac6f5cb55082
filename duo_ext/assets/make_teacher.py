"""Make a shipped teacher from a training run: the EMA weights alone, as a plain Duo checkpoint.

    python -m duo_ext +experiment=sotu_duo hydra.run.dir=runs/teacher-duo
    python duo_ext/assets/make_teacher.py runs/teacher-duo/checkpoints/last.ckpt OUTPUT.ckpt

The averages are written both as the weights and as the EMA, in one storage: half the size.
"""

import argparse
from pathlib import Path

from duo_ext import Refused
from duo_ext.commands.line import one_sentence
from duo_ext.weights import checkpoints, saves

KEPT = ("epoch", "global_step", "pytorch-lightning_version", "loops", "hyper_parameters")


def slim(checkpoint: dict) -> dict:
    """The checkpoint with its EMA as its weights and without optimizer, scheduler, callbacks."""
    weights, shadow = dict(checkpoint["state_dict"]), checkpoint["ema"]["shadow_params"]
    # the EMA has the parameters in the order of the state dict, which also holds one buffer
    trained = [name for name in weights if not name.endswith("inv_freq")]
    weights.update(zip(trained, shadow, strict=True))
    average = checkpoint["ema"] | {"shadow_params": [weights[name] for name in trained]}
    result = {key: checkpoint[key] for key in KEPT}
    result |= {"state_dict": weights, "ema": average}
    return result | {"optimizer_states": [], "lr_schedulers": [], "callbacks": {}}


def main() -> None:
    """Read the run's checkpoint and write the teacher."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    with one_sentence():
        checkpoint = checkpoints.read(options.checkpoint, "checkpoint")
        if missing := [key for key in (*KEPT, "ema") if not checkpoint.get(key)]:
            raise Refused(f"checkpoint is '{options.checkpoint}'; it has no {missing[0]}")
        saves.write(options.output, slim(checkpoint))
        print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
