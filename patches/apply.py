"""Apply the patches of duo/ to a Duo checkout, those of sedd/ to a SEDD checkout, or revert them.

python patches/apply.py CHECKOUT [--only 0001 0003] [--reverse]
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

PATCHES = Path(__file__).resolve().parent
PROGRAMS = {"duo": "Duo", "sedd": "SEDD"}  # folder of patches: whose they are
APPLY = ("apply", "--unidiff-zero")


class Refused(Exception):
    """Why nothing was changed, in one sentence."""


def git(checkout, *arguments):
    """What git prints in the checkout, or None where it fails."""
    command = ["git", "-C", str(checkout), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def versions(patch):
    """The files that a patch changes, with the id of the content it was made for."""
    text = patch.read_text()
    files = re.findall(r"^--- a/(.+)$", text, re.M)
    return dict(zip(files, re.findall(r"^index ([0-9a-f]{40})\.\.", text, re.M), strict=True))


def folder_for(checkout):
    """The folder of the patches whose files the checkout has, by the files' names."""
    top = git(checkout, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != Path(checkout).resolve():
        raise Refused(f"{checkout} is not the top folder of a git checkout")
    there = {*(git(checkout, "ls-tree", "-r", "--name-only", "HEAD") or "").splitlines()}
    for folder in PROGRAMS:
        if {
            file for patch in PATCHES.glob(f"{folder}/*.patch") for file in versions(patch)
        } <= there:
            return folder
    raise Refused(f"{checkout} is no checkout of {' or '.join(PROGRAMS.values())}")


def choose(checkout, only):
    """{name: file, or None where this branch does not need it}, in the order of the numbers."""
    folder = folder_for(checkout)
    found, fits = {}, {}
    for patch in sorted(PATCHES.glob(f"{folder}/*.patch")):
        name, _, branch = patch.stem.partition(".")
        found.setdefault(name, {})[branch] = patch
        head = {file: git(checkout, "rev-parse", f"HEAD:{file}") for file in versions(patch)}
        if head == versions(patch):
            fits[name] = branch
    if unknown := {*only} - {n for name in found for n in (name, name[:4])}:
        raise Refused(f"there is no patch {min(unknown)} for {PROGRAMS[folder]}")
    # a patch of one branch may fit the other by chance: only those of both tell them apart
    apart = {name for name, patches in found.items() if len(patches) > 1}
    branches = {fits[name] for name in apart & fits.keys()}
    chosen = {}
    for name in [n for n in found if not only or {n, n[:4]} & {*only}]:
        needed = branches <= found[name].keys() or "" in found[name]
        if (apart and len(branches) != 1) or (needed and name not in fits):
            raise Refused(f"{name} is not made for the version of {PROGRAMS[folder]} in {checkout}")
        chosen[name] = found[name][fits[name]] if needed else None
    return chosen


def run(checkout, only, reverse):
    chosen = choose(checkout, only)
    patches = {name: patch for name, patch in chosen.items() if patch}
    present = [n for n, p in patches.items() if git(checkout, *APPLY, "-R", "--check", p) == ""]
    if reverse:
        absent = [name for name in patches if name not in present]
        if absent and (only or not present):
            raise Refused(f"{checkout} does not have {absent[0]}")
        patches = {name: patches[name] for name in present}
    elif present:
        raise Refused(f"{checkout} already has {present[0]}, revert it first")
    for name, patch in {} if reverse else patches.items():
        for file, version in versions(patch).items():
            if git(checkout, "hash-object", Path(checkout).resolve() / file) != version:
                raise Refused(f"{name} has no sure place, as {file} in {checkout} has changes")
    if patches and git(checkout, *APPLY, *["-R"] * reverse, *patches.values()) is None:
        raise Refused(f"git could not apply the patches to {checkout}")
    for name in chosen:
        state = "reverted" if reverse else "applied"
        print(f"{name}: {state if name in patches else 'nothing to do here'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout")
    parser.add_argument("--only", nargs="+", default=[], metavar="NUMBER")
    parser.add_argument("--reverse", action="store_true")
    options = parser.parse_args()
    try:
        run(options.checkout, options.only, options.reverse)
    except Refused as reason:
        sys.exit(f"apply.py: {reason}")
