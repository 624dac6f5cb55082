"""What is in a table of methods: its lines, and how small it may be made."""

from dataclasses import dataclass, field

from duo_ext.commands.options import SHIPPED_JUDGE


@dataclass(frozen=True)
class Method:
    """A line of the table: what trains it, on what, and how it is sampled.

    ``train`` are the arguments of ``program``, the experiment first; without any it is the shipped
    model ``checkpoint``. ``after`` is the method whose checkpoint is the teacher; ``extra`` are
    arguments of its first evaluation; ``greedy``: sampled with a greedy last step too; ``reach``:
    one temperature more, where the others do not reach the teacher's entropy; ``once``: of the
    first seed alone; ``steps``: sampled in these besides the table's. ``own`` are the options of
    samplers of the core, {sampler: options}: it is sampled by them too. A family has the name of
    its teacher.
    """

    family: str
    name: str
    train: tuple = ()
    checkpoint: str = ""
    after: str = ""
    extra: tuple = ()
    greedy: bool = False
    reach: str = ""
    once: bool = False
    steps: tuple = ()
    own: dict = field(default_factory=dict)

    @property
    def program(self):
        return "sedd_ext" if self.family == "SEDD" else "duo_ext"

    @property
    def model(self):
        return "teacher" if self.name == self.family else "student"


def experiment(name, *overrides):
    return (f"+experiment={name}", *overrides)


@dataclass(frozen=True)
class Benchmark:
    """What is in a table, and what is the default of its options.

    ``smoke`` are the arguments that --smoke adds to a training: {experiment, or program for all
    others: arguments}.
    """

    module: str
    methods: tuple
    steps: tuple
    jobs: int
    smoke: dict[str, tuple]
    judge: str = SHIPPED_JUDGE
