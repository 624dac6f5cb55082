"""The blocks of code in README, docs/*.md and results/README.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?:    .*\n|\n(?=    ))+)")


def blocks(page: Path) -> list[tuple[str, str]]:
    """[(language, text)] of a page's blocks in their order; one that is indented is a shell's."""
    text = page.read_text(encoding="utf-8")
    found = [(match.start(), match[1], match[2]) for match in FENCE.finditer(text)]
    rest = FENCE.sub(lambda match: re.sub(r".", "x", match[0]), text)  # each letter in its place
    for match in INDENTED.finditer(rest):
        found.append((match.start(), "bash", re.sub("^    ", "", match[1], flags=re.MULTILINE)))
    return [(language, code) for _, language, code in sorted(found)]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return INDENTED.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))


def commands(text: str) -> list[str]:
    """The commands of a shell block, each on one line and without its comment."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = re.sub(r"(^|[ \t]+)#.*$", "", joined, flags=re.MULTILINE).splitlines()
    return [line.strip() for line in lines if line.strip()]
