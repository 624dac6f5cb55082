"""The patches' form, and apply.py on checkouts made up here."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "patches"
FILES = sorted(ROOT.glob("*/*.patch"))
HUNK = re.compile(r"@@ -(\d+),0 \+(\d+)(?:,(\d+))? @@")

spec = importlib.util.spec_from_file_location("apply_patches", ROOT / "apply.py")
apply = importlib.util.module_from_spec(spec)
spec.loader.exec_module(apply)


def hunks(patch):
    """{file: [line of the clean file after which a hunk inserts]}"""
    found, file = {}, None
    for line in patch.read_text().splitlines():
        if line.startswith("--- a/"):
            file = line[6:]
        elif match := HUNK.fullmatch(line):
            found.setdefault(file, []).append(int(match[1]))
    return found


@pytest.mark.parametrize("patch", FILES, ids=lambda patch: f"{patch.parent.name}-{patch.stem}")
def test_only_inserts_and_quotes_nothing(patch):
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+(\.(ch-1|main))?\.patch", patch.name)
    content = patch.read_bytes()
    assert b"\r" not in content and b"\t" not in content and content.endswith(b"\n")
    left, shift = 0, 0
    for line in content.decode("ascii").splitlines():
        if left:
            assert line.startswith("+") and line == line.rstrip() and len(line) <= 81
            assert (len(line[1:]) - len(line[1:].lstrip())) % 2 == 0
            left -= 1
        elif line.startswith("@@"):
            match = HUNK.fullmatch(line)
            assert match, line
            left = int(match[3] or 1)
            assert int(match[2]) == int(match[1]) + shift + 1
            shift += left
        else:
            shift = 0
            names = r"diff --git a/(\S+) b/\1|--- a/\S+|\+\+\+ b/\S+"
            assert re.fullmatch(rf"{names}|index [0-9a-f]{{40}}\.\.[0-9a-f]{{40}} 100644", line)
    assert left == 0
    assert hunks(patch).keys() == apply.versions(patch).keys() != set()


def of(folder, branch=None):
    """The patches in a folder; those for one branch if one is named."""
    files = [patch for patch in FILES if patch.parent.name == folder]
    return [p for p in files if branch is None or p.stem.partition(".")[2] in ("", branch)]


@pytest.mark.parametrize(
    ("folder", "branch", "file"),
    [("duo", "ch-1", "main.py"), ("duo", "main", "main.py"), ("sedd", "", "model/transformer.py")],
)
def test_each_patch_lies_above_the_lower_numbers(folder, branch, file):
    """So git puts every subset in place, though the line numbers are those of the clean file."""
    first = {}
    for patch in of(folder, branch):
        for name, lines in hunks(patch).items():
            assert max(lines) < first.get(name, 10**9), patch.name
            first[name] = min(lines)
    assert file in first


@pytest.mark.parametrize("folder", apply.PROGRAMS)
def test_one_name_a_number_and_one_version_a_branch(folder):
    files = of(folder)
    names = {patch.name[:4]: patch.stem.partition(".")[0] for patch in files}
    assert len(set(names.values())) == len({p.stem.partition(".")[0] for p in files}) == len(names)
    for patch in files:
        other = patch.with_name(patch.name.replace(".ch-1.", ".main."))
        if other != patch and other.exists():
            assert apply.versions(patch) != apply.versions(other)


@pytest.mark.parametrize("folder", apply.PROGRAMS)
def test_the_readme_describes_every_patch(folder):
    """In the table and in a section with the text of the pull request, below its program."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {apply.PROGRAMS[folder]}\n")[2]
    section = section.partition("\n## ")[0]
    for name in {patch.stem.partition(".")[0] for patch in of(folder)}:
        assert f"| {name} |" in section
        assert re.search(rf"\n### {name}\n[^#]*\n> \*\*", section)


def git(folder, *arguments):
    settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def numbered(count):
    return "".join(f"line {i}\n" for i in range(1, count + 1))


def inserted(text, *places):
    lines = text.splitlines(keepends=True)
    for after, new in sorted(places, reverse=True):
        lines.insert(after, new)
    return "".join(lines)


LATE, EARLY, ONLY, SAME = "late\n", "early 1\n", "only: main\n", "same\n"
# b.txt is the same on both branches of Duo, but the patch of it is for one
TEXTS = {
    "ch-1": {"a.txt": numbered(9), "b.txt": numbered(5), "c.txt": numbered(2)},
    "main": {"a.txt": "new\n" + numbered(9), "b.txt": numbered(5), "c.txt": numbered(2)},
    "sedd": {"a.txt": numbered(9), "d.txt": numbered(4)},
}
PLACES = {
    "duo/0001-late.ch-1": ("a.txt", (7, LATE), (5, LATE)),
    "duo/0001-late.main": ("a.txt", (8, LATE), (6, LATE)),
    "duo/0002-early.ch-1": ("a.txt", (1, EARLY)),
    "duo/0002-early.main": ("a.txt", (2, EARLY)),
    "duo/0003-only.main": ("b.txt", (3, ONLY)),
    "duo/0004-same": ("c.txt", (1, SAME)),
    "sedd/0001-late": ("d.txt", (3, LATE)),
    "sedd/0002-early": ("d.txt", (2, EARLY), (1, EARLY)),
    "sedd/0003-other": ("a.txt", (8, ONLY)),
    "sedd/0004-same": ("a.txt", (7, SAME)),
}


def places(branch):
    """{name of a patch: what it inserts} for one branch."""
    folder, suffix = ("sedd", "") if branch == "sedd" else ("duo", branch)
    return {
        name.partition("/")[2]: inserts
        for name, inserts in PLACES.items()
        if name.startswith(folder) and name.partition(".")[2] in ("", suffix)
    }


def patched(branch, *numbers):
    """The texts of a branch with these patches."""
    added = {}
    for name, (file, *inserts) in places(branch).items():
        if name[:4] in numbers:
            added.setdefault(file, []).extend(inserts)
    return {file: inserted(text, *added.get(file, ())) for file, text in TEXTS[branch].items()}


def texts(folder):
    return {file.name: file.read_text() for file in sorted(folder.glob("*.txt"))}


@pytest.fixture
def checkouts(tmp_path, monkeypatch):
    """{branch: folder}; the patches of ``PLACES`` are those that apply.py finds."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setattr(apply, "PATCHES", tmp_path / "patches")
    found = {branch: tmp_path / branch for branch in TEXTS}
    for branch, folder in found.items():
        folder.mkdir()
        for file, text in TEXTS[branch].items():
            (folder / file).write_text(text)
        git(folder, "init", "-q")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", "clean")
        patches = apply.PATCHES / ("sedd" if branch == "sedd" else "duo")
        patches.mkdir(parents=True, exist_ok=True)
        for name, (file, *inserts) in places(branch).items():
            path = folder / file
            path.write_text(inserted(TEXTS[branch][file], *inserts))
            diff = git(folder, "diff", "-U0", "--full-index")
            (patches / f"{name}.patch").write_text(re.sub(r"(?m)^(@@ .* @@).*", r"\1", diff))
            path.write_text(TEXTS[branch][file])
    return found


ALL = ("0001", "0002", "0003", "0004")
SUBSETS = [("0001",), ("0002",), ("0004",), ("0002", "0001"), ("0001", "0002", "0004"), ALL]


@pytest.mark.parametrize("numbers", SUBSETS, ids="+".join)
@pytest.mark.parametrize("branch", TEXTS)
def test_the_version_of_the_branch_goes_in_and_out(checkouts, branch, numbers):
    apply.run(checkouts[branch], numbers, reverse=False)
    assert texts(checkouts[branch]) == patched(branch, *numbers)
    apply.run(checkouts[branch], [], reverse=True)
    assert texts(checkouts[branch]) == TEXTS[branch]
    assert git(checkouts[branch], "status", "--porcelain") == ""


def test_one_line_for_each_patch(checkouts, capsys):
    apply.run(checkouts["ch-1"], [], reverse=False)
    lines = ["0001-late: applied", "0002-early: applied", "0003-only: nothing to do here"]
    assert capsys.readouterr().out.splitlines() == [*lines, "0004-same: applied"]
    apply.run(checkouts["ch-1"], ["0003"], reverse=False)
    apply.run(checkouts["ch-1"], ["0002-early"], reverse=True)
    assert texts(checkouts["ch-1"]) == patched("ch-1", "0001", "0004")
    apply.run(checkouts["ch-1"], [], reverse=True)
    assert texts(checkouts["ch-1"]) == TEXTS["ch-1"]


def test_refusals_change_nothing(checkouts, tmp_path):
    folder = checkouts["main"]

    def refused(sentence, only=(), reverse=False, at=folder):
        before = texts(at)
        with pytest.raises(apply.Refused, match=sentence):
            apply.run(at, only, reverse)
        assert texts(at) == before

    refused("no patch 0009 for Duo", ["0001", "0009"])
    refused("does not have 0001-late", reverse=True)
    (tmp_path / "empty").mkdir()
    refused("not the top folder of a git checkout", at=tmp_path / "empty")
    refused("not the top folder of a git checkout", at=tmp_path / "missing")
    (folder / "sub").mkdir()
    refused("not the top folder of a git checkout", at=folder / "sub")
    git(tmp_path / "empty", "init", "-q")
    refused("empty is no checkout of Duo or SEDD", at=tmp_path / "empty")

    apply.run(folder, ["0001", "0004"], reverse=False)
    refused("already has 0001-late", ["0001"])
    refused("already has 0001-late")
    refused("0002-early has no sure place, as a.txt .* has changes", ["0002"])
    refused("does not have 0003-only", ["0001", "0003"], reverse=True)
    apply.run(folder, [], reverse=True)

    (folder / "b.txt").write_text("other\n" + TEXTS["main"]["b.txt"])
    refused("0003-only has no sure place, as b.txt .* has changes")
    git(folder, "commit", "-qam", "another version of b.txt")
    refused("0003-only is not made for the version")
    apply.run(folder, ["0001", "0002", "0004"], reverse=False)
    git(folder, "commit", "-qam", "patched")
    refused("0001-late is not made for the version")
    refused("0004-same is not made for the version", ["0004"])


def test_the_command_says_one_sentence(tmp_path):
    command = [sys.executable, str(ROOT / "apply.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"apply.py: {tmp_path} is not the top folder of a git checkout\n"


def test_another_version_of_sedd_is_refused(checkouts):
    folder = checkouts["sedd"]
    (folder / "d.txt").write_text("other\n")
    git(folder, "commit", "-qam", "another version of d.txt")
    with pytest.raises(apply.Refused, match="0001-late is not made for the version of SEDD in"):
        apply.run(folder, [], reverse=False)
    apply.run(folder, ["0003"], reverse=False)
    assert texts(folder) == {"a.txt": patched("sedd", "0003")["a.txt"], "d.txt": "other\n"}
