"""What Duo lacks for data of pairs: it reads whole texts, and noises every token of them."""

import functools
import inspect

import torch
from torch import Tensor

from duo_ext.data.pairs import Form, Pairs, Source
from duo_ext.hosting.kept_tokens import TOKENIZER
from duo_ext.hosting.remedies import AnyTree, Remedy


class PairsAsData(Remedy):
    """Lets ``get_dataloaders`` read files of pairs where the configuration has data.pairs."""

    name = "data of pairs"
    cause = "dataloader.py reads whole texts, and knows no prompt"
    module = "dataloader"

    def needed(self, host: AnyTree) -> bool:
        return "def get_dataset" in (host.root / "dataloader.py").read_text()

    def apply(self, host: AnyTree) -> None:
        dataloader = host.module("dataloader")
        get_dataloaders = dataloader.get_dataloaders

        @functools.wraps(get_dataloaders)
        def with_pairs(config, *args, **kwargs):
            form = Form.configured(config.data)
            if form is None:
                return get_dataloaders(config, *args, **kwargs)
            get_dataset = dataloader.get_dataset
            dataloader.get_dataset = functools.partial(_pairs, form, inspect.signature(get_dataset))
            try:
                return get_dataloaders(config, *args, **kwargs)
            finally:
                dataloader.get_dataset = get_dataset

        dataloader.get_dataloaders = with_pairs


def _pairs(form, signature, path, *args, **kwargs):
    """The data set of a file, for a call of the host's get_dataset."""
    told = signature.bind(path, *args, **kwargs).arguments
    tokenizer = told["tokenizer"]
    return Pairs(
        Source(path, form),
        tokenizer,
        told["block_size"],
        told["cache_dir"],
        TOKENIZER,
        before=(tokenizer.bos_token_id,),
    )


class GivenTokensStayClean(Remedy):
    """Shows the networks given tokens as they are, in the losses of data of pairs.

    A loss counts no token that is given, so that the network's input alone has to be changed.
    """

    name = "given tokens stay clean"
    cause = "trainer_base.py noises every token of a text, a prompt's too"
    module = "trainer_base"

    def needed(self, host: AnyTree) -> bool:
        return (host.root / "trainer_base.py").is_file()

    def apply(self, host: AnyTree) -> None:
        trainer_base, algo = host.module("trainer_base").TrainerBase, host.module("algo")
        trainer_base._loss = _remembering(trainer_base._loss)
        trainer_base.forward = _cleaned(trainer_base.forward)
        for kind in vars(algo).values():
            if "_teacher_logits" in vars(kind) if isinstance(kind, type) else False:
                kind._teacher_logits = _cleaned(kind._teacher_logits)


def _remembering(loss):
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def remembering(self, *args, **kwargs):
        if self.config.data.get("pairs") is None:
            return loss(self, *args, **kwargs)
        told = signature.bind(self, *args, **kwargs).arguments
        self.kept = told["x0"], ~told["valid_tokens"].bool()
        try:
            return loss(self, *args, **kwargs)
        finally:
            self.kept = None

    return remembering


def _cleaned(forward):
    @functools.wraps(forward)
    def cleaned(self, xt, *args, **kwargs):
        kept = getattr(self, "kept", None)
        return forward(self, xt if kept is None else clean(xt, *kept), *args, **kwargs)

    return cleaned


def clean(xt: Tensor, x0_BL: Tensor, given_BL: Tensor) -> Tensor:
    """A network's input with the tokens of x0 where they are given.

    The input is tokens (B, L), Duo's candidates (B, L, k), or its logits of soft tokens (B, L, V).
    """
    if xt.ndim == 2:
        return torch.where(given_BL, x0_BL, xt)
    if not xt.is_floating_point():
        return torch.where(given_BL[..., None], x0_BL[..., None], xt)
    sure = torch.full_like(xt, -torch.inf).scatter(-1, x0_BL[..., None], 0.0)
    return torch.where(given_BL[..., None], sure, xt)
