"""What is to be done: every command and block of the pages, in each tree in which it runs."""

import re
from dataclasses import dataclass, replace

from benchmarks.follow_docs import rules
from benchmarks.follow_docs.blocks import ROOT, blocks, commands

AS_WRITTEN, SMALL, NOT_RUN = "as written", "small", "not run"
NOT_REACHED = "not reached"  # the error of a step that is still to be done


@dataclass(frozen=True)
class Step:
    """A command, or a block of another language, in one tree. ``text`` is as the page has it,
    ``ran`` as it is run; ``tree`` is None where it cannot be."""

    page: str
    block: int
    number: int
    language: str
    text: str
    tree: str | None
    rule: rules.Rule
    reason: str = ""

    @property
    def command(self):
        return "python $BLOCK" if self.language == "python" else self.text

    @property
    def ran(self):
        return self.rule.applied(self.command)

    @property
    def how(self):
        if self.reason:
            return NOT_RUN
        return AS_WRITTEN if self.ran == self.command else SMALL

    @property
    def side(self):
        return "sedd" if rules.OURS_OF_SEDD.search(self.text) else "duo"

    @property
    def identity(self):
        """By which a result is found again."""
        keys = ("page", "text", "tree", "ran")
        return {key: getattr(self, key) for key in keys}

    @property
    def row(self):
        told = {"how": self.how, "changed": self.rule.told, "reason": self.reason}
        place = {"block": self.block, "number": self.number, "language": self.language}
        ended = {"seconds": None, "error": None if self.reason else NOT_REACHED}
        return self.identity | place | told | ended


def texts(page):
    """[(number of the block, language, command or block)] of a page."""
    for block, (language, text) in enumerate(blocks(page), 1):
        for part in commands(text) if language == "bash" else [text.strip()]:
            yield block, language, part


def plan(pages, hosts, whole):
    """All steps, tree by tree and page by page."""
    found = []
    for page in pages:
        for number, (block, language, text) in enumerate(texts(page)):
            step = Step(name_of(page), block, number, language, text, None, rules.AS_WRITTEN)
            found += in_trees(step, hosts, whole)
    order = (*rules.TREES, None)
    return sorted(found, key=lambda step: order.index(step.tree))


def name_of(page):
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def in_trees(step, hosts, whole):
    """A step in each tree in which it runs, or once with the reason why it does not."""
    rule, given = rules.rule_for(step.text), (rules.STANDALONE, *hosts)
    wanted = [tree for tree in rules.trees_of(step.text) if tree in given]
    missing = [tree for tree in rule.needs or rules.trees_of(step.text)[:1] if tree not in given]
    if whole and re.search(whole, f"{step.page}: {step.text}"):
        rule = replace(rule, added="", replaced=(), reason="")
    if rule.reason:
        return [replace(step, rule=rule, reason=rule.reason)]
    if not wanted or (rule.needs and missing):
        return [replace(step, rule=rule, reason=f"--host gave no {', '.join(missing)}")]
    return [replace(step, rule=rule, tree=tree) for tree in wanted]
