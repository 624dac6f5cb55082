"""Sampling checkpoints and measuring the samples: what Duo's and SEDD's ``evaluate`` share.

A ``Subject`` is a checkpoint ready to sample; ``main`` samples every subject at every combination
of settings, from the same seed, and writes results.json, table.md, figure.png and samples.md.
"""

import argparse
import contextlib
import itertools
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import omegaconf
import torch
import tqdm
from hydra.core.override_parser.overrides_parser import OverridesParser

from duo_ext import Refused, corpus, metrics, report, trees
from duo_ext.core import sampler
from duo_ext.files import is_url, located, write_whole
from duo_ext.line import hush, one_sentence
from duo_ext.pretrained import FILE_ENDINGS

SHIPPED_JUDGE = "${idlm_asset:judge}"
READABLE_SAMPLES = 3
OVERRIDE = re.compile(r"\+{0,2}[A-Za-z_][\w.@/-]*=|~[A-Za-z_]")
WAYS = ("steps", "sampler", "predictor", "noise_removal", "temperature", "nucleus")
SAMPLERS = ("host", "rows")


@dataclass(frozen=True)
class Setting:
    """One way of sampling; ``sampler`` is the host's own or ``core.sampler``."""

    steps: int
    sampler: str = "host"
    predictor: str = "ancestral"
    noise_removal: str = "ancestral"
    temperature: float = 1.0
    nucleus: float = 1.0


@dataclass
class Subject:
    """A checkpoint to sample: its role in the report, the path as given, the algorithm that made
    it, its hash, and what its texts and statistics are made with.

    A host's subject adds ``seed(seed)``; ``sampler(setting, precision)``, a context that gives
    (draw(size) -> tokens (size, L), a list that grows with each network evaluation); and
    ``held_out()``, the validation tokens (N, L) of its own data.
    """

    role: str
    given: str
    algo: str
    sha256: str
    tokenizer: object
    vocab_size: int
    length: int
    data: dict


@dataclass(frozen=True)
class Program:
    """What differs between hosts: the module that is run, how options are added and checked, how a
    host is made active (the path or None) -> its Tree, how a checkpoint is loaded."""

    module: str
    host: str
    add_options: Callable
    activate: Callable
    load: Callable


def parse(program, arguments):
    parser = argparse.ArgumentParser(
        prog=f"python -m {program.module}",
        usage="%(prog)s [options] [key=value ...]",
        description="Sample checkpoints with their EMA weights, measure the samples, compare.",
        epilog=f"key=value: {program.host}'s settings, for checkpoints that carry none. A word of "
        "that look is no setting where it is the one value of an option, stands behind --names, or "
        "behind --teacher or --student is the first, exists, or ends as checkpoints do "
        f"({' '.join(FILE_ENDINGS)}).",
        allow_abbrev=False,
    )
    paths = {"nargs": "+", "default": [], "metavar": "CKPT"}
    parser.add_argument("--teacher", help="checkpoints to compare with", **paths)
    parser.add_argument("--student", help="checkpoints to judge", **paths)
    parser.add_argument("--names", nargs="+", help="what to call them, instead of their algo")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument(
        "--sampler",
        nargs="+",
        choices=SAMPLERS,
        default=["host"],
        help="the host's own; or ours, which forms probabilities only where a token is drawn",
    )
    parser.add_argument("--temperature", nargs="+", type=float, default=[1.0])
    program.add_options(parser)
    parser.add_argument("--trust-checkpoint", action="store_true", help="load any types")
    parser.add_argument("--samples", type=int, default=1024, help="samples a row")
    parser.add_argument("--batch-size", type=int, default=64, help="samples at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=("float64", "float32"), default="float64")
    parser.add_argument("--judge", default=SHIPPED_JUDGE, help="a causal LM's folder or hub name")
    parser.add_argument("--ceiling", action="store_true", help="the judge's own samples too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--host", metavar="PATH", help=f"the {program.host} tree to sample in")
    words, overrides = divided(arguments, parser)
    options = parser.parse_args(words, argparse.Namespace(overrides=overrides))
    options.command = shlex.join(["python", "-m", program.module, *arguments])
    _check(options)
    return options


def divided(arguments, parser):
    """(the words of options, the host's settings) of a command line; see the help's last lines."""
    actions = parser._option_string_actions
    words, overrides, option, place = [], [], None, 0
    for word in arguments:
        name, equals, _ = word.partition("=")
        if name in actions:
            option, place = None if equals else actions[name], 0
        elif OVERRIDE.match(word) and not _is_value(word, option, place):
            overrides.append(word)
            continue
        else:
            place += 1
        words.append(word)
    return words, overrides


def _is_value(word, option, place):
    """Whether a word that looks like a setting is an option's value, as that of this place."""
    if option is None or option.dest == "names":
        return option is not None
    if option.dest in ("teacher", "student"):
        return place == 0 or os.path.exists(word) or word.endswith(FILE_ENDINGS)
    return option.nargs is None and place == 0


def _check(options):
    given = options.teacher + options.student
    if not given:
        raise Refused("nothing to evaluate: give --teacher or --student checkpoints")
    if options.names and len(options.names) != len(given):
        raise Refused(f"--names has {len(options.names)} names for {len(given)} checkpoints")
    for name, least in (("steps", 1), ("samples", 1), ("batch_size", 1), ("seed", 0)):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value < least:
                raise Refused(f"--{name.replace('_', '-')} is {value}; at least {least}")
    for name in ("temperature", "nucleus"):
        for value in getattr(options, name):
            if not value > 0 or (name == "nucleus" and value > 1):
                raise Refused(f"--{name} is {value}; above 0{', at most 1' * (name == 'nucleus')}")
    if "rows" in options.sampler:
        _check_rows(options)
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch lacks CUDA
        raise Refused(f"--device is '{options.device}'; torch cannot use it here") from error


def _check_rows(options):
    for nucleus in options.nucleus:
        if nucleus != 1:
            raise Refused(f"--nucleus is {nucleus}; --sampler rows draws from all tokens: 1.0")
    if options.precision != "float64":
        raise Refused(f"--precision is '{options.precision}'; --sampler rows draws in float64")


def resolve(text):
    """A path as the command lines take it: ``${idlm_asset:...}`` and the like are resolved."""
    return omegaconf.OmegaConf.create({"path": text}).path


def override(config, overrides):
    """Let the dotted ones of a command line's overrides win over what a checkpoint says."""
    for told in OverridesParser.create().parse_overrides(overrides):
        if "." in told.key_or_group and not told.is_delete():
            omegaconf.OmegaConf.update(config, told.key_or_group, told.value(), force_add=True)


def by_rows(process, student, setting, length):
    """What a subject's ``sampler`` gives, by the core's; student is a ``sampler.Tempered``."""

    def draw(size):
        shape, removal = (size, length), setting.noise_removal
        return sampler.sample(process, student, shape, setting.steps, removal)

    return draw, student.calls


def sample(subject, setting, options):
    """(tokens (N, L) on the CPU, network evaluations of a sample, seconds)."""
    subject.seed(options.seed)
    start = time.perf_counter()
    with subject.sampler(setting, options.precision) as (draw, calls):
        tokens_NL = metrics.draw(draw, options.samples, options.batch_size)
    batches = math.ceil(options.samples / options.batch_size)
    return tokens_NL, round(len(calls) / batches), time.perf_counter() - start


class HeldOut:
    """The validation text of a model's own data, what samples are compared with: its statistics,
    and the judge's ``scores`` of ``count`` texts of it."""

    def __init__(self, subject, judge, count):
        tokens_NL = subject.held_out()
        self.reference = metrics.Reference(tokens_NL, subject.vocab_size)
        spread = torch.linspace(0, len(tokens_NL) - 1, min(count, len(tokens_NL))).long()
        self.scores = judge.score(subject.tokenizer.batch_decode(tokens_NL[spread]))
        train = omegaconf.OmegaConf.to_container(subject.data, resolve=False)["train"]
        self.description = {"blocks": len(tokens_NL), "length": subject.length, "train": train}

    def compare(self, tokens_NL, scores, seed):
        """The numbers of a row of results.json."""
        mauve = metrics.mauve(scores.features_ND, self.scores.features_ND, seed)
        return metrics.measure(tokens_NL, scores, self.reference, seed) | {"mauve": mauve}


def evaluate(program, tree, options):
    """All rows of a results.json, and readable samples {heading: texts}."""
    given = [("teacher", path) for path in options.teacher]
    given += [("student", path) for path in options.student]
    subjects = [program.load(role, path, options) for role, path in given]
    names = options.names or _names(subjects)
    path = resolve(options.judge)
    judge = metrics.Judge(path, options.device, options.batch_size, key="--judge")
    models = {_data(subject): subject for subject in subjects}
    held_out = {data: HeldOut(subject, judge, options.samples) for data, subject in models.items()}
    _make_folder(options.output)
    ways = itertools.product(*(getattr(options, way) for way in WAYS))
    settings = list(itertools.starmap(Setting, ways))
    parts = list(itertools.product(zip(names, subjects, strict=True), settings))
    if options.ceiling:
        parts += _ceiling(judge, subjects[0], options)
    rows, readable = [], {}
    bar = tqdm.tqdm(parts, unit="row")
    for (name, subject), setting in bar:
        bar.set_postfix_str(f"{name}, {setting.steps} steps")
        tokens_NL, evaluations, seconds = sample(subject, setting, options)
        texts = subject.tokenizer.batch_decode(tokens_NL)
        measured = held_out[_data(subject)].compare(tokens_NL, judge.score(texts), options.seed)
        row = _row(name, subject, setting, options, evaluations, seconds)
        rows.append(row | {"host": tree.name} | measured)
        heading = f"{subject.role} {name} ({row['checkpoint']}), {setting.steps} steps"
        readable.setdefault(heading, texts[:READABLE_SAMPLES])
    first = next(iter(held_out.values()))
    heldout_ppl = metrics.gen_ppl(*first.scores[:2], options.seed).value
    results = {
        "rows": rows,
        "judge": {"name": judge.name, "heldout_ppl": heldout_ppl},
        "data": first.description,
        "commit": trees.own_commit(),
        "hardware": hardware(options.device),
        "command": options.command,
    }
    return results, readable


def _ceiling(judge, subject, options):
    """The judge's own rows: one a temperature."""
    from duo_ext.ceiling import Ceiling  # it is a Subject

    own = judge.name, Ceiling.of(judge, options.judge, subject)
    return [(own, Setting(subject.length, temperature=t)) for t in options.temperature]


def _names(subjects):
    """Their algo, and the path as well where two of a role have the same."""
    algos = [(subject.role, subject.algo) for subject in subjects]
    return [
        subject.algo if algos.count(own) == 1 else f"{subject.algo} {subject.given}"
        for own, subject in zip(algos, subjects, strict=True)
    ]


def _data(subject):
    """What makes a held-out text: two models with the same share its statistics."""
    return subject.vocab_size, subject.length, str(subject.data)


def _make_folder(path):
    """Make the output folder and write to it once, before the sampling rather than after it."""
    fs, local = located(path)
    try:
        fs.makedirs(local, exist_ok=True)
        fs.touch(f"{local}/.writable")
        fs.rm(f"{local}/.writable")
    except OSError as error:
        raise Refused(
            f"--output is '{path}'; it must be a folder that can be written ({error.strerror})"
        ) from error


def _row(name, subject, setting, options, evaluations, seconds):
    given = subject.given
    local = os.path.exists(given) and not is_url(options.output)
    return {
        "model": subject.role,
        "name": name,
        "algo": subject.algo,
        "steps": setting.steps,
        "evaluations": evaluations,
        "sampler": setting.sampler,
        "predictor": setting.predictor,
        "noise_removal": setting.noise_removal,
        "temperature": setting.temperature,
        "nucleus": setting.nucleus,
        "precision": options.precision,
        "samples": options.samples,
        "seed": options.seed,
        "seconds": seconds,
        "tokens_per_second": options.samples * subject.length / seconds,
        "checkpoint": os.path.relpath(given, options.output) if local else given,
        "checkpoint_sha256": subject.sha256,
    }


def hardware(device):
    if str(device).startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return f"{torch.get_num_threads()} threads of {name}, torch {torch.__version__}"


def main(program, arguments=None):
    with one_sentence():
        options = parse(program, sys.argv[1:] if arguments is None else arguments)
        tree = program.activate(options.host)
        hush()
        corpus.register_resolvers()
        results, readable = evaluate(program, tree, options)
        report.save(results, options.output)
        report.render(options.output)
        write_whole(f"{options.output}/samples.md", report.samples_markdown(readable).encode())
    print(report.page(results))
    names = ("results.json", "table.md", "figure.png", "samples.md")
    print("written: " + ", ".join(f"{options.output}/{name}" for name in names))
