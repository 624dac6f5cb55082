"""The texts of rows: each row's in streams of random numbers, which a run's processes share."""

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tqdm
from torch import Tensor

from duo_ext.measuring import batches, draws
from duo_ext.measuring.subject import Setting, Subject
from duo_ext.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Stream:
    """Batches of a row that one process draws."""

    row: int  # the row's place among the rows
    first: int  # the number of the first text
    sizes: list  # how many texts each batch has

    @classmethod
    def of_row(
        cls, row: int, subject: Subject, setting: Setting, options: argparse.Namespace
    ) -> list["Stream"]:
        """All, by one stream of random numbers as in the host's own command; or one batch, where a
        sampler of the core draws, to which a text has numbers of its own."""
        size = batch_size(subject, setting, options)
        sizes = draws.sizes(options.samples, size)
        if setting.by_host:
            return [cls(row, 0, sizes)]
        return [cls(row, place * size, [count]) for place, count in enumerate(sizes)]

    @torch.no_grad()
    def draw(
        self,
        subject: Subject,
        setting: Setting,
        options: argparse.Namespace,
        given: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[list[Tensor], int, float]:
        """(tokens of each batch, network evaluations, seconds); ``given`` is (x0, given), (N, L)
        each, of all texts of the row."""
        subject.seed(options.seed)
        numbers, count = (), sum(self.sizes)
        if not setting.by_host:
            numbers = (draws.of_texts(options.seed, self.first, count),)
        if given is not None:
            numbers += (tuple(x_NL[self.first : self.first + count] for x_NL in given),)
        start = time.perf_counter()
        with subject.sampler(setting, options.precision) as (draw, calls):
            tokens = [draw(size, *numbers).cpu() for size in self.sizes]
        return tokens, len(calls), time.perf_counter() - start


def batch_size(subject: Subject, setting: Setting, options: argparse.Namespace) -> int:
    """How many texts are drawn at a time: as the user says, or as many as fit."""
    if options.batch_size or not setting.by_host:
        return options.batch_size or batches.MOST
    return batches.fitted(batches.of_hosts_sampler(subject.length, subject.vocab_size))


def sample(
    wanted: list[tuple[Subject, Setting]],
    options: argparse.Namespace,
    ranks: Ranks = ALONE,
    given: Callable[[Subject], tuple[Tensor, Tensor] | None] = lambda subject: None,
) -> list[tuple[Tensor, int, float]]:
    """[(tokens (N, L) on the CPU, network evaluations of a sample, seconds of one device)], one for
    each (subject, setting) of ``wanted``. ``given(subject)`` are the prompts of its samples.

    The processes share the streams, the longest first. No stream depends on who draws it.
    """
    streams = [
        s
        for row, (subject, way) in enumerate(wanted)
        for s in Stream.of_row(row, subject, way, options)
    ]
    streams.sort(key=lambda stream: -sum(stream.sizes) * wanted[stream.row][1].steps)
    bar = tqdm.tqdm(total=len(streams), unit="stream", disable=not ranks.first)

    def draw(stream):
        subject, setting = wanted[stream.row]
        found = stream.draw(subject, setting, options, given(subject))
        bar.update(min(ranks.world, bar.total - bar.n))
        return found

    with bar:
        drawn = ranks.shared(streams, draw)
    rows = [[] for _ in wanted]
    for stream, found in sorted(zip(streams, drawn, strict=True), key=lambda pair: pair[0].first):
        rows[stream.row].append(found)
    return [_joined(*zip(*row, strict=True)) for row in rows]


def _joined(tokens, evaluations, seconds):
    tokens = list(itertools.chain(*tokens))
    return torch.cat(tokens), round(sum(evaluations) / len(tokens)), sum(seconds)
