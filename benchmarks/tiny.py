"""Tiny runs of duo_ext and sedd_ext in their standalone trees, started, killed and compared.

A run is forked from a process that has imported its program, so that it starts in one or two
seconds instead of ten; what runs in it is the ``main`` of the command line. Runs of several
processes are started as a user starts them.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

LINE = "we the people of the united states, in order to form a more perfect union, "
PAIRS = 16
SHAPE = ("hidden_size=32", "cond_dim=16", "n_blocks=1", "n_heads=2", "length=16", "dropout=0.1")
SHAPE = tuple(f"model.{setting}" for setting in SHAPE)


@dataclass(frozen=True)
class Program:
    """A command line, the settings of its tiny runs and what its checkpoints are called.

    ``student`` holds {teacher} and {pairs}; a checkpoint is written after each pair. ``last`` is
    the last checkpoint in a run's folder, ``parts`` what in it a run goes on from, ``length`` the
    key of how many pairs, ``tokenizer`` that of the tokenizer. ``two`` is how two processes are
    asked for: (what comes before the program, settings).
    """

    name: str
    prepare: Callable
    common: tuple
    teacher: tuple
    student: tuple
    last: str
    parts: tuple
    length: str
    tokenizer: str
    two: tuple


def _prepare_duo():
    from duo_ext import __main__, host

    host.find(host.STANDALONE).activate()
    import duo_ext.algorithms  # noqa: F401

    return __main__.main


def _prepare_sedd():
    from sedd_ext import __main__, host

    host.find(host.STANDALONE).activate()
    import sedd_ext.modes  # noqa: F401

    return __main__.main


PROGRAMS = {
    "duo_ext": Program(
        "duo_ext",
        _prepare_duo,
        (
            *("data=sotu", "model=sotu", *SHAPE, "loader.global_batch_size=4"),
            *("lr_scheduler.num_warmup_steps=2", "trainer.precision=32", "training.ema=0.9"),
            *("trainer.limit_val_batches=0", "optim.lr=1e-3", "loader.batch_size=2"),
            "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
            "hydra.job.chdir=true",
        ),
        ("algo=mdlm", "trainer.max_steps=2", "callbacks.checkpoint_monitor.save_top_k=0"),
        (
            *("algo=idlm_mdlm", "algo.teacher_path={teacher}", "trainer.max_steps={pairs}"),
            "algo.fake_warmup=1",
        ),
        "checkpoints/last.ckpt",
        ("state_dict", "ema", "optimizer_states", "idlm"),
        "trainer.max_steps",
        "data.tokenizer_name_or_path",
        ((), ("trainer.devices=2",)),
    ),
    "sedd_ext": Program(
        "sedd_ext",
        _prepare_sedd,
        (
            *("data=sotu", "model=sotu", *SHAPE, "tokens=32", "training.batch_size=4"),
            *("training.accum=2", "training.ema=0.9", "optim.warmup=2", "optim.lr=1e-3"),
            *("training.snapshot_freq_for_preemption=1", "device=cpu"),
        ),
        ("algo=sedd", "training.n_iters=2"),
        (
            *("algo=idlm", "teacher={teacher}", "training.n_iters={pairs}"),
            "algo.fake_warmup=1",
        ),
        "checkpoints-meta/checkpoint.pth",
        ("model", "ema", "optimizer", "idlm"),
        "training.n_iters",
        "data.tokenizer",
        (("torch.distributed.run", "--nproc-per-node=2", "-m"), ("training.accum=1",)),
    ),
}


class Tiny:
    """Runs of one program on one small text, with one teacher."""

    def __init__(self, program, folder):
        self.program, self.folder = PROGRAMS[program], Path(folder).absolute()
        text = self.folder / "text"
        text.mkdir(parents=True)
        (text / "train.txt").write_text("\n".join(LINE * 3 for _ in range(8)) + "\n")
        (text / "validation.txt").write_text(LINE * 6 + "\n")
        self.main = self.program.prepare()
        teacher = self.run("teacher", self.program.teacher)
        assert teacher.wait() == 0, teacher.printed()
        self.teacher = teacher.last

    def settings(self, name, extra):
        data = (f"data.train={self.folder}/text", f"data.cache_dir={self.folder}/tokens")
        return [*self.program.common, *data, f"hydra.run.dir={self.folder / name}", *extra]

    def distillation(self, extra=()):
        """The settings of a student."""
        given = {"teacher": getattr(self, "teacher", None), "pairs": PAIRS}
        return [*(setting.format(**given) for setting in self.program.student), *extra]

    def run(self, name, extra, environment=()):
        """Start a run in a forked process, with more in its environment."""
        return Run(self, name, self.settings(name, extra)).fork(dict(environment))

    def student(self, name, *extra, environment=()):
        return self.run(name, self.distillation(extra), environment)

    def together(self, name, *extra, module=None, environment=()):
        """Start a distillation in two processes, by the command that a user gives."""
        before, settings = self.program.two
        module = module or self.program.name
        settings = self.settings(name, self.distillation([*settings, *extra]))
        return Run(self, name, settings).command([*before, module], dict(environment))

    def straight(self):
        """What the undisturbed run ends with, and the seconds from its first save to its end."""
        run = self.student("straight")
        run.wait_for_save()
        start = time.perf_counter()
        assert run.wait() == 0, run.printed()
        return run.tensors(), time.perf_counter() - start

    def tensors(self, path):
        """All in a checkpoint that a run goes on from."""
        checkpoint = torch.load(path, weights_only=True)
        return list(_tensors([checkpoint[part] for part in self.program.parts]))


class Run:
    """One process, or one command, of a run in its folder."""

    def __init__(self, tiny, name, settings):
        self.tiny, self.settings = tiny, settings
        self.folder, self.last = tiny.folder / name, tiny.folder / name / tiny.program.last
        self.output = tiny.folder / f"{name}.printed"
        self.command_started = self.code = None

    def fork(self, environment=()):
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.update(environment)
            self._child()
        return self

    def _child(self):
        """The command line in this process, which ends with it."""
        code = 1
        try:
            with self.output.open("ab", buffering=0) as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            sys.argv = [self.tiny.program.name, *self.settings]
            self.tiny.main()
            code = 0
        except SystemExit as stop:
            print(stop.code, file=sys.stderr, flush=True)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def command(self, words, environment):
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        words = [sys.executable, "-m", *words, *self.settings]
        with self.output.open("ab") as output:
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            self.command_started = subprocess.Popen(words, env=environment, **streams)
        self.pid = self.command_started.pid
        return self

    def over(self):
        """The exit code, or None while it runs."""
        if self.command_started:
            return self.command_started.poll()
        if self.code is None:
            self._reap(os.WNOHANG)
        return self.code

    def _reap(self, how):
        pid, status = os.waitpid(self.pid, how)
        self.code = os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds=600):
        """The exit code."""
        if self.command_started:
            return self.command_started.wait(seconds)
        if self.code is None:
            self._reap(0)
        return self.code

    def wait_for_save(self):
        """Return when the first checkpoint is being written, or the run is over."""
        while not (self.temporaries() or self.last.exists() or self.over() is not None):
            time.sleep(0.001)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def printed(self):
        return self.output.read_text(errors="replace")

    def errors(self):
        """The sentences that tell the user of an error."""
        return re.findall(r"\berror: .*", self.printed())  # some after the bar of a killed process

    def temporaries(self):
        """The unfinished files of a save, from the moment that one is begun."""
        folder = self.last.parent
        if not folder.exists():
            return []
        return [path for path in os.listdir(folder) if path.endswith(".tmp")]

    def tensors(self):
        return self.tiny.tensors(self.last)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def same(ours, theirs):
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def furthest(ours, theirs):
    """The largest difference of two lists of tensors."""
    pairs = zip(ours, theirs, strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel())
