"""One self-contained page on which texts write themselves side by side (``generate --page``)."""

import importlib.resources
import json

DATA = "/*DATA*/"


def html(columns: list[dict]) -> str:
    """The page.

    A column is {"title", "frames": a list of tokens for each evaluation of the network and one at
    last, "pieces": {token: its text}}. All play on one clock, which counts evaluations.
    """
    template = importlib.resources.files(__package__).joinpath("page.html").read_text()
    data = json.dumps(columns, ensure_ascii=False).replace("</", "<\\/")
    return template.replace(DATA, data, 1)
