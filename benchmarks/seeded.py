"""The seeded prior, a sampler outside the paper: python -m benchmarks.seeded [--help]

A share of the positions of MDLM's prior starts as tokens at random from the training text, instead
of the mask, and stays so. ``python -m benchmarks.tries seeded ...`` trains a student for it; this
program is ``python -m duo_ext.evaluate`` with it, for students and teachers alike.
"""

import functools
from dataclasses import dataclass, replace

import torch

from duo_ext import Refused, evaluate
from duo_ext.commands import evaluation
from duo_ext.core.absorbing import AbsorbingProcess

SHARE = 0.08


def seed(masks_BL, tokens_N, share_B=SHARE):
    """masks_BL where, with probability ``share_B`` each, a token of ``tokens_N`` stands instead."""
    chosen_BL = torch.rand(masks_BL.shape, device=masks_BL.device) < share_B
    index_BL = torch.randint(max(len(tokens_N), 1), masks_BL.shape, device=masks_BL.device)
    return torch.where(chosen_BL, tokens_N[index_BL], masks_BL)


@dataclass
class SeededProcess(AbsorbingProcess):
    """Inputs z_t hold such tokens, too: of the masks a share SHARE (1 - 2 alpha_t), if positive.

    They are among the tokens that the student copies, so that its output has them.
    """

    def prior(self, x0_BL, given_BL):
        masks_BL = super().prior(x0_BL, given_BL)
        return torch.where(given_BL, masks_BL, seed(masks_BL, x0_BL.flatten()))

    def corrupt(self, x0_BL, alpha_B, given_BL):
        z_BL = super().corrupt(x0_BL, alpha_B, given_BL)
        share_B1 = SHARE * (1 - 2 * alpha_B[:, None]).clamp(min=0)
        return torch.where(z_BL == self.mask_index, seed(z_BL, x0_BL.flatten(), share_B1), z_BL)


def seeded(process):
    """A process of MDLM's that is trained for the seeded prior."""
    if type(process) is not AbsorbingProcess:
        raise Refused("the seeded prior is one of masks; it takes MDLM and its students alone")
    return SeededProcess(**vars(process))


@functools.cache
def text(model):
    """The tokens of a model's training text, (N,)."""
    import dataloader  # the active host's

    train, _ = dataloader.get_dataloaders(model.config, model.tokenizer, skip_valid=True)
    return torch.cat([torch.as_tensor(block["input_ids"]) for block in train.dataset])


def seed_the_sampler():
    """Let MDLM's sampler in the active host start from the seeded prior."""
    import algo

    plain = algo.MDLM.prior_sample

    def prior_sample(self, *shape):
        tokens_N = text(self).to(self.device)
        return seed(plain(self, *shape), tokens_N)

    algo.MDLM.prior_sample = prior_sample


def activate(path):
    tree = evaluate.SIDE.activate(path)
    seed_the_sampler()
    return tree


def load(role, given, options):
    if "ancestral" in options.sampler:
        raise Refused("--sampler is 'ancestral'; the seeded prior is in the host's sampler alone")
    subject = evaluate.load(role, given, options)
    seeded(subject.process)
    return subject


def main(arguments=None):
    program = replace(evaluate.SIDE, module="benchmarks.seeded", activate=activate, load=load)
    evaluation.main(program, arguments)


if __name__ == "__main__":
    main()
