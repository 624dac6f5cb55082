"""Peak memory of a GPU in every shipped experiment, by arithmetic: python -m benchmarks.memory

    python -m benchmarks.memory [--host PATH]

Nothing is run: the sizes come from the composed configurations of a Duo or SEDD tree (by default
the standalone ones), for one GPU. Exit code 1 if one needs more than it has: 24 GB for what is
called owt_* and sotu_bpe_*, 4 GB for the other sotu_*, which are for a CPU.
"""

import argparse
import sys
from dataclasses import dataclass

from benchmarks.scale import Model
from duo_ext.core import rows
from duo_ext.core.precision import PRECISIONS
from duo_ext.hosting import trees
from duo_ext.measuring import batches
from duo_ext.report import tables

GB = 1e9
LIMITS = {"owt": 24 * GB, "tinygsm": 24 * GB, "sotu_bpe": 24 * GB}
LIMITS |= {"sotu": 4 * GB, "arithmetic": 4 * GB}
VOCABULARIES = {"owt": 50258, "tinygsm": 49154, "sotu_bpe": 2049, "sotu": 33, "arithmetic": 250}
HUB_JUDGE = {"length": 1024, "vocab_size": 50257, "width": 1280}  # gpt2-large
HUB_JUDGE_BYTES = 4 * 774e6
# Bytes a parameter: student, average, moments; fake, moments; teacher; gradients; message of DDP.
DISTILLED, TRAINED, SAMPLED = 16 + 12 + 4 + 4 + 4 + 4, 16 + 4 + 4, 4 + 4
ACTIVATIONS = {True: 88, False: 170}  # a token, block and unit of width, in bf16 or not
FROZEN = {True: 50, False: 80}  # the same where the gradient of the input alone is formed
DENSE = 6  # whole (B, L, V) in float32 of a host's own loss; Gaussian noising keeps 4


@dataclass(frozen=True)
class Experiment:
    """What decides its memory. ``micro_batch``: sequences of a forward pass; ``bf16``: its own
    network's blocks; ``compared_bf16``: teacher's and fake's in the student's update; ``drawn``:
    texts at a time in the host's own sampler, 0 for none; ``judged``: None for as many as fit."""

    name: str
    model: Model
    length: int
    micro_batch: int = 0
    bf16: bool = True
    compared_bf16: bool = False
    distils: bool = False
    gaussian: bool = False
    looks: bool = False
    drawn: int = 0
    evaluated: int = 0
    judged: int | None = None

    @property
    def kind(self):
        return next(kind for kind in LIMITS if self.name.startswith(kind))

    @property
    def vocab_size(self):
        return VOCABULARIES[self.kind]

    @property
    def parameters(self):
        body = self.model.parameters - 2 * self.model.head
        return body + 2 * self.vocab_size * self.model.width

    def dense(self, batch):
        """One (B, L, V) in float32."""
        return 4 * batch * self.length * self.vocab_size

    def last_layer(self, batch):
        """(logits of a chunk, of a piece) of ``core.rows``."""
        whole = batch * self.length * self.vocab_size
        return min(whole, rows.CHUNK["cuda"]), min(whole, rows.PIECE["cuda"])

    @property
    def phases(self):
        """{what a GPU does: bytes}, beside each other only in time."""
        found = {}
        held = SAMPLED if not self.micro_batch else DISTILLED if self.distils else TRAINED
        state = held * self.parameters
        if self.micro_batch:
            found["training"] = state + self.training
        if self.looks:
            size = batches.of_a_look(self.length, self.model.width)
            found["look"] = state + 4 * self.parameters + self.core_sampler(size)
        if self.looks or not self.micro_batch:
            found["judge"] = state + self.judge
        if self.evaluated:
            found["evaluation"] = state + DENSE * self.dense(self.evaluated)
        if self.drawn:
            found["samples"] = state + self.hosts_sampler(self.drawn)
        return found

    @property
    def training(self):
        chunk, piece = self.last_layer(self.micro_batch)
        kept = ACTIVATIONS[self.bf16]
        if self.gaussian:  # the student's gradient passes through teacher and fake
            kept += 2 * FROZEN[self.compared_bf16]
        found = kept * self.model.blocks * self.model.width * self.micro_batch * self.length
        if not self.distils:
            return found + DENSE * self.dense(self.micro_batch)
        found += 3 * 4 * chunk + 10 * 4 * piece
        return found + 4 * self.dense(self.micro_batch) * self.gaussian

    def core_sampler(self, size):
        """The body, and of the last layer's rows logits, twice in float64, and about six of a
        piece."""
        chunk, piece = self.last_layer(size)
        body = size * batches.of_body(self.length, self.model.width)
        return body + (4 + 4 + 8 + 8) * chunk + 6 * 8 * piece

    def hosts_sampler(self, size):
        return size * batches.of_hosts_sampler(self.length, self.vocab_size)

    @property
    def judge(self):
        if self.kind != "owt":
            return 1 * GB  # the shipped ones are of 1 and 5 million weights
        text = batches.of_logits(**HUB_JUDGE)
        texts = self.judged or batches.fitted(text)
        return HUB_JUDGE_BYTES + (texts + 2) * text


def model_of(config):
    return Model(config.model.hidden_size, config.model.n_blocks, config.model.cond_dim)


def precision_of(algo, distils, of_training):
    """On a GPU, where the hosts' own networks run in bf16."""
    if not distils:
        return {"bf16": str(of_training).startswith("bf16")}
    own, compared = PRECISIONS[algo.precision]
    return {"bf16": own != "float32", "compared_bf16": compared == "bf16"}


def of_duo(name, config):
    """An experiment of Duo's side, from its configuration."""
    trains, algo = config.mode == "train", config.algo
    distils = trains and "class_path" in algo
    return Experiment(
        name,
        model_of(config),
        config.model.length,
        micro_batch=config.loader.batch_size if trains else 0,
        **precision_of(algo, distils, config.trainer.precision),
        distils=distils,
        gaussian=algo.get("noising") == "gaussian",
        looks=distils and algo.guard.every > 0,
        drawn=0 if trains else config.loader.eval_batch_size,
        judged=config.eval.perplexity_batch_size,
    )


def of_sedd(name, config):
    """An experiment of SEDD's side, from its configuration."""
    training, distils = config.training, config.algo.name == "idlm"
    found = Experiment(name, model_of(config), config.model.length)
    fit = batches.fitted(batches.of_hosts_sampler(found.length, found.vocab_size), batches.BESIDE)
    return Experiment(
        name,
        found.model,
        found.length,
        micro_batch=training.micro_batch or training.batch_size // training.accum,
        **precision_of(config.algo, distils, config.precision),
        distils=distils,
        looks=distils and config.algo.guard.every > 0,
        drawn=min(config.eval.batch_size, fit) if training.snapshot_sampling else 0,
        evaluated=config.eval.batch_size,
        judged=config.eval.perplexity_batch_size,
    )


def of_tree(tree, program):
    """All experiments of a Duo or a SEDD tree. The standalone ones have no OpenWebText; the data
    matter to no size that is read here."""
    from sedd_ext.__main__ import hydra_arguments

    own = (("trainer.devices=1",), of_duo) if program == "duo" else ((), of_sedd)
    arguments = (lambda words: words) if program == "duo" else hydra_arguments
    for path in sorted((trees.overlays(program) / "experiment").glob("*.yaml")):
        if path.stem == "sotu_sdtt" and tree.name != "standalone":
            continue  # Duo's own trees have no algo=sdtt
        words = [f"+experiment={path.stem}", *own[0]]
        if program == "duo" and path.stem.startswith("owt") and tree.name == "standalone":
            words.append("data=sotu")
        yield own[1](path.stem, tree.compose(arguments(words)))


def table(experiments):
    lines = []
    for found in experiments:
        for phase, size in found.phases.items():
            cells = found.name, phase, f"{size / GB:.1f}", f"{LIMITS[found.kind] / GB:.0f}"
            lines.append(cells)
    return tables.markdown(["experiment", "phase", "GB", "of"], lines, words=2)


def too_large(experiments):
    return [e.name for e in experiments if max(e.phases.values()) > LIMITS[e.kind]]


def main(arguments=None):
    from duo_ext import host
    from duo_ext.data import corpus
    from sedd_ext import host as sedd_host

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", help="a Duo or SEDD tree")
    given = parser.parse_args(arguments).host
    found = []
    if given is None or not trees.lacking(host.Path(given), host.FILES):
        tree = host.find(given or host.STANDALONE).activate()
        corpus.register_resolvers()
        found += of_tree(tree, "duo")
    if given is None or not trees.lacking(host.Path(given), sedd_host.FILES):
        corpus.register_resolvers()
        found += of_tree(sedd_host.find(given or sedd_host.STANDALONE), "sedd")
    print(table(found))
    if large := too_large(found):
        sys.exit(f"error: {', '.join(large)}")


if __name__ == "__main__":
    main()
