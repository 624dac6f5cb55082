"""Sample checkpoints and measure the samples: ``python -m duo_ext.evaluate --help``.

Writes results.json, table.md, figure.png and samples.md to the output folder. Every model is
sampled by the host's own sampler with its EMA weights, at every combination of steps, noise
removal, temperature and nucleus, from the same seed.
"""

import argparse
import contextlib
import itertools
import os
import platform
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fsspec
import omegaconf
import torch
import tqdm

from duo_ext import checkpoints, corpus, host, metrics, pretrained, report, trees
from duo_ext.__main__ import one_sentence
from duo_ext.files import write_whole

SHIPPED_JUDGE = "${idlm_asset:judge}"
READABLE_SAMPLES = 3
OVERRIDE = re.compile(r"\+{0,2}[A-Za-z_][\w.@]*=")
SECTIONS = ("algo", "model", "data")  # of a checkpoint's configuration; the rest is the host's


@dataclass(frozen=True)
class Setting:
    """One way of sampling."""

    steps: int
    noise_removal: str
    temperature: float
    nucleus: float


@dataclass
class Subject:
    """A checkpoint to sample: its role in the report, the path as given, the model itself.

    ``constructed`` is the state of the CPU's generator behind the seed and the model's making, from
    which the host's own sample_eval starts to sample.
    """

    role: str
    given: str
    algo: str
    sha256: str
    model: torch.nn.Module
    constructed: torch.Tensor


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m duo_ext.evaluate",
        usage="%(prog)s [options] [key=value ...]",
        description=__doc__.split("\n\n")[1],
        epilog="key=value: Duo's settings, for checkpoints that carry none",
    )
    paths = {"nargs": "+", "default": [], "metavar": "CKPT"}
    parser.add_argument("--teacher", help="checkpoints to compare with", **paths)
    parser.add_argument("--student", help="checkpoints to judge", **paths)
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    removals = ("ancestral", "greedy", "none")
    parser.add_argument("--noise-removal", nargs="+", choices=removals, default=["ancestral"])
    parser.add_argument("--temperature", nargs="+", type=float, default=[1.0])
    parser.add_argument("--nucleus", nargs="+", type=float, default=[1.0])
    parser.add_argument("--samples", type=int, default=1024, help="samples a row")
    parser.add_argument("--batch-size", type=int, default=64, help="samples at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=("float64", "float32"), default="float64")
    parser.add_argument("--judge", default=SHIPPED_JUDGE, help="a causal LM's folder or hub name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--trust-checkpoint", action="store_true", help="load any types")
    parser.add_argument("--host", metavar="PATH", help="the Duo tree to sample in")
    options = parser.parse_args([a for a in arguments if not OVERRIDE.match(a)])
    options.overrides = [a for a in arguments if OVERRIDE.match(a)]
    _check(options)
    return options


def _check(options):
    if not options.teacher + options.student:
        raise ValueError("nothing to evaluate: give --teacher or --student checkpoints")
    for name, least in (("steps", 1), ("samples", 1), ("batch_size", 1), ("seed", 0)):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if value < least:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; at least {least}")
    for name in ("temperature", "nucleus"):
        for value in getattr(options, name):
            if not value > 0 or (name == "nucleus" and value > 1):
                raise ValueError(
                    f"--{name} is {value}; above 0{', at most 1' * (name == 'nucleus')}"
                )
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch lacks CUDA
        raise ValueError(f"--device is '{options.device}'; torch cannot use it here") from error


def resolve(text):
    """A path as the command lines take it: ``${idlm_asset:...}`` and the like are resolved."""
    return omegaconf.OmegaConf.create({"path": text}).path


def load(role, given, options):
    """The model of a checkpoint, in the host's class of its family, ready to sample."""
    path, key = resolve(given), f"--{role}"
    tree = host.active()
    saved = pretrained.load(path, key, options.trust_checkpoint)
    config = _config(tree, saved, options, f"{key} is '{given}'")
    tokenizer = tree.module("dataloader").get_tokenizer(config)
    torch.manual_seed(options.seed)
    model = _family(config.algo.name, given).host_class(config, tokenizer)
    constructed = torch.get_rng_state()
    masked = not model.time_conditioning
    if masked and tree.samples_masked_in_float64 and options.precision == "float32":
        raise ValueError("--precision is 'float32'; Duo's main samples masked tokens in float64")
    checkpoints.check(saved, model.backbone, key)
    checkpoints.check_config(saved, config, key)
    checkpoints.load(model.backbone, saved)
    model.ema = None
    model = model.to(options.device).eval()
    return Subject(
        role, given, config.algo.name, checkpoints.sha256(path, model.backbone), model, constructed
    )


def _config(tree, saved, options, named):
    """The host's configuration with what the checkpoint says of its model and its data.

    Overrides of the command line stand in for a checkpoint that says nothing, and win over one
    that does.
    """
    given = {override.lstrip("+~").partition("=")[0] for override in options.overrides}
    if "algo" not in given and "name" not in saved.config.get("algo", {}):
        raise ValueError(
            f"{named}; it carries no configuration to sample it with; give Duo's settings: "
            "algo=mdlm or algo=duo_base, data=..., model=..."
        )
    config = tree.compose(options.overrides)
    for section in SECTIONS:
        if section not in given:
            trained = saved.config.get(section, {})
            config[section] = omegaconf.OmegaConf.merge(config[section], trained)
    dotted = [override for override in options.overrides if "." in override.partition("=")[0]]
    config.merge_with_dotlist([override.lstrip("+~") for override in dotted])
    config.eval.gen_ppl_eval_model_name_or_path = resolve(options.judge)
    config.sampling.use_float64 = options.precision == "float64"
    config.sampling.predictor = "ancestral" if config.algo.time_conditioning else "ancestral_cache"
    return config


def _family(name, given):
    from duo_ext.algorithms import FAMILIES  # imports the host, which is active by now

    for family in FAMILIES.values():
        if name in family.teachers:
            return family
    raise ValueError(f"'{given}' is a checkpoint of algo={name}, which no family here samples")


@contextlib.contextmanager
def sampled_as(model, setting, precision, calls):
    """The model under one setting; ``calls`` grows by one with each network evaluation."""
    masked = not model.time_conditioning
    widen = precision == "float64" and masked and host.active().samples_masked_in_float32

    def after(module, inputs, logits):
        calls.append(1)
        logits = logits.double() if widen else logits
        return logits / setting.temperature if setting.temperature != 1 else logits

    model.config.sampling.noise_removal = setting.noise_removal
    model.p_nucleus = setting.nucleus
    hook = model.backbone.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


def sample(subject, setting, options):
    """(tokens (N, L) on the CPU, network evaluations of a sample, seconds).

    With ``--batch-size`` as loader.eval_batch_size these are the tokens of the host's sample_eval.
    """
    model = subject.model
    torch.manual_seed(options.seed)
    torch.set_rng_state(subject.constructed)
    calls, parts, start = [], [], time.perf_counter()
    sizes = [options.batch_size] * (options.samples // options.batch_size)
    sizes += [options.samples % options.batch_size] * bool(options.samples % options.batch_size)
    with sampled_as(model, setting, options.precision, calls):
        for size in sizes:
            parts.append(model.generate_samples(size, num_steps=setting.steps).cpu())
    return torch.cat(parts), round(len(calls) / len(sizes)), time.perf_counter() - start


class HeldOut:
    """The validation text of a model's own data: reference statistics and texts for the judge."""

    def __init__(self, model, count):
        dataloader = host.active().module("dataloader")
        _, valid = dataloader.get_dataloaders(model.config, model.tokenizer, skip_train=True)
        tokens_NL = torch.cat([batch["input_ids"] for batch in valid])
        self.reference = metrics.Reference(tokens_NL, model.vocab_size)
        spread = torch.linspace(0, len(tokens_NL) - 1, min(count, len(tokens_NL))).long()
        self.texts = model.tokenizer.batch_decode(tokens_NL[spread])
        data = model.config.data
        self.description = {"blocks": len(tokens_NL), "length": model.num_tokens}
        self.description["train"] = omegaconf.OmegaConf.to_container(data, resolve=False)["train"]


def evaluate(options):
    """All rows of a results.json, and readable samples {heading: texts}."""
    subjects = [load("teacher", given, options) for given in options.teacher]
    subjects += [load("student", given, options) for given in options.student]
    try:
        judge = metrics.Judge(resolve(options.judge), options.device, options.batch_size)
    except ValueError as error:
        raise ValueError(f"--judge: {error}") from error
    models = {_data(subject.model): subject.model for subject in subjects}
    held_out = {data: HeldOut(model, options.samples) for data, model in models.items()}
    _make_folder(options.output)
    settings = list(
        itertools.starmap(
            Setting,
            itertools.product(
                options.steps, options.noise_removal, options.temperature, options.nucleus
            ),
        )
    )
    rows, readable = [], {}
    bar = tqdm.tqdm(list(itertools.product(subjects, settings)), unit="row")
    for subject, setting in bar:
        bar.set_postfix_str(f"{subject.role}, {setting.steps} steps")
        tokens_NL, evaluations, seconds = sample(subject, setting, options)
        texts = subject.model.tokenizer.batch_decode(tokens_NL)
        reference = held_out[_data(subject.model)].reference
        measured = metrics.measure(tokens_NL, texts, judge, reference, options.seed)
        rows.append(_row(subject, setting, options, evaluations, seconds) | measured)
        name = f"{subject.role} {subject.algo} ({rows[-1]['checkpoint']})"
        heading = f"{name}, {setting.steps} steps"
        readable.setdefault(heading, texts[:READABLE_SAMPLES])
    first = next(iter(held_out.values()))
    heldout_ppl = metrics.gen_ppl(*judge.nll(first.texts), options.seed).value
    results = {
        "rows": rows,
        "judge": {"name": judge.name, "heldout_ppl": heldout_ppl},
        "data": first.description,
        "commit": trees.own_commit(),
        "hardware": hardware(options.device),
        "command": shlex.join(["python", "-m", "duo_ext.evaluate", *options.command]),
    }
    return results, readable


def _data(model):
    """What makes a held-out text: two models with the same share its statistics."""
    return model.vocab_size, model.num_tokens, str(model.config.data)


def _make_folder(path):
    """Make the output folder and write to it once, before the sampling rather than after it."""
    fs, local = fsspec.core.url_to_fs(path)
    try:
        fs.makedirs(local, exist_ok=True)
        fs.touch(f"{local}/.writable")
        fs.rm(f"{local}/.writable")
    except OSError as error:
        raise ValueError(
            f"--output is '{path}'; it must be a folder that can be written ({error.strerror})"
        ) from error


def _row(subject, setting, options, evaluations, seconds):
    given = subject.given
    local = "://" not in given and "${" not in given and "://" not in options.output
    return {
        "model": subject.role,
        "algo": subject.algo,
        "host": host.active().name,
        "steps": setting.steps,
        "evaluations": evaluations,
        "noise_removal": setting.noise_removal,
        "temperature": setting.temperature,
        "nucleus": setting.nucleus,
        "precision": options.precision,
        "samples": options.samples,
        "seed": options.seed,
        "seconds": seconds,
        "checkpoint": os.path.relpath(given, options.output) if local else given,
        "checkpoint_sha256": subject.sha256,
    }


def hardware(device):
    if str(device).startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    return f"{torch.get_num_threads()} threads of {name}, torch {torch.__version__}"


def main(arguments=None):
    with one_sentence():
        arguments = sys.argv[1:] if arguments is None else arguments
        options = parse(arguments)
        options.command = arguments
        host.find(options.host).activate()
        corpus.register_resolvers()
        results, readable = evaluate(options)
        report.save(results, options.output)
        report.render(options.output)
        write_whole(f"{options.output}/samples.md", report.samples_markdown(readable).encode())
    print(report.page(results))
    names = ("results.json", "table.md", "figure.png", "samples.md")
    print("written: " + ", ".join(f"{options.output}/{name}" for name in names))


if __name__ == "__main__":
    main()
