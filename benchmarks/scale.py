"""The arithmetic of docs/scale.md: python -m benchmarks.scale

Counts alone; nothing is run. A pair's cost in F comes from the rows at which each network's body
and head run, forward 1 and backward 2 (1 where only the input's gradient is formed).
"""

import dataclasses

GB = 1e9
BATCH, LENGTH, VOCAB = 512, 1024, 50258
PER_DEVICE = 8  # sequences at once on a GPU, the published setting

# Of a GPU: dense bf16 FLOP/s that training reaches (40 % of 989e12), bytes/s of an all-reduce for
# each GPU inside a machine of 8 and between machines (400 Gbit/s each), bytes of memory.
RATE, NVLINK, NETWORK, MEMORY = 0.4 * 989e12, 300e9, 50e9, 80e9

# (bodies, heads) of a pair
PASSES = {
    "MDLM, SEDD": (4 + 5, (1 / 4 + 1 / 4 + 3 / 2) + (1 / 4 + 3 / 4 + 2 / 4)),
    "uniform, categorical": (4 + 5, (1 / 2 + 1 + 3) + (1 / 2 + 3 + 2)),
    "uniform, Gaussian": (4 + 7, (1 + 3) + (3 + 4)),
}

# bytes of a parameter in float32: weights, EMA, AdamW's two moments
STUDENT, FAKE, TEACHER, GRADIENT, MESSAGE = 4 + 4 + 8, 4 + 8, 4, 4, 4


@dataclasses.dataclass(frozen=True)
class Model:
    width: int
    blocks: int
    conditioning: int = 128

    @property
    def head(self):
        return VOCAB * self.width

    @property
    def parameters(self):
        block = 12 * self.width**2 + 6 * self.width * self.conditioning
        return 2 * self.head + self.blocks * block

    @property
    def body_flops(self):
        """A token's, forward, with attention over LENGTH."""
        return self.blocks * (24 * self.width**2 + 4 * LENGTH * self.width)

    @property
    def head_flops(self):
        return 2 * self.head

    def pair_in_F(self, process):
        bodies, heads = PASSES[process]
        F = self.body_flops + self.head_flops
        return (bodies * self.body_flops + heads * self.head_flops) / F

    def pair_seconds(self, process, gpus):
        """(computing, all-reducing the two updates' gradients in float32)."""
        F = self.body_flops + self.head_flops
        compute = self.pair_in_F(process) * F * BATCH * LENGTH / (RATE * gpus)
        bandwidth = NVLINK if gpus <= 8 else NETWORK
        message = 2 * 2 * GRADIENT * self.parameters / bandwidth * (gpus - 1) / gpus
        return compute, message

    @property
    def activations(self):
        """Bytes kept for a backward pass: 34 a token, block and unit of width (bf16, flash)."""
        return 34 * self.width * self.blocks * PER_DEVICE * LENGTH

    def state(self, gpus, sharded):
        """Bytes on each GPU; sharded: teacher, fake and its moments lie on all of them."""
        share = gpus if sharded else 1
        message = MESSAGE if gpus > 1 else 0  # the flat copy that is sent
        own = STUDENT + GRADIENT + message
        return self.parameters * (own + (FAKE + TEACHER) / share)


MODELS = {"169M": Model(768, 12), "863M": Model(1536, 24), "8B": Model(4096, 38)}


def tables():
    lines = [
        "| model | process | pair / F | 1 GPU | 8 GPUs | 64 GPUs |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in MODELS.items():
        for process in PASSES:
            cells = [name, process, f"{model.pair_in_F(process):.1f}"]
            for gpus in (1, 8, 64):
                compute, message = model.pair_seconds(process, gpus)
                cells.append(f"{compute:.2f} + {message:.2f} s")
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| model | parameters | GPUs | DDP | teacher and fake sharded | activations |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in MODELS.items():
        for gpus in (1, 8, 64):
            sizes = [model.state(gpus, sharded) for sharded in (False, True)]
            cells = [name, f"{model.parameters / 1e6:.0f}M", str(gpus)]
            cells += [f"{size / GB:.1f} GB" for size in [*sizes, model.activations]]
            lines.append(f"| {' | '.join(cells)} |")
    logits = 4 * PER_DEVICE * LENGTH * VOCAB
    lines += ["", f"One tensor of (B, L, V) in float32, B = {PER_DEVICE}: {logits / GB:.2f} GB."]
    most = (MEMORY - 10e9) / (STUDENT + FAKE + TEACHER + GRADIENT + MESSAGE)
    lines += [
        f"DDP's state alone fills {MEMORY / GB:.0f} GB less 10 at {most / 1e9:.1f}B parameters."
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
