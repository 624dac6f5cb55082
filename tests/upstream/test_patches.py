"""Every patch on fresh clones of the real checkouts, at the commits that the patches are for."""

import importlib.util
import itertools
import subprocess
from pathlib import Path

import omegaconf
import pytest

ROOT = Path(__file__).parents[2] / "patches"
COMMITS = {
    "duo ch-1": "9604c0bbf4be87d2700f5165df973f4f987e7aca",
    "duo main": "7c9b498f5b717de064d6fad7e2509c866e6cb620",
    "sedd": "0605786da5ccb5747545e26d66fdf477187598b6",
}

spec = importlib.util.spec_from_file_location("apply_patches", ROOT / "apply.py")
apply = importlib.util.module_from_spec(spec)
spec.loader.exec_module(apply)


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=COMMITS)
def clone(request, checkouts, tmp_path_factory):
    """A clean clone of a branch, in a folder "duo ch-1", ...; every test leaves it clean."""
    variable, root = checkouts[request.param]
    if not root:
        pytest.skip(f"{variable} names no checkout of {request.param}")
    folder = tmp_path_factory.mktemp("clones") / request.param
    git(folder.parent, "clone", "-q", root, folder)
    git(folder, "-c", "advice.detachedHead=false", "checkout", "-q", COMMITS[request.param])
    return folder


@pytest.fixture
def chosen(clone):
    """{name: file} of the patches that this branch needs, in the order of the numbers."""
    return {name: patch for name, patch in apply.choose(clone, []).items() if patch}


def inserts(patch):
    """{file: {line of the clean file: [lines that come after it]}}"""
    found, file = {}, None
    for line in patch.read_text().splitlines():
        if line.startswith("--- a/"):
            file = found.setdefault(line[6:], {})
        elif line.startswith("@@ -"):
            added = file.setdefault(int(line[4:].partition(",")[0]), [])
        elif line.startswith("+") and not line.startswith("+++ b/"):
            added.append(line[1:] + "\n")
    return found


def expected(clone, patches):
    """{file: text} of the clean files with every line where its patch says."""
    found = {}
    for patch in patches:
        for file, places in inserts(patch).items():
            found.setdefault(file, {}).update(places)
    for file, places in found.items():
        lines = git(clone, "show", f"HEAD:{file}").splitlines(keepends=True)
        for after in sorted(places, reverse=True):
            lines[after:after] = places[after]
        found[file] = "".join(lines)
    return found


def test_the_branch_gets_its_own_patches(clone, chosen):
    """All of its own and of the common ones, none of the other branch."""
    folder, _, branch = clone.name.partition(" ")
    patches = ROOT.glob(f"{folder}/*.patch")
    own = {p for p in patches if p.stem.partition(".")[2] in ("", branch)}
    assert set(chosen.values()) == own


def test_every_subset_goes_in_and_out(clone, chosen):
    by_file = {}
    for name, patch in chosen.items():
        for file in inserts(patch):
            by_file.setdefault(file, []).append(name)
    subsets = [tuple(chosen)]
    for names in by_file.values():  # patches of different files do not meet
        for size in range(1, len(names) + 1):
            subsets += itertools.combinations(names, size)
    for names in subsets:
        apply.run(clone, names, reverse=False)
        want = expected(clone, [chosen[name] for name in names])
        for file, text in want.items():
            assert (clone / file).read_text() == text, names
            if file.endswith(".py"):
                compile(text, file, "exec")
            else:
                omegaconf.OmegaConf.create(text)
        numbers = [line.split("\t") for line in git(clone, "diff", "--numstat").splitlines()]
        assert {file for _, _, file in numbers} == want.keys()
        assert all(int(added) > 0 and removed == "0" for added, removed, _ in numbers)
        apply.run(clone, [], reverse=True)
        assert git(clone, "status", "--porcelain") == "", names


def test_git_alone_applies_in_order_and_reverts_in_any_order(clone, chosen):
    patches = list(chosen.values())
    for patch in patches:
        git(clone, "apply", "--unidiff-zero", patch)
    want = expected(clone, patches)
    assert {file: (clone / file).read_text() for file in want} == want
    for patch in patches[::2] + patches[1::2]:
        git(clone, "apply", "--unidiff-zero", "-R", patch)
    assert git(clone, "status", "--porcelain") == ""


def test_the_ids_of_the_index_line_are_those_of_git(clone, chosen):
    for patch in chosen.values():
        git(clone, "apply", "--unidiff-zero", patch)
        theirs = git(clone, "diff", "-U0", "--full-index").splitlines()
        git(clone, "apply", "--unidiff-zero", "-R", patch)
        ids = [line for line in theirs if line.startswith("index ")]
        assert [line for line in patch.read_text().splitlines() if line[:6] == "index "] == ids


def test_no_line_is_copied(clone, chosen):
    for patch in chosen.values():
        for file, places in inserts(patch).items():
            lines = git(clone, "show", f"HEAD:{file}").splitlines()
            theirs = {line.strip() for line in lines} - {""}
            ours = {line.strip() for new in places.values() for line in new}
            assert not {line for line in ours if len(line) > 20} & theirs
