"""Sampling checkpoints and measuring the samples: what Duo's and SEDD's ``evaluate`` share.

A ``Subject`` is a checkpoint ready to sample; ``main`` samples every subject at every combination
of settings, from the same seed, and writes results.json, table.md, figure.png and samples.md.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import omegaconf
import tqdm
from torch import Tensor

from duo_ext import Refused
from duo_ext.commands import streams
from duo_ext.commands.line import hush, one_sentence, resolve
from duo_ext.commands.options import EVERY_HOST, of_subject, parse, require_grid
from duo_ext.data import corpus
from duo_ext.files import is_url, located, write_whole
from duo_ext.hosting import trees
from duo_ext.machine import hardware
from duo_ext.measuring import metrics, words
from duo_ext.measuring.ceiling import Ceiling
from duo_ext.measuring.held_out import accuracy
from duo_ext.measuring.judge import Judge, Scores
from duo_ext.measuring.subject import Setting, Subject
from duo_ext.ranks import ALONE, Ranks, join
from duo_ext.report import tables
from duo_ext.report.pages import render
from duo_ext.report.results import Row, save

READABLE_SAMPLES = 3


@dataclass(frozen=True)
class Side:
    """Duo's or SEDD's side of the command."""

    module: str  # what is run, as python -m takes it
    host: str  # the name of the program
    add_options: Callable  # add_options(parser) adds what this side alone has
    activate: Callable  # activate(path or None) makes a host active and gives its Tree
    load: Callable  # load(role, path, options) -> the ``Subject`` of a checkpoint


class Own:
    """A model's own data, with which its samples are compared.

    It is its validation text, ``held_out``, the judge's ``scores`` of ``count`` blocks of it, and
    the words of its training text.
    """

    def __init__(self, subject: Subject, judge: Judge, count: int, ranks: Ranks = ALONE):
        self.held_out = ranks.in_turn(subject.held_out)
        self.given = self.held_out.given(count)
        some = self.held_out.some(count)
        if ranks.first:
            judge.warn_of_unread(some)
        self.scores = judge.score(some, ranks)
        self.words = words.known_of(str(subject.data.train))
        train = omegaconf.OmegaConf.to_container(subject.data, resolve=False)["train"]
        blocks = len(self.held_out.tokens_NL)
        self.description = {"blocks": blocks, "length": subject.length, "train": train}

    def compare(self, tokens_NL: Tensor, texts: list[str], scores: Scores, seed: int) -> dict:
        """The measured numbers of a row of results.json, from tokens (N, L), texts and scores."""
        features = scores.features_ND, self.scores.features_ND
        right = self.held_out.right(texts)
        return {
            **metrics.measure(
                self.held_out.written(tokens_NL), scores, self.held_out.reference, seed
            ),
            "mauve": metrics.mauve(*features, seed),
            "energy": metrics.energy(*features),
            **words.measure(texts, self.words),
            **({} if right is None else accuracy(right)),
        }


def evaluate(
    side: Side, tree: trees.Tree, options: argparse.Namespace, ranks: Ranks = ALONE
) -> tuple[dict, dict[str, list[str]]]:
    """(the content of a results.json, readable samples {heading: texts}).

    All processes call it; what the first one gets is whole. Raises Refused where a checkpoint, the
    judge or the output folder does not fit.
    """
    given = [("teacher", path) for path in options.teacher]
    given += [("student", path) for path in options.student]
    subjects = [side.load(role, path, options) for role, path in given]
    names = options.names or _names(subjects)
    path = resolve(options.judge)
    judge = Judge(path, options.device, options.batch_size, key="--judge")
    models = {_data(subject): subject for subject in subjects}
    own = {data: Own(subject, judge, options.samples, ranks) for data, subject in models.items()}
    if ranks.first:
        _make_folder(options.output)
    parts = [
        ((name, subject), setting)
        for name, subject in zip(names, subjects, strict=True)
        for setting in of_subject(subject, subjects, options)
    ]
    require_grid((setting for _, setting in parts), options, EVERY_HOST)
    for (_, subject), setting in parts:
        subject.require(setting, options.precision)
        if not setting.by_host:
            subject.times(setting)  # some take minutes to find, which are not those of a row
    if options.ceiling:
        parts += _ceiling(judge, subjects[0], options)
    wanted = [(subject, setting) for (_, subject), setting in parts]
    samples = streams.sample(wanted, options, ranks, lambda subject: own[_data(subject)].given)
    rows, readable = [], {}
    bar = tqdm.tqdm(parts, "judged", unit="row", disable=not ranks.first)
    for ((name, subject), setting), drawn in zip(bar, samples, strict=True):
        tokens_NL, evaluations, seconds = drawn
        data = own[_data(subject)]
        texts = data.held_out.texts(tokens_NL)
        scores = judge.score(texts, ranks)
        if not ranks.first:
            continue
        measured = data.compare(tokens_NL, texts, scores, options.seed)
        sampled = _sampled(subject, setting, options, evaluations, seconds)
        row = Row(name=name, host=tree.name, **sampled, **measured)
        rows.append(asdict(row))
        heading = f"{subject.role} {name} ({row.checkpoint}), {setting.steps} steps"
        heading += "" if setting.by_host else f" by {setting.sampler}"
        readable.setdefault(heading, texts[:READABLE_SAMPLES])
    first = next(iter(own.values()))
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
    if subject.form:
        raise Refused("--ceiling is for whole texts; the judge knows no prompts of data.pairs")
    own = judge.name, Ceiling.of(judge, options.judge, subject)
    return [(own, Setting(subject.length, temperature=t)) for t in options.temperature]


def _names(subjects):
    """Their algo, and the path as well where two of a role have the same."""
    algos = [(subject.role, subject.algo) for subject in subjects]
    return [
        subject.algo if algos.count(own) == 1 else f"{subject.algo} {subject.path}"
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


def _sampled(subject, setting, options, evaluations, seconds):
    """What a row says of how its texts were drawn."""
    path = subject.path
    local = os.path.exists(path) and not is_url(options.output)
    return {
        "model": subject.role,
        "algo": subject.algo,
        **asdict(setting),
        "times": None if setting.by_host else subject.times(setting).tolist(),
        "evaluations": evaluations,
        "precision": options.precision,
        "samples": options.samples,
        "seed": options.seed,
        "seconds": seconds,
        "tokens_per_second": options.samples * subject.length / seconds,
        "checkpoint": os.path.relpath(path, options.output) if local else path,
        "checkpoint_sha256": subject.sha256,
    }


def main(side: Side, arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    with one_sentence():
        options = parse(side, sys.argv[1:] if arguments is None else arguments)
        options.device, ranks = join(options.device, "--device")
        tree = side.activate(options.host)
        hush()
        corpus.register_resolvers()
        results, readable = evaluate(side, tree, options, ranks)
        if not ranks.first:
            return
        save(results, options.output)
        render(options.output)
        write_whole(f"{options.output}/samples.md", tables.samples_markdown(readable).encode())
    print(tables.page(results))
    names = ("results.json", "table.md", "figure.png", "samples.md")
    print("written: " + ", ".join(f"{options.output}/{name}" for name in names))
