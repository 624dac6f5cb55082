"""The measurements of one host in one checkout, in a process of its own: a JSON object a line.

The only argument is a JSON object: ``guard``, the library of ``guard.build``; ``tree``, the
checkout whose core is measured; ``host`` and ``root``, whose DIT; ``pairs``, how many are counted;
``precision``, the one of algo.precision's that is measured, None for all; ``scenarios``.
"""

import ctypes
import json
import os
import sys
import warnings


def main(job):
    ctypes.CDLL(job["guard"], ctypes.RTLD_GLOBAL)  # before torch asks what devices there are
    from benchmarks.rehearsal import fakecuda

    fakecuda.pretend()
    sys.path.insert(0, job["tree"])
    import duo_ext

    if not os.path.realpath(duo_ext.__file__).startswith(os.path.realpath(job["tree"]) + os.sep):
        raise RuntimeError(f"{duo_ext.__file__} is not of {job['tree']}")
    from benchmarks.rehearsal import measure

    warnings.simplefilter("ignore", FutureWarning)  # the hosts' torch.cuda.amp
    for scenario in job["scenarios"]:
        for row in measure.MEASUREMENTS[scenario["what"]](job, scenario):
            print(json.dumps(scenario | row), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
