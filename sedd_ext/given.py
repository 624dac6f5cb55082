"""SEDD's graph for texts of which a part is given: what its losses must not noise, nor count."""

import torch
from torch import Tensor


class Given:
    """A graph of SEDD's ``graph_lib`` whose transitions keep the tokens at ``given_BL``, with no
    loss there. All else is the graph's own."""

    def __init__(self, graph: object):
        self.graph = graph
        self.given_BL: Tensor | None = None  # of the next batch; None for whole texts

    def __getattr__(self, name: str) -> object:
        return getattr(self.graph, name)

    def sample_transition(self, i: Tensor, sigma: Tensor) -> Tensor:
        """The graph's, but where tokens are given."""
        noised = self.graph.sample_transition(i, sigma)
        return noised if self.given_BL is None else torch.where(self.given_BL, i, noised)

    def score_entropy(self, *arguments: Tensor) -> Tensor:
        """The graph's (B, L), 0 where tokens are given."""
        entropy = self.graph.score_entropy(*arguments)
        return entropy if self.given_BL is None else entropy.masked_fill(self.given_BL, 0)


def of(batch: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """(tokens (B, L), which of them are given (B, L), None for whole texts) of a loader's batch."""
    mask_BL = batch.get("attention_mask")
    return batch["input_ids"].to(device), None if mask_BL is None else (mask_BL == 0).to(device)
