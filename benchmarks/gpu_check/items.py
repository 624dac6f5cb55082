"""The items of the three commands, with their seconds and what passes.

Of a command the seconds add up to less than ten minutes, the start of the machine not counted.
"""

from benchmarks.gpu_check.harness import Bound, Item

HERE = "benchmarks.gpu_check"
COSINE = 0.9999  # of float32 gradients on the GPU to those on the CPU
MOST_GB = 24  # of GPU memory, at 8 texts a micro-batch


def _item(module, seconds, *bounds, name=None, function="run"):
    return Item(name or module, f"{HERE}.{module}:{function}", seconds, bounds)


# The numbers are right
FIRST = (
    _item(
        "agreement",
        90,
        Bound("least_cosine", ">=", COSINE, dry=True),
        Bound("largest_loss_difference", "<=", 1e-4, dry=True),
    ),
    _item("core_tests", 210, Bound("failed", "==", 0, dry=True)),
    _item(
        "demo",
        120,
        Bound("furthest_genppl", "<=", 0.1),
        Bound("furthest_entropy", "<=", 0.02),
    ),
    _item("precision", 150),
)
# What a pair costs
SECOND = (
    _item(
        "pair",
        150,
        *(Bound(f"{case}_peak_gb_8", "<=", MOST_GB) for case in ("mdlm", "categorical")),
    ),
    _item(
        "commands",
        400,
        Bound("mdlm_pair_seconds", "<=", 6),
        Bound("categorical_pair_seconds", "<=", 9),
        name="pair_of_512",
        function="pair_of_512",
    ),
)
# Runs
THIRD = (
    _item(
        "commands",
        150,
        Bound("stopped_amid", "==", True, dry=True),
        Bound("resumed_differs_by", "==", 0.0, dry=True),
        Bound("weights_equal", "==", True, dry=True),
        name="resume",
        function="resume",
    ),
    _item(
        "commands",
        90,
        Bound("differs_by", "==", 0.0, dry=True),
        name="distributed",
        function="distributed",
    ),
    _item("commands", 140, Bound("looks", "==", 1, dry=True), name="look", function="look"),
    _item(
        "commands",
        200,
        Bound("pairs", "==", 200),
        Bound("finite", "==", True, dry=True),
        name="sotu_bpe",
        function="sotu_bpe",
    ),
)
COMMANDS = {"1": FIRST, "2": SECOND, "3": THIRD}
