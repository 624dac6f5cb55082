"""The three modes: train, sample, eval."""

from sedd_ext.sampling import bound, sample
from sedd_ext.train import train

MODES = {"train": train, "sample": sample, "eval": bound}
