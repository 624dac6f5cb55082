"""What is done with commands that cannot run here word for word: one explicit table.

Words that begin with $ in it are variables of the shell that runs the commands (``MEANINGS``).
"""

import re
from dataclasses import dataclass

from benchmarks import published

STANDALONE, CH1, MAIN, SEDD = TREES = ("standalone", "duo ch-1", "duo main", "sedd")
DUOS = (STANDALONE, CH1, MAIN)
OURS_OF_SEDD = re.compile(r"-m sedd_ext|from load_model")
OURS_OF_DUO = re.compile(
    r"-m duo_ext(\.(evaluate|generate|export|compat))?( |$)|docs/extending|load_student|models\.dit"
)

MEANINGS = {
    "$REPOSITORY": "a clone of this repository",
    "$TREE": "the tree that the command runs in, for the standalone one its folder here",
    "$STUDENTS": "students of two pairs of the shipped teachers: duo, mdlm, sedd",
    "$TEXT": "the shipped text, as `${idlm_text:sotu32}` has it",
    "$ARITHMETIC": "the word problems, as `${idlm_text:arithmetic}` has them",
    "$STANDINS": "what the hub would give, at width 32 (benchmarks/published.py)",
    "$DUO, $DUO_MAIN, $SEDD": "clones of the checkouts",
    "$SMALL_BIN": "a folder whose `python` adds `$TWO_PAIRS` or the like to a training",
}
_LOOK = "samples=4 steps=[2] teacher_steps=2 entropy=1 unigram_kl=9 word_length=9 every=2"
_LOOK = " ".join(f"algo.guard.{setting}" for setting in _LOOK.split())
_PLACES = {name: f"$STANDINS/{name}" for name in ("text", "tokenizer", "judge")}
_PLACES["folder"] = "$STANDINS"


def _published(paths, teacher, *words):
    """The published settings at width 32, with stand-ins for what is of the hub."""
    filled = [path.format(**_PLACES, teacher=f"$STANDINS/{teacher}") for path in paths]
    return " ".join([*filled, *published.SMALL.words, "+machine=cpu", *words])


_PAIR_OF_TWO = ("loader.global_batch_size=2", "loader.batch_size=2")
_TWO_OF_SEDD = ("training.batch_size=2", "training.micro_batch=2")
_TWO_TEXTS = ("sampling.num_sample_batches=1", "loader.eval_batch_size=2")
_OF_PAIRS = ("data.tokenizer_name_or_path={tokenizer}", published.DUO_PATHS[-1])
_UNTAUGHT = tuple(path for path in published.DUO_PATHS if "teacher" not in path)
WORDS = {  # variables that stand for words
    "TWO_PAIRS": f"trainer.max_steps=2 algo.fake_warmup=1 {_LOOK}",
    "SEDD_TWO_PAIRS": f"training.n_iters=2 algo.fake_warmup=1 {_LOOK}",
    "TWO_STEPS": "trainer.max_steps=2 trainer.limit_val_batches=1",
    "SEDD_TWO_STEPS": "training.n_iters=2",
    "OWT": _published(published.DUO_PATHS, "mdlm-owt-32-64", *_PAIR_OF_TWO),
    "OWT_SEDD": _published(published.SEDD_PATHS, "sedd-small-32-64", *_TWO_OF_SEDD),
    "TINYGSM": _published(_OF_PAIRS, "", *_PAIR_OF_TWO),
    "OWT_SAMPLED": _published(_UNTAUGHT, "", *_TWO_TEXTS),
}
SMOKE = "--smoke --only MDLM --seeds 1 --samples 2 --steps 1"


@dataclass(frozen=True)
class Rule:
    """What is done with a command, or a block of Python or text, in which ``pattern`` is found.

    ``reason`` says why it is not run. Otherwise ``replaced`` are pairs of a regular expression and
    what stands in its place, ``added`` are words at the end. ``trees`` are those that it runs in,
    by default those of its program; ``needs`` are checkouts without which it does not run.
    """

    pattern: str
    added: str = ""
    replaced: tuple = ()
    reason: str = ""
    trees: tuple = ()
    needs: tuple = ()

    def applied(self, command: str) -> str:
        for pattern, by in self.replaced:
            command = re.sub(pattern, lambda _, by=by: by, command)
        return f"{command} {self.added}".strip()

    @property
    def told(self) -> str:
        """What it does to a command, for the table of results."""
        parts = [f"`{by}` for `{pattern}`" for pattern, by in self.replaced]
        return ", ".join(parts + [f"`{self.added}` added"] * bool(self.added))


AS_WRITTEN = Rule("")
EXAMPLES = ("docs/extending", "$REPOSITORY/docs/extending")
COMPAT = "cp $BLOCK $TREE/block.py && python -m duo_ext.compat $TREE/block.py"

# The first whose pattern is found counts.
RULES = (
    # what nothing here can run
    Rule(r"^graph TD", reason="a drawing"),
    Rule(r"^\| model", reason="what a command prints, held to its results by tests/test_docs.py"),
    Rule(r"discrete_diffusion_harness", reason="needs lm-eval and a task of the hub"),
    Rule(r"^sbatch", reason="needs SLURM and a job of the reader's"),
    Rule(r"^pip wheel", reason="downloads packages"),
    Rule(r"kekchpek/", reason="needs models of the hub"),
    Rule(r"PeftModel", reason="needs a network of the host's, as tests/upstream has it"),
    # installing and whole programs
    Rule(r"^pip install", added="--dry-run --no-deps --no-build-isolation"),
    Rule(r"^make demo", added="BIN=$SMALL_BIN SAMPLED='--steps 2 --samples 4'"),
    Rule(r"make_judge", added="--steps 2"),
    Rule(r"benchmarks\.sotu_bpe", added=SMOKE),
    Rule(r"gpu_check 1.*--wheels", added="--dry --only core_tests"),
    Rule(r"gpu_check 1", added="--dry --only demo"),
    Rule(r"gpu_check 2", added="--dry --only pair"),
    Rule(r"gpu_check 3", added="--dry --only look"),
    Rule(
        r"tests/upstream",
        added="-k test_sedd_tree",
        replaced=(("~/duo-main", "$DUO_MAIN"), ("~/duo", "$DUO"), ("~/sedd", "$SEDD")),
        needs=(CH1, MAIN, SEDD),
    ),
    Rule(
        r"patches/apply",
        replaced=(("patches/apply.py CHECKOUT", "$REPOSITORY/patches/apply.py $TREE"),),
        trees=(CH1, MAIN),
    ),
    # blocks of Python
    Rule(r"models\.dit|from load_model", replaced=((r".+", COMPAT),)),
    Rule(
        r"import family",
        replaced=(("python", "PYTHONPATH=$REPOSITORY/docs/extending:$PYTHONPATH python"),),
    ),
    # published settings
    Rule(r"owt_eval", added="$OWT_SAMPLED"),
    Rule(r"sedd_ext.*owt_idlm", added="$OWT_SEDD $SEDD_TWO_PAIRS"),
    Rule(r"owt_idlm", added="$OWT $TWO_PAIRS"),
    Rule(r"tinygsm_idlm", added="$TINYGSM $TWO_PAIRS"),
    # distillations, trainings, evaluations
    Rule(
        r"family\.py",
        added="loader.global_batch_size=4 $TWO_PAIRS",
        replaced=(("DUO_ROOT=PATH", "DUO_ROOT=$TREE"), EXAMPLES),
    ),
    Rule(r"-m sedd_ext .*(sotu_idlm|algo=idlm)", added="$SEDD_TWO_PAIRS"),
    Rule(r"-m duo_ext .*(sotu_idlm|arithmetic_idlm|algo=idlm)", added="$TWO_PAIRS"),
    Rule(r"-m sedd_ext .*(mode=|--check)"),
    Rule(r"-m sedd_ext ", added="$SEDD_TWO_STEPS"),
    Rule(r"compat main\.py", added="$TWO_STEPS", trees=(CH1, MAIN)),
    Rule(r"data=text", added="$TWO_STEPS", trees=(STANDALONE,)),  # no checkout has it
    Rule(r"-m duo_ext .*(sotu_mdlm|sotu_duo)", added="$TWO_STEPS", trees=(STANDALONE,)),
    Rule(r"-m duo_ext .*algo=mdlm", added="$TWO_STEPS"),
    Rule(
        r"sampler\.py",
        added="--samples 4",
        replaced=(EXAMPLES,),
    ),
    Rule(
        r"torchrun.*\.evaluate",
        added="--samples 4 --steps 2",
        replaced=(("--nproc-per-node 4", "--nproc-per-node 2"),),
    ),
    Rule(r"\.evaluate ", added="--samples 4 --steps 2 4"),
    Rule(r"--for harness", trees=(MAIN,)),
)

# {page: {what a reader has before he begins there: what it is a copy of}}
_TEACHERS = "$REPOSITORY/duo_ext/assets/teachers"
BOUND = {
    "README.md": {"TEACHER.ckpt": f"{_TEACHERS}/duo.ckpt"},
    "docs/data.md": {"text": "$TEXT"},
    "docs/evaluate.md": {"runs/mine": "$STUDENTS/duo", "runs/student": "$STUDENTS/sedd"},
    "docs/extending.md": {
        "TEACHER.ckpt": f"{_TEACHERS}/mdlm.ckpt",
        "STUDENT.ckpt": "$STUDENTS/mdlm/checkpoints/best.ckpt",
    },
    "docs/generate.md": {"runs/demo-mdlm": "$STUDENTS/mdlm"},
    "docs/pairs.md": {
        "train.jsonl": "$ARITHMETIC/train.jsonl",
        "valid.jsonl": "$ARITHMETIC/validation.jsonl",
        "TEACHER": "$STANDINS/mdlm-owt-32-64",
        "tinygsm.jsonl": "$STANDINS/tinygsm.jsonl",
        "tinygsm-held-out.jsonl": "$STANDINS/tinygsm.jsonl",
        "gsm8k-test.jsonl": "$STANDINS/gsm8k.jsonl",
    },
    "docs/settings.md": {"TEACHER.ckpt": f"{_TEACHERS}/duo.ckpt", "TEACHER": f"{_TEACHERS}/sedd"},
}
STUDENTS = {  # what makes them
    "duo": "python -m duo_ext +experiment=sotu_idlm_duo $TWO_PAIRS",
    "mdlm": "python -m duo_ext +experiment=sotu_idlm_mdlm $TWO_PAIRS",
    "sedd": "python -m sedd_ext +experiment=sotu_idlm_sedd $SEDD_TWO_PAIRS",
}


def rule_for(text: str) -> Rule:
    """The rule of a command or a block."""
    return next((rule for rule in RULES if re.search(rule.pattern, text)), AS_WRITTEN)


def trees_of(text: str) -> tuple:
    """The trees that a command or a block is run in."""
    own = rule_for(text).trees
    if own:
        return own
    if OURS_OF_SEDD.search(text):
        return STANDALONE, SEDD
    return DUOS if OURS_OF_DUO.search(text) else (STANDALONE,)
