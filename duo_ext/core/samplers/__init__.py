"""Samplers by name: sample(process, student, shape, steps, noise_removal) -> tokens of that shape.

``process`` is what ``process.Sampled`` says, ``student`` a ``networks.Tempered``. A new sampler is
a module with such a function, and a line here.
"""

from duo_ext.core.samplers import ancestral

SAMPLERS = {"rows": ancestral.sample}
