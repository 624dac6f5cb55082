"""The student's gradient in each algo.precision beside float32, the fake 0 to 1000 updates away.

Teacher minus fake is a difference of nearly equal networks, so the precision that training the
teacher needed says nothing about this one. Student and fake begin as the teacher's copies, the
student moved by 1 %. benchmarks.gradient_precision has the same on a CPU, TF32 emulated, and more.
"""

import copy
from dataclasses import dataclass

import torch
import transformers

from benchmarks.gpu_check import networks
from benchmarks.gpu_check.autocast import networks_in, products
from duo_ext import host
from duo_ext.core.networks import Denoiser
from duo_ext.core.precision import PRECISIONS
from duo_ext.data import corpus
from duo_ext.weights import checkpoints, pretrained

RATES, MARKS = (1e-6, 1e-4), (0, 1, 10, 100, 1000)
SEEDS = 4  # micro-batches that are averaged


def run(report, setting):
    _, make = networks.tree_of(host.STANDALONE)
    rows = []
    for case in (_shipped(make, setting.dry), _random(make, setting.dry)):
        for rate in case.rates:
            for row in measured(case, rate, setting.device):
                rows.append({"network": case.name, "rate": rate, **row})
                report.note(rows=rows)


@dataclass(frozen=True)
class Case:
    """A network, the texts (N, L) that it sees ``batch`` at a time, the fake's learning rates and
    numbers of updates."""

    name: str
    network: torch.nn.Module
    V: int
    texts_NL: torch.Tensor
    batch: int
    rates: tuple
    marks: tuple

    def draw(self, device):
        x0_BL = self.texts_NL[torch.randint(len(self.texts_NL), (self.batch,))].to(device)
        return x0_BL, torch.zeros_like(x0_BL, dtype=torch.bool)


def _shipped(make, dry):
    saved = pretrained.load(corpus.asset("teachers/mdlm.ckpt"), "teacher")
    sizes = checkpoints.dimensions(saved.weights)
    told, V = saved.config["model"], sizes["vocabulary"]
    config = networks.config_of(V, told["length"], told["hidden_size"], told["n_blocks"])
    config.model.cond_dim, config.model.n_heads = told["cond_dim"], told["n_heads"]
    shipped = make(config, V)
    checkpoints.load(shipped, saved)
    text = (corpus.text_dir("sotu32") / "train.txt").read_text()[:200_000]
    tokenizer = transformers.AutoTokenizer.from_pretrained(corpus.asset("tokenizers/sotu32"))
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    texts_NL = ids[: len(ids) // told["length"] * told["length"]].view(-1, told["length"])
    batch, marks = (2, MARKS[:2]) if dry else (64, MARKS)
    return Case("shipped MDLM, 0.9M", shipped, V, texts_NL, batch, RATES, marks)


def _random(make, dry):
    V, length, width, blocks = (256, 32, 64, 1) if dry else (50258, 1024, 768, 12)
    network = networks.randomise(make(networks.config_of(V, length, width, blocks), V), std=0.02)
    batch, marks = (1, MARKS[:2]) if dry else (4, MARKS[:4])
    texts_NL = torch.randint(V - 1, (64, length))
    return Case("random, 170M", network, V, texts_NL, batch, RATES[:1], marks)


def measured(case, rate, device):
    """A row {updates, norm; cosine and norm of each precision} at each of the marks."""
    process, network = networks.PROCESSES["mdlm"][0](case.V), case.network
    student = Denoiser(networks.moved(network, 0.01, 1).to(device), False)
    teacher = Denoiser(copy.deepcopy(network).to(device).requires_grad_(False), False)
    fake = Denoiser(copy.deepcopy(network).to(device), False)
    optimizer = torch.optim.AdamW(fake.backbone.parameters(), lr=rate, weight_decay=0)
    for updates in range(max(case.marks) + 1):
        if updates in case.marks:
            fake.backbone.requires_grad_(False)
            yield {"updates": updates, **_gradients(process, student, fake, teacher, case.draw)}
            fake.backbone.requires_grad_(True)
        torch.manual_seed(updates)
        with networks_in("tf32", device):  # alike for all that is compared
            student.backbone.requires_grad_(False)
            process.fake_loss(student, fake, *case.draw(device)).backward()
            student.backbone.requires_grad_(True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _gradients(process, student, fake, teacher, draw):
    """Of each algo.precision beside float32 without TF32."""
    device = next(student.backbone.parameters()).device.type

    def gradient(own=None, compared=None):
        precisions = zip((student, fake, teacher), (own, compared, compared), strict=True)
        parts = [Denoiser(part.backbone, False, precision) for part, precision in precisions]
        for seed in range(SEEDS):
            torch.manual_seed(1000 + seed)
            process.student_loss(*parts, *draw(device)).backward()
        return networks.gradient(student.backbone)

    with networks_in("float32", device):
        exact = gradient()
    row = {"norm": exact.norm().item()}
    for name, pair in PRECISIONS.items():
        with products("tf32"):  # as the Distiller has them
            found = gradient(*pair)
        row[f"{name}_cosine"] = networks.cosine(exact, found)
        row[f"{name}_norm"] = found.norm().item()
    return row
