"""The imports between the rooms, as a drawing: python -m benchmarks.imports [--write]

A node is a package or module in duo_ext, or all of sedd_ext; an arrow says that one imports the
other. Arrows that follow from two others are left out. --write puts the drawing into
docs/architecture.md, where GitHub shows it.
"""

import sys
from pathlib import Path

import grimp

from duo_ext.files import write_whole

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- imports: python -m benchmarks.imports --write -->\n", "<!-- end of imports -->"
LEFT_OUT = {"standalone", "assets", "configs"}  # trees and files, no rooms


def rooms():
    """{room: the rooms that it imports}."""
    graph = grimp.build_graph("duo_ext", "sedd_ext", cache_dir=None)
    found = {}
    for module in graph.modules - {"duo_ext"}:
        imported = graph.find_modules_directly_imported_by(module)
        found.setdefault(_room(module), set()).update(map(_room, imported - {"duo_ext"}))
    return {room: found[room] - {room} - LEFT_OUT for room in sorted(found.keys() - LEFT_OUT)}


def _room(module):
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "duo_ext" else package


def reduced(imports):
    """The same without an arrow that a longer way replaces."""

    def reach(room):
        return imports[room].union(*map(reach, imports[room]))

    return {
        room: {to for to in own if not any(to in reach(other) for other in own - {to})}
        for room, own in imports.items()
    }


def drawing():
    """A mermaid graph in Markdown."""
    arrows = [f"  {room} --> {to}" for room, own in reduced(rooms()).items() for to in sorted(own)]
    return "\n".join(["```mermaid", "graph TD", *arrows, "```", ""])


def page():
    """docs/architecture.md with the drawing as it is now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{drawing()}\n{END}{rest.partition(END)[2]}"


def main():
    if "--write" in sys.argv[1:]:
        write_whole(str(PAGE), page().encode())
    print(drawing())


if __name__ == "__main__":
    main()
