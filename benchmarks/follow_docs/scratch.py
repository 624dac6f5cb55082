"""Where commands of the pages run: clones, what a reader has before he begins, the environment."""

import contextlib
import os
import shutil
import signal
import string
import subprocess
import sys
from pathlib import Path

from benchmarks import published
from benchmarks.follow_docs import rules
from benchmarks.follow_docs.blocks import ROOT
from duo_ext import Refused, host
from duo_ext.commands import line
from duo_ext.data import corpus

LEFT_OUT = ("DUO_ROOT", "DUO_MAIN_ROOT", "SEDD_ROOT", "OUT", "HYDRA_FULL_ERROR", "BLOCK")
OWN_TREES = {"duo": "duo_ext/standalone", "sedd": "sedd_ext/standalone"}
# Adds to what make starts; the settings of a guard are a distillation's alone.
SMALL_PYTHON = """#!/bin/sh
case "$*" in
  "-m sedd_ext "*) set -- "$@" $SEDD_TWO_PAIRS ;;
  "-m duo_ext "*sotu_dcd*) set -- "$@" $TWO_STEPS ;;
  "-m duo_ext "*) set -- "$@" $TWO_PAIRS ;;
esac
"""


class Scratch:
    """The folder of all of it. ``hosts``: {name of a tree: its root}, the standalone one apart."""

    def __init__(self, folder, hosts):
        self.folder, self.hosts = Path(folder).absolute(), hosts
        self.repository = self.folder / "repository"

    def place(self, tree, page, side):
        """The working folder of a page's commands for one program, in one tree."""
        page = page.removesuffix(".md").replace("/", "-")
        return self.folder / tree.replace(" ", "-") / page / side

    def checkout(self, tree):
        """A clone for commands that name a checkout instead of running in it."""
        return self.folder / "checkouts" / tree.replace(" ", "-")

    def open(self):
        """What every page needs."""
        corpus.register_resolvers()
        clone(ROOT, self.repository)
        for name, root in self.hosts.items():
            clone(root, self.checkout(name))
        self._pretend_installed(self.folder / "small", SMALL_PYTHON)

    def ready(self, tree, page, side):
        """The working folder with what a reader has there, made where it is not."""
        place = self.place(tree, page, side)
        clone(self.hosts.get(tree, ROOT), place)
        if tree == rules.STANDALONE:
            self._pretend_installed(place / ".venv" / "bin", "#!/bin/sh\n")
        for name, source in rules.BOUND.get(page, {}).items():
            if not (place / name).exists():
                copy(self._made(source, tree, page, side), place / name)
        return place

    def _pretend_installed(self, folder, script):
        """Let make take this Python for one that it has installed."""
        folder.mkdir(parents=True, exist_ok=True)
        python = folder / "python"
        python.write_text(f'{script}exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (folder / ".installed").touch()

    def _made(self, source, tree, page, side):
        """The path of what a page is given, made first if it is made here."""
        if source.startswith("$STUDENTS/"):
            self.student(source.split("/")[1])
        if source.startswith("$STANDINS/"):
            self.stand_ins()
        return string.Template(source).substitute(self.environment(tree, page, side))

    def student(self, name):
        """Make a student of two pairs, if it is not there."""
        place = self.folder / "students" / name
        if not (place / "done").exists():
            command = f"{rules.STUDENTS[name]} hydra.run.dir={place}"
            environment = self.environment(rules.STANDALONE, "README.md", "duo")
            environment["PYTHONPATH"] = str(self.repository)
            printed = self.folder / "students" / f"{name}.txt"
            if code := run(command, self.repository, environment, printed, 900):
                raise Refused(f"'{command}' ended with {code}; see {printed}")
            (place / "done").touch()

    def stand_ins(self):
        """What the published settings take from the hub."""
        host.find(host.STANDALONE).activate()  # its DIT has the published layout
        published.make_common(self.folder / "stand-ins")
        published.make_problems(self.folder / "stand-ins")
        for kind in ("mdlm-owt", "sedd-small"):
            published.make_teacher(self.folder / "stand-ins", kind, published.SMALL)

    def environment(self, tree, page, side):
        """The variables of a shell that runs a page's commands."""
        place, alone = self.place(tree, page, side), tree == rules.STANDALONE
        repository = place if alone else self.repository
        places = {
            "REPOSITORY": repository,
            "TREE": place / OWN_TREES[side] if alone else place,
            "STUDENTS": self.folder / "students",
            "STANDINS": self.folder / "stand-ins",
            "SMALL_BIN": self.folder / "small",
            "TEXT": line.resolve("${idlm_text:sotu32}"),
            "ARITHMETIC": line.resolve("${idlm_text:arithmetic}"),
            "PYTHONPATH": repository,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": 1,
        }
        for name in self.hosts:
            variable = {rules.CH1: "DUO", rules.MAIN: "DUO_MAIN", rules.SEDD: "SEDD"}[name]
            places[variable] = self.checkout(name)
        inherited = {name: v for name, v in os.environ.items() if name not in LEFT_OUT}
        words = {
            name: string.Template(text).safe_substitute(places)
            for name, text in rules.WORDS.items()
        }
        places = {name: str(value) for name, value in places.items()}
        return {"OMP_NUM_THREADS": "1"} | inherited | places | words

    def masked(self, text):
        """A text without this machine's paths."""
        names = {self.folder: "$SCRATCH", ROOT: "$REPOSITORY", Path(sys.prefix): "$VENV"}
        names |= dict.fromkeys(self.hosts.values(), "$CHECKOUT") | {Path.home(): "~"}
        for path, name in names.items():
            text = text.replace(str(path), name)
        return text


def clone(source, place):
    """A clone of a repository's commit; what it does not hold is kept in the folder."""
    if not place.exists():
        _git("clone", "--quiet", "--shared", source, place)
    _git("-C", place, "fetch", "--quiet", source, "HEAD")
    _git("-C", place, "reset", "--quiet", "--hard", "FETCH_HEAD")


def _git(*words):
    command = ["git", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"'{' '.join(command)}' failed: {done.stderr.strip()}")


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    copied = shutil.copytree if os.path.isdir(source) else shutil.copyfile
    copied(source, target)


def run(command, place, environment, printed, seconds):
    """The exit code of a command line in a folder, its output in the file ``printed``; with
    whatever it has started it ends after so many seconds."""
    printed.parent.mkdir(parents=True, exist_ok=True)
    with printed.open("wb") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=place, env=environment, start_new_session=True, **streams
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"more than {seconds} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
