"""README and docs say what is true: commands parse, settings exist, links lead somewhere."""

import argparse
import ast
import importlib
import importlib.machinery
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args
from omegaconf import OmegaConf

from benchmarks.follow_docs import blocks
from benchmarks.follow_docs.blocks import PAGES, README, ROOT
from duo_ext import host, settings
from duo_ext.commands import line
from duo_ext.data import corpus
from duo_ext.hosting import trees
from sedd_ext import host as sedd_host
from sedd_ext import settings as sedd_settings
from sedd_ext.__main__ import hydra_arguments

STANDALONE = {"duo": host.STANDALONE, "sedd": sedd_host.STANDALONE}
# Programs of others, whose options are not ours to check.
OTHERS = ("pip", "sbatch", "import-linter", "lint-imports")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def of_language(*languages):
    """A parameter for each block of these languages, named by its page."""
    found = [(p, text) for p in PAGES for name, text in blocks.blocks(p) if name in languages]
    return [pytest.param(text, id=f"{p.name}-{n}") for n, (p, text) in enumerate(found)]


def commands():
    """A parameter for each command of a shell block: its words, without leading NAME=value."""
    found = []
    for page in PAGES:
        for name, text in blocks.blocks(page):
            for command in blocks.commands(text) if name == "bash" else ():
                words = shlex.split(command)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    found.append(pytest.param(words, id=f"{page.name}: {command[:60]}"))
    return found


# commands -----------------------------------------------------------------------------------------


class Parsed(BaseException):
    """Ends a program once it has parsed its options."""


@pytest.fixture
def parses(monkeypatch):
    """``parses(run, words)``: the program that ``run()`` starts takes these words."""
    known = argparse.ArgumentParser.parse_known_args

    def parse_known_args(parser, *given):
        raise Parsed(known(parser, *given))

    def parse_args(parser, *given):
        options, others = known(parser, *given)
        assert not others
        raise Parsed(options)

    def check(run, words):
        with monkeypatch.context() as patched, pytest.raises(Parsed):
            patched.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
            patched.setattr(argparse.ArgumentParser, "parse_args", parse_args)
            patched.setattr(sys, "argv", ["program", *words])
            run()

    return check


@pytest.fixture
def composes(standalone, tmp_path, monkeypatch):
    """``composes(program, words)``: Duo's or SEDD's command line, in the standalone tree."""
    monkeypatch.setattr(corpus, "text_dir", lambda name: tmp_path / name)
    monkeypatch.setattr(corpus.arithmetic, "kept", lambda root: f"{tmp_path}/arithmetic")
    monkeypatch.setattr(corpus, "_integral", lambda vocab_size: "table.pkl")
    monkeypatch.setenv("PWD", "/work")
    corpus.register_resolvers()

    def check(program, words):
        own, rest = line.own_arguments([os.path.expandvars(word) for word in words])
        if own.check:
            assert not rest
            return
        if program == "sedd":
            rest = hydra_arguments(rest)
        overrides = get_args(rest).overrides
        if program == "duo" and "+experiment=owt_" in " ".join(overrides):
            overrides.append("data=sotu")  # the standalone tree has no OpenWebText
        tree = standalone if program == "duo" else sedd_host.find(sedd_host.STANDALONE)
        config = tree.compose(overrides)
        assert not OmegaConf.missing_keys(config)
        OmegaConf.to_container(config, resolve=True)
        if "gpu" not in " ".join(overrides):
            (settings if program == "duo" else sedd_settings).check(config)
        if "idlm" in config.algo.name:
            settings.check_idlm(config.algo, config.model.length)

    yield check
    monkeypatch.undo()
    corpus.register_resolvers()


HYDRAS = {"duo_ext": "duo", "sedd_ext": "sedd"}


def check_make(words):
    targets = re.findall(r"^([\w -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    given = [word for word in words if "=" not in word]
    assert set(given) <= set(" ".join(targets).split())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # runpy's, of what others import
@pytest.mark.parametrize("words", commands())
def test_a_command_is_one_that_its_program_takes(words, parses, composes, monkeypatch):
    program, *words = words
    monkeypatch.chdir(ROOT)
    if program == "make":
        return check_make(words)
    if program == "torchrun":
        assert words[0] == "--nproc-per-node" and words[1].isdigit()
        program, words = "python", words[2:]
    if program in OTHERS:
        return None
    assert program == "python"
    if words[0] != "-m":
        if words[0] == "main.py":  # Duo's
            return composes("duo", words[1:])
        return parses(lambda: runpy.run_path(words[0], run_name="__main__"), words[1:])
    _, module, *words = words
    if module == "pytest":
        assert all((ROOT / word).exists() for word in words)
    elif module == "duo_ext.compat":
        assert words[0] == "main.py"
        composes("duo", words[1:])
    elif module in HYDRAS:
        composes(HYDRAS[module], words)
    elif not words and "argparse" not in (ROOT / f"{module.replace('.', '/')}.py").read_text():
        assert module.startswith("benchmarks.")  # takes no options
    else:
        parses(lambda: runpy.run_module(module, run_name="__main__", alter_sys=False), words)


def test_the_commands_are_found():
    found = {" ".join(parameter.values[0][:3]) for parameter in commands()}
    assert {"make demo", "python -m duo_ext", "python -m sedd_ext.evaluate"} <= found
    assert "python -m benchmarks.gpu_check" in found  # of an indented block
    assert "python main.py algo=idlm" not in found


# Python -------------------------------------------------------------------------------------------


def defined(module):
    """The names at the top of a module, found without importing it: our own, and of either tree."""
    places = [*map(str, STANDALONE.values()), str(ROOT / "docs" / "extending"), *sys.path]
    spec = None
    for part in module.split("."):
        spec = importlib.machinery.PathFinder.find_spec(
            part if spec is None else f"{spec.name}.{part}", places
        )
        assert spec, f"there is no module {module}"
        places = spec.submodule_search_locations
    if not str(spec.origin).endswith(".py"):
        return vars(importlib.import_module(module)).keys()
    names = set()
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("text", of_language("python"))
def test_python_compiles_and_its_imports_resolve(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                defined(alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found = alias.name in defined(node.module)
                if not found and node.module.partition(".")[0] in HYDRAS:  # lazily, or a module
                    found = hasattr(importlib.import_module(node.module), alias.name)
                    found = found or bool(defined(f"{node.module}.{alias.name}"))
                assert found, f"{node.module} has no {alias.name}"


def test_every_block_has_a_language_that_is_checked():
    for page in PAGES:
        for name, _ in blocks.blocks(page):
            assert name in ("bash", "python", "text", "mermaid"), page


# links --------------------------------------------------------------------------------------------


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = blocks.FENCE.sub("", page.read_text())
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


LINKS = [(page, link) for page in PAGES for link in LINK.findall(blocks.prose(page))]
RELATIVE = sorted({(page, link) for page, link in LINKS if "://" not in link})


@pytest.mark.parametrize(("page", "link"), RELATIVE, ids=[f"{p.name}-{x}" for p, x in RELATIVE])
def test_a_link_leads_somewhere(page, link):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    assert not anchor or anchor in anchors(target)


def test_every_page_is_reached_from_readme():
    linked = {link.partition("#")[0] for page, link in LINKS if page.parent.name != "results"}
    names = {Path(link).name for link in linked}
    assert {page.name for page in PAGES} - names == set()


# settings -----------------------------------------------------------------------------------------


def keys(config, prefix=""):
    """Every dotted key of a nested dictionary, of sections too."""
    found = set()
    for key, value in config.items():
        below = keys(value, f"{prefix}{key}.") if isinstance(value, dict) else set()
        found |= {f"{prefix}{key}"} | below
    return found


def declared():
    """The keys algo.* that our own files of algorithms set, on both sides."""
    duo = trees.overlays("duo")
    files = [duo / "idlm/common.yaml", *duo.glob("algo/idlm*.yaml")]
    files += [trees.overlays("sedd") / "algo/idlm.yaml"]
    found = set()
    for file in files:
        algo = OmegaConf.to_container(OmegaConf.load(file)).get("algo", {})
        found |= keys(algo, "algo.")
    return found


SECTIONS = "algo|trainer|loader|optim|training|sampling|eval|data|model|lr_scheduler|graph"
SETTING = re.compile(rf"\+*((?:{SECTIONS})(?:\.\w+)+)(?:=.*)?")
FILES = (".json", ".safetensors")
OF_OTHERS = {"trainer.deterministic"}  # Lightning's, given with a +
# of checkouts of Duo
OF_OTHERS |= {"sampling.semi_ar", "sampling.guid_weight", "algo.integral_cache_path"}


def named(page):
    """The settings that a page's sentences name, such as algo.guard.every."""
    spans = (SETTING.fullmatch(span) for span in CODE.findall(blocks.prose(page)))
    return {span[1] for span in spans if span and not span[1].endswith(FILES)}


def test_the_page_of_settings_has_every_key_of_ours():
    leaves = {key for key in declared() if key != "algo.guard"}
    missing = leaves - named(ROOT / "docs" / "settings.md")
    assert "algo.guard.unigram_kl" in leaves and not missing


@pytest.fixture(scope="module")
def known(standalone):
    """Every setting of the standalone trees, with our algorithms and the one of Duo-DCD."""
    found = set(OF_OTHERS)
    for choice in ("algo=idlm", "algo=distillation"):
        config = standalone.compose(["data=text", "model=sotu", choice])
        found |= keys(OmegaConf.to_container(config))
    pairs = standalone.compose(["data=pairs", "model=sotu", "algo=mdlm"])
    found |= keys(OmegaConf.to_container(pairs))
    sedd = sedd_host.find(sedd_host.STANDALONE).compose(["+algo=idlm", "data=sotu"])
    return found | keys(OmegaConf.to_container(sedd))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_setting_that_is_named_exists(page, known):
    assert named(page) - known == set()


# README -------------------------------------------------------------------------------------------


def test_readme_is_short():
    text = README.read_text()
    assert len(text.split()) <= 900
    long = [x for x in re.sub(r"\]\([^)]*\)", "]()", text).splitlines() if len(x) > 110]
    assert long == []


def test_readme_shows_lines_that_make_demo_has_printed():
    """Of a few columns."""
    table = (ROOT / "results/demo/duo/table.md").read_text().splitlines()
    head, _, *printed = [cells(row) for row in table if row.startswith("|")]
    [text] = [text for name, text in blocks.blocks(README) if name == "text"]
    columns, *shown = map(cells, text.splitlines())
    places = [head.index(column) for column in columns]
    assert len(shown) > 2
    assert all(row in [[other[i] for i in places] for other in printed] for row in shown)


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


# the method ---------------------------------------------------------------------------------------


def test_the_method_names_what_the_core_has():
    """Functions, classes and their methods in docs/method.md's table of equations."""
    names = set()
    for file in (ROOT / "duo_ext" / "core").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names.add(getattr(node, "name", None))
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{getattr(part, 'name', None)}" for part in node.body}
                names |= {getattr(part, "name", None) for part in node.body}
    text = (ROOT / "docs" / "method.md").read_text()
    rows = re.findall(r"^\| [^|]*\([\d]+\)[^|]*\|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    told = {name for row in rows for name in CODE.findall(row) if not name.endswith(".py")}
    assert len(told) > 20
    assert told - names == set()
