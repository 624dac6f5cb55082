"""A family of teachers of my own: MDLM's, with every noise level weighted alike.

    python family.py algo=idlm_mdlm algo.name=idlm_unweighted algo.process=unweighted ...

distils such a teacher; ... are the settings of any distillation. $DUO_ROOT names the Duo tree.
"""

from dataclasses import dataclass

import torch

from duo_ext import ALGORITHMS, __main__, families, host
from duo_ext.core.absorbing import AbsorbingProcess

host.find().activate()  # Duo's own modules can be imported from here on

import algo  # noqa: E402

from duo_ext.algorithms import Distillation  # noqa: E402


@dataclass
class Unweighted(AbsorbingProcess):
    """The absorbing process; its loss (5) without the factor that depends on the level."""

    def _draw(self, student, x0_BL, given_BL):
        *drawn, weight_BL = super()._draw(student, x0_BL, given_BL)
        return *drawn, -torch.ones_like(weight_BL)


def unweighted(model, **inputs):
    return Unweighted(model.vocab_size, model.mask_index, **inputs)


families.FAMILIES["unweighted"] = families.Family(
    host_name="MDLM",
    teachers=("mdlm", "idlm_unweighted"),  # evaluate samples these as MDLM, too
    noisings={"categorical": unweighted},
)


class IDLMUnweighted(Distillation, algo.MDLM):
    family = families.FAMILIES["unweighted"]


ALGORITHMS["idlm_unweighted"] = "family.IDLMUnweighted"

if __name__ == "__main__":
    __main__.main()
