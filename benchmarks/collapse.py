"""A forced collapse: a student of a small MDLM teacher, V = 24, distilled with learning rate 1e-3.

The teacher is trained here, in about a minute: the shipped text in the 23 symbols newline, space
and a to u, all others a space. The guard must stop the distillation and keep the student of a look
at which its samples were still inside the bounds.
"""

import json
import math
from pathlib import Path

from benchmarks.faults.row import Row
from benchmarks.tiny import Run
from duo_ext.data import corpus
from duo_ext.weights import checkpoints

SYMBOLS = "\n abcdefghijklmnopqrstu"  # and the mask: V = 24
LONGEST, PATIENCE = 200, 6  # pairs; looks outside the bounds in a row


def write_tokenizer(folder):
    """The shipped character tokenizer with fewer symbols."""
    shipped = Path(corpus.asset("tokenizers/sotu32"))
    content = json.loads((shipped / "tokenizer.json").read_text())
    content["model"]["vocab"] = {symbol: number for number, symbol in enumerate(SYMBOLS)}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_bytes((shipped / "tokenizer_config.json").read_bytes())


def settings(tiny):
    folder = tiny.folder
    return [
        *("data=sotu", f"data.tokenizer_name_or_path={folder}/symbols", "model=sotu"),
        *(f"data.cache_dir={folder}/symbols-tokens", "model.hidden_size=64", "model.cond_dim=16"),
        *("model.n_blocks=2", "model.n_heads=2", "model.length=64", "model.dropout=0"),
        *("loader.global_batch_size=32", "trainer.precision=32", "trainer.limit_val_batches=0"),
        *("lr_scheduler.num_warmup_steps=10", "callbacks.checkpoint_monitor.save_top_k=0"),
        *("training.ema=0.9", "eval.gen_ppl_eval_model_name_or_path=${idlm_asset:judge}"),
        "eval.perplexity_batch_size=64",
    ]


def run(tiny, name, *extra):
    """A finished run of Duo's command line with these settings."""
    done = Run(tiny, name, [*settings(tiny), f"hydra.run.dir={tiny.folder / name}", *extra]).fork()
    assert done.wait() == 0, done.printed()
    return done


def forced_collapse(tiny, seed):
    """The row of the table."""
    write_tokenizer(tiny.folder / "symbols")
    teacher = run(tiny, "teacher24", "algo=mdlm", "optim.lr=3e-3", "trainer.max_steps=600")
    student = run(
        tiny,
        "collapse",
        *("algo=idlm_mdlm", f"algo.teacher_path={teacher.last}", "optim.lr=1e-3", f"seed={seed}"),
        *(f"trainer.max_steps={LONGEST}", "lr_scheduler.num_warmup_steps=80"),
        *("algo.fake_warmup=20", "algo.guard.every=8", f"algo.guard.patience={PATIENCE}"),
        *("algo.guard.samples=128", "algo.guard.steps=[8]", "algo.guard.teacher_steps=32"),
    )
    looks = json.loads((student.folder / "guard.json").read_text())
    return judged(looks, student)


def judged(looks, student):
    """Whether the guard stopped in time with the best of those inside, kept before the collapse."""
    history, kept = looks["history"], looks["kept"]
    stopped = history[-1]["pair"]
    inside = [look for look in history if look["inside"]]
    entropy = {look["pair"]: look["rows"]["8"]["entropy"] for look in history}
    best = str(student.folder / "checkpoints" / "best.ckpt")
    held = (
        bool(inside)
        and kept == min(inside, key=lambda look: look["score"])["pair"]
        and checkpoints.read(best, "best")["global_step"] == kept
        and stopped < LONGEST
        and not any(look["inside"] for look in history[-PATIENCE:])
    )
    seen = (
        f"entropy of the teacher {looks['teacher']['entropy']:.3f}, of the student "
        f"{entropy.get(kept, math.nan):.3f} after {kept} pairs (kept) and {entropy[stopped]:.3f} "
        f"after {stopped}, where the guard stopped it"
    )
    fault = "collapse: learning rate 1e-3, absorbing, V = 24"
    return Row("duo_ext", fault, 1, int(held), seen, "the pairs after the kept student")
