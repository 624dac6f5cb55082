"""IDLM on data=sotu_bpe, L = 128, 3.9 million parameters: python -m benchmarks.sotu_bpe_cpu

Trains the MDLM and Duo teachers on a CPU, hours each, distils them, samples teachers and students
by the host's sampler and by the students', and writes results.json, table.md and figure.png to
--output. What a run has finished is not done again; a training that was cut off goes on.
"""

from benchmarks import table
from benchmarks.sotu_bpe import of_size

BENCHMARK = of_size("sotu_bpe_cpu", steps=(1, 2, 3, 4, 8, 16, 32, 64, 128), jobs=2)


def main(arguments=None):
    table.main(BENCHMARK, __doc__.split("\n\n")[1], arguments, samples=256)


if __name__ == "__main__":
    main()
