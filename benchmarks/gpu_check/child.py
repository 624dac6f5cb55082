"""The process of one item: python -m benchmarks.gpu_check.child MODULE:FUNCTION FILE SETTING"""

import sys

from benchmarks.gpu_check import harness

if __name__ == "__main__":
    sys.exit(harness.child(*sys.argv[1:]))
