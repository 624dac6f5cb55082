"""What ``duo_ext.generate`` and ``sedd_ext.generate`` do: texts to stdout, all else to stderr."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator

import torch
import tqdm
from torch import Tensor

from duo_ext import Refused
from duo_ext.commands import evaluation, playback
from duo_ext.commands.line import one_sentence
from duo_ext.commands.options import divided, require_numbers, require_own
from duo_ext.commands.student import Student
from duo_ext.core import samplers
from duo_ext.core.samplers import grids
from duo_ext.data.prompts import HOLE
from duo_ext.files import opened, write_whole
from duo_ext.report import page

KINDS = ("prompt", "infill")


def parse(side: evaluation.Side, module: str, arguments: list[str]) -> argparse.Namespace:
    """The options of a command line; ``overrides`` are the host's settings in it. Raises Refused
    for values that cannot work."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        usage="%(prog)s MODEL [options] [key=value ...]",
        description="Write texts, as they are finished; everything else goes to stderr.",
        epilog=f"key=value: {side.host}'s settings, for a model that carries none.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, run folder, export or hub id")
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--prompt", metavar="TEXT", help="what each text begins with")
    texts.add_argument("--infill", metavar="TEXT", help=f"a text with holes, written {HOLE}")
    texts.add_argument("--prompts", metavar="FILE", help='lines {"prompt": ...} or {"infill": ...}')
    parser.add_argument("--samples", type=int, default=1, help="texts, of each line of --prompts")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--sampler", help=f"host, or {samplers.WANTED}; else as it was trained for")
    parser.add_argument("--grid", help=f"times: {grids.WANTED}; or auto")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, help="texts at a time; by default at most 64")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="a JSON object a line for each text")
    shown.add_argument("--watch", action="store_true", help="show the steps of each text")
    parser.add_argument("--page", metavar="FILE.html", help="play the first text's steps")
    parser.add_argument("--teacher", metavar="CKPT", help="beside it on the page")
    parser.add_argument("--teacher-steps", type=int, default=64)
    parser.add_argument("--trust-checkpoint", action="store_true", help="load any types")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--host", metavar="PATH", help=f"the {side.host} tree to sample in")
    words, overrides = divided(arguments, parser)
    options = parser.parse_args(words, argparse.Namespace(overrides=overrides))
    require_numbers(options, samples=1, steps=1, batch_size=1, teacher_steps=1)
    require_own(options)
    if options.teacher and not options.page:
        raise Refused("--teacher is for --page, beside whose text its own is shown")
    return options


def wanted(options: argparse.Namespace) -> Iterator[dict]:
    """The texts to write: {}, {"prompt": text} or {"infill": text} each."""
    if options.prompts is None:
        own = {kind: getattr(options, kind) for kind in KINDS}
        yield {kind: text for kind, text in own.items() if text is not None}
        return
    try:
        with opened(options.prompts) as file:
            lines = file.read().decode().split("\n")  # not at a text's own U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--prompts is '{options.prompts}'; it cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _read(line, f"--prompts is '{options.prompts}'; line {number}")


def _read(line, named):
    try:
        found = json.loads(line)
    except ValueError as error:
        raise Refused(f"{named} is no JSON ({error})") from error
    given = {kind: found.get(kind) for kind in KINDS} if isinstance(found, dict) else {}
    given = {kind: text for kind, text in given.items() if isinstance(text, str)}
    if len(given) != 1:
        raise Refused(f'{named} must be {{"prompt": text}} or {{"infill": text}}')
    return given


def way(options: argparse.Namespace, steps: int, given: dict) -> dict:
    """What ``Student.batches`` is told."""
    own = {"sampler": options.sampler, "grid": options.grid}
    told = {"steps": steps, "seed": options.seed, "temperature": options.temperature}
    return told | given | {key: value for key, value in own.items() if value is not None}


class Progress:
    """A bar of network evaluations, which counts them."""

    def __init__(self, student: Student, quiet: bool):
        self.student, self.start = student, time.perf_counter()
        self.bar = tqdm.tqdm(unit=" evaluations", disable=quiet, leave=False)
        self.evaluations = self.texts = 0

    def see(self, z_BL: Tensor) -> None:
        """One evaluation more."""
        self.evaluations += len(z_BL)
        self.bar.update()

    def summary(self) -> str:
        """One line: texts, seconds, tokens a second, evaluations of a text."""
        seconds = time.perf_counter() - self.start
        tokens = self.texts * self.student.length
        each = self.evaluations / self.texts
        return (
            f"{self.texts} text{'s' * (self.texts > 1)} of {self.student.length} tokens in "
            f"{seconds:.2f} s, {tokens / seconds:.0f} tokens/s, {each:.3g} network evaluations each"
        )


def write(student: Student, texts: list[dict], options: argparse.Namespace) -> None:
    """Write all texts."""
    progress, number = Progress(student, options.watch), 0
    with contextlib.closing(progress.bar):
        for given in texts:
            told = way(options, options.steps, given)
            for text in _texts(student, options, told, progress):
                progress.texts += 1
                with progress.bar.external_write_mode(sys.stdout):
                    _say(text, given, options, number)
                number += 1
    print(progress.summary(), file=sys.stderr)


def _texts(student, options, told, progress):
    if options.watch:
        for number in range(options.samples):
            yield playback.watched(student, number, told, progress.see)
        return
    rest = {"batch_size": options.batch_size, "see": progress.see}
    for tokens_BL in student.batches(options.samples, **rest, **told):
        yield from student.frame.decode(tokens_BL)


def _say(text, given, options, number):
    if options.json:
        own = {"steps": options.steps, "seed": options.seed, "number": number % options.samples}
        print(json.dumps(given | {"text": text} | own), flush=True)
    elif not options.watch:
        print(text if number == 0 else f"\n{text}", flush=True)


def make_page(
    side: evaluation.Side, student: Student, given: dict, options: argparse.Namespace
) -> None:
    """Write the page: the steps of a text, a teacher's before them."""
    shown = []
    if options.teacher:
        teacher = _load(side, options.teacher, options)
        own = way(options, options.teacher_steps, given) | {"sampler": "ancestral", "grid": "host"}
        shown.append(playback.column(teacher, f"teacher {teacher.algo}", own))
    shown.append(playback.column(student, student.algo, way(options, options.steps, given)))
    write_whole(options.page, page.html(shown).encode())
    print(f"written: {options.page}", file=sys.stderr)


def _load(side, path, options):
    return Student(
        side, path, options.overrides, options.host, options.device, options.trust_checkpoint
    )


def main(side: evaluation.Side, module: str, arguments: list[str] | None = None) -> None:
    """The command, with the words of the command line unless others are given."""
    with one_sentence():
        options = parse(side, module, sys.argv[1:] if arguments is None else arguments)
        student = _load(side, options.model, options)
        texts = list(wanted(options))
        if not texts:
            raise Refused(f"--prompts is '{options.prompts}'; it has no line with a prompt")
        for given in texts:
            student.require(**way(options, options.steps, given))
        if options.page:
            make_page(side, student, texts[0], options)
        write(student, texts, options)
