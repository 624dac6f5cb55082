"""Tokens that Duo keeps on disk, with a record of the tokenizer that made them."""

import contextlib
import functools
import inspect
from collections.abc import Iterator

from duo_ext import Refused, files
from duo_ext.data import texts
from duo_ext.hosting.remedies import AnyTree, Remedy

TOKENIZER = "data.tokenizer_name_or_path"


class TokensOfOneTokenizer(Remedy):
    """Lets ``get_dataset`` record, beside the tokens that it keeps, which tokenizer made them, and
    refuse tokens that another tokenizer made."""

    name = "tokens of one tokenizer"
    cause = "dataloader.py keeps tokens by the name of their text, and gives them to any tokenizer"
    module = "dataloader"

    def needed(self, host: AnyTree) -> bool:
        return "save_to_disk" in (host.root / "dataloader.py").read_text()

    def apply(self, host: AnyTree) -> None:
        dataloader = host.module("dataloader")
        get_dataset = dataloader.get_dataset
        signature = inspect.signature(get_dataset)

        @functools.wraps(get_dataset)
        def recorded(*args, **kwargs):
            given = signature.bind(*args, **kwargs).arguments
            tokenizer = given["tokenizer"]
            with kept_tokens(tokenizer, given["wrap"]):
                try:
                    return get_dataset(*args, **kwargs)
                except Refused:
                    raise
                except Exception:  # datasets raises the tokenizer's own, of no class
                    texts.explain(given["dataset_name"], given["mode"], tokenizer, TOKENIZER)
                    raise

        dataloader.get_dataset = recorded


@contextlib.contextmanager
def kept_tokens(tokenizer: texts.Tokenizer, wrap: bool) -> Iterator[None]:
    """Inside a with block, tokens that the package datasets saves get a record of the tokenizer,
    and tokens that it loads are checked against their record.

    ``wrap`` says whether texts were joined and cut into blocks. Raises Refused for tokens of
    another tokenizer, and for a folder that is unfinished or damaged.
    """
    import datasets

    load, save = datasets.load_from_disk, datasets.Dataset.save_to_disk

    def load_checked(path, *args, **kwargs):
        try:
            found = load(path, *args, **kwargs)
        except (FileNotFoundError, ValueError) as error:
            raise Refused(
                f"data.cache_dir: '{path}' is unfinished or damaged; remove it "
                f"({texts.reason(error)})"
            ) from error
        if _are_tokens(found):
            _require_own(found, path, tokenizer, wrap)
        return found

    def save_recorded(self, path, *args, **kwargs):
        if _are_tokens(self):
            files.write_whole(_record(path), texts.fingerprint(tokenizer).encode())
        return save(self, path, *args, **kwargs)

    datasets.load_from_disk, datasets.Dataset.save_to_disk = load_checked, save_recorded
    try:
        yield
    finally:
        datasets.load_from_disk, datasets.Dataset.save_to_disk = load, save


def _are_tokens(dataset):
    return "input_ids" in dataset.column_names


def _record(path):
    return f"{path}.tokenizer"


def _require_own(dataset, path, tokenizer, wrap):
    """Raise Refused if another tokenizer made the tokens.

    Their record says it. Tokens without a record were kept by plain Duo; they are refused if their
    first block cannot be this tokenizer's.
    """
    if files.exists(_record(path)):
        with files.opened(_record(path)) as file:
            own = file.read().decode() == texts.fingerprint(tokenizer)
    else:
        first = dataset[0]["input_ids"]
        bos = tokenizer.encode(tokenizer.bos_token)[0]  # as Duo has it
        own = max(first) < len(tokenizer) and (not wrap or first[0] == bos)
    if not own:
        raise Refused(
            f"data.cache_dir: '{path}' holds the tokens of another tokenizer than {TOKENIZER} "
            f"'{tokenizer.name_or_path}', and Duo tells them apart by the text's name and "
            "model.length alone; remove it, or give the text another folder"
        )
