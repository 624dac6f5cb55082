"""Remedies: what an unmodified host needs under current libraries or without a GPU.

Each is applied only where it is needed, from outside: no file of the host changes. ``BEFORE`` are
applied before the host's modules are imported, ``AFTER`` on the imported modules.
``python -m duo_ext --host PATH --check`` lists them; ``python -m duo_ext.compat main.py key=value``
runs a host's own script with all but those that change the script itself.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fsspec
import omegaconf
import torch

from duo_ext import Refused, checkpoints, files, texts

STAND_INS = Path(__file__).parent / "stand_ins"
TOKENIZER = "data.tokenizer_name_or_path"


@dataclass(frozen=True)
class Remedy:
    """``needed`` and ``apply`` take the host; ``cause`` says what fails without it; ``module`` is
    the host's module that is changed in memory."""

    name: str
    cause: str
    needed: Callable
    apply: Callable
    module: str | None = None


# before the import ---------------------------------------------------------------------------


def imports(root, name):
    """Whether a module of the tree imports a package when it is imported itself."""
    statement = re.compile(rf"^(import|from) {name}\b", re.MULTILINE)
    folders = (root, root / "model", root / "models")
    sources = [path for folder in folders for path in folder.glob("*.py")]
    return any(statement.search(path.read_text()) for path in sources)


def importable(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _forget(name):
    """Drop what an import that failed has left."""
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def stand_in(name, cause):
    """A remedy that puts stand_ins/NAME on the module path."""

    def needed(host):
        return imports(host.root, name) and not importable(name)

    def apply(host):
        importlib.import_module("lightning")  # torchmetrics must not take the stand-in for the real
        _forget(name)
        sys.path.insert(0, str(STAND_INS / name))

    return Remedy(f"stand-in for {name}", cause, needed, apply)


def _has_flash_attn(host):
    """Whether the host uses an installed flash-attn, no stand-in."""
    there = imports(host.root, "flash_attn") and importable("flash_attn.flash_attn_interface")
    return there and not sys.modules["flash_attn"].__file__.startswith(str(STAND_INS))


def _attend_in_float32(host):
    """Let the stand-in attend to what flash-attn does not take; all else stays flash-attn's."""
    installed = importlib.import_module("flash_attn.flash_attn_interface")
    path = STAND_INS / "flash_attn" / "flash_attn" / "flash_attn_interface.py"
    spec = importlib.util.spec_from_file_location("duo_ext.attention", path)
    ours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ours)
    attend = installed.flash_attn_varlen_qkvpacked_func

    @functools.wraps(attend)
    def in_any_precision(qkv, *arguments, **settings):
        whole = qkv.dtype == torch.float32
        function = ours.flash_attn_varlen_qkvpacked_func if whole else attend
        return function(qkv, *arguments, **settings)

    installed.flash_attn_varlen_qkvpacked_func = in_any_precision


def withdraw_stand_ins():
    """Hide the stand-ins from everybody but the modules that have imported them."""
    for folder in STAND_INS.iterdir():
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
            _forget(folder.name)


def _torchvision_lacks_operators(host):
    """A torchvision built for CUDA, which torch for CPU cannot load: lightning fails with it."""
    try:
        importable("torchvision")
    except RuntimeError as error:
        return "operator torchvision::" in str(error)
    return False


def _define_operators(host):
    """Declare the two operators that torchvision registers fakes for, and import it again."""
    _forget("torchvision")
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _define_operators.library = library  # its operators live as long as it does
    importlib.import_module("torchvision")


def _splits_local_names(host):
    """Whether it does so by the function that is known here: ours never ask it (files.located)."""
    known = hasattr(fsspec.core, "_un_chain")
    return known and fsspec.core.url_to_fs("/a::/b")[1] != "/a::/b"


def _take_local_names_whole(host):
    """Let fsspec chain what begins with a URL alone, for Lightning and the host as well."""
    split = fsspec.core._un_chain

    @functools.wraps(split)
    def whole(path, kwargs):
        if "::" not in path or files.is_url(path):
            return split(path, kwargs)
        return [(os.path.abspath(path), "file", kwargs)]

    fsspec.core._un_chain = whole


BEFORE = (
    Remedy(
        "torchvision's operators",
        "torchvision for CUDA beside torch for CPU: operator torchvision::nms does not exist",
        _torchvision_lacks_operators,
        _define_operators,
    ),
    stand_in("flash_attn", "models/dit.py imports flash-attn, which is not installed"),
    Remedy(
        "attention in float32",
        "flash-attn takes fp16 and bf16 alone, and algo.precision=float32 gives it float32",
        _has_flash_attn,
        _attend_in_float32,
    ),
    stand_in("torchvision", "dataloader.py imports torchvision, which is not installed"),
    stand_in("timm", "utils.py imports timm, which is not installed"),
    Remedy(
        "local names taken whole",
        "fsspec splits a local name at '::', so that a checkpoint is written as another file",
        _splits_local_names,
        _take_local_names_whole,
    ),
)


# after the import ----------------------------------------------------------------------------


def _no_gpu(host):
    return not torch.cuda.is_available()


def _counts_gpus(host):
    return _no_gpu(host) and "cuda.device_count" in (host.root / "dataloader.py").read_text()


def _count_processes(host):
    """Let ``get_dataloaders`` and ``${device_count:}`` count the CPU's processes."""
    dataloader = host.module("dataloader")
    get_dataloaders = dataloader.get_dataloaders

    @functools.wraps(get_dataloaders)
    def counted(config, *args, **kwargs):
        device_count = torch.cuda.device_count
        torch.cuda.device_count = lambda: config.trainer.devices
        try:
            return get_dataloaders(config, *args, **kwargs)
        finally:
            torch.cuda.device_count = device_count

    dataloader.get_dataloaders = counted
    if omegaconf.OmegaConf.has_resolver("device_count"):  # main.py's, for trainer.devices
        omegaconf.OmegaConf.register_new_resolver("device_count", lambda: 1, replace=True)


def _names_tokens_by_their_text(host):
    return "save_to_disk" in (host.root / "dataloader.py").read_text()


def _keep_tokenizers_apart(host):
    """Let ``get_dataset`` write beside the tokens that it keeps which tokenizer made them, and
    refuse those of another."""
    dataloader = host.module("dataloader")
    get_dataset = dataloader.get_dataset
    signature = inspect.signature(get_dataset)

    @functools.wraps(get_dataset)
    def recorded(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        tokenizer = given["tokenizer"]
        with _kept_tokens(tokenizer, given["wrap"]):
            try:
                return get_dataset(*args, **kwargs)
            except Refused:
                raise
            except Exception:  # datasets raises the tokenizer's own, of no class
                texts.explain(given["dataset_name"], given["mode"], tokenizer, TOKENIZER)
                raise

    dataloader.get_dataset = recorded


@contextlib.contextmanager
def _kept_tokens(tokenizer, wrap):
    """While tokens are saved and loaded through datasets, they have a record of the tokenizer."""
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
    """Raise Refused if the tokens are another tokenizer's, by their record; without one, made by
    plain Duo, if their first block cannot be this one's."""
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


def _takes_device_for_retokenize(host):
    record = host.module("metrics").Metrics.record_generative_perplexity
    return "retokenize" in inspect.signature(record).parameters


def _pass_device(host):
    metrics = host.module("metrics").Metrics
    record = metrics.record_generative_perplexity

    @functools.wraps(record)
    def on_device(self, text_samples, max_length, retokenize=True, device="cuda"):
        if not isinstance(retokenize, bool):
            retokenize, device = True, retokenize
        return record(self, text_samples, max_length, retokenize, device)

    metrics.record_generative_perplexity = on_device


def _leaves_loading_to_torch(host):
    return "weights_only" not in (host.root / "main.py").read_text()


def _admit_checkpoints(host):
    program = host.module("main")
    load, train = program._load_from_checkpoint, program._train

    @functools.wraps(load)
    def load_admitted(**given):
        if "hf" not in given["config"].algo.backbone:
            _admit(given["config"], "eval.checkpoint_path")
        return load(**given)

    @functools.wraps(train)
    def train_admitted(**given):
        _admit(given["config"], "training.finetune_path")
        if given["config"].checkpointing.resume_from_ckpt:
            _admit(given["config"], "checkpointing.resume_ckpt_path", may_be_missing=True)
        return train(**given)

    program._load_from_checkpoint, program._train = load_admitted, train_admitted


def _admit(config, key, may_be_missing=False):
    """Let torch.load make the known types of the checkpoint that ``key`` names, if it names one.

    Raises Refused if it holds others, unless algo.trust_checkpoint says that they may be made.
    """
    path = omegaconf.OmegaConf.select(config, key)
    if not path or (may_be_missing and not files.exists(path)):
        return
    if config.algo.get("trust_checkpoint", False):
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        return
    checkpoints.read(path, key)
    with checkpoints.opened(path, key) as file:
        torch.serialization.add_safe_globals(checkpoints.known_types(file))


def _moves_hub_models_to_cuda(host):
    return _no_gpu(host) and ".to('cuda')" in (host.root / "main.py").read_text()


def _keep_hub_models_on_cpu(host):
    program = host.module("main")
    load = program._load_from_checkpoint

    @functools.wraps(load)
    def load_on_cpu(*, diffusion_model, config, tokenizer):
        if "hf" in config.algo.backbone:
            return diffusion_model(config, tokenizer=tokenizer)
        return load(diffusion_model=diffusion_model, config=config, tokenizer=tokenizer)

    program._load_from_checkpoint = load_on_cpu


AFTER = (
    Remedy(
        "processes counted as devices",
        "dataloader.py counts GPUs, of which there are none, and stops with an AssertionError",
        _counts_gpus,
        _count_processes,
        "dataloader",
    ),
    Remedy(
        "tokens of one tokenizer",
        "dataloader.py keeps tokens by the name of their text, and gives them to any tokenizer",
        _names_tokens_by_their_text,
        _keep_tokenizers_apart,
        "dataloader",
    ),
    Remedy(
        "GenPPL on the model's device",
        "the device lands in another argument, so that GenPPL asks for CUDA",
        _takes_device_for_retokenize,
        _pass_device,
        "metrics",
    ),
    Remedy(
        "known types in checkpoints",
        "torch >= 2.6 refuses the configuration and the tokenizer in Duo's checkpoints",
        _leaves_loading_to_torch,
        _admit_checkpoints,
        "main",
    ),
    Remedy(
        "hf backbones on the CPU",
        "main.py moves them to 'cuda', of which there is none",
        _moves_hub_models_to_cuda,
        _keep_hub_models_on_cpu,
        "main",
    ),
)


def main():
    """Run the script that the first argument names, as ``python SCRIPT ...`` would."""
    from duo_ext import host

    del sys.argv[0]
    if not sys.argv:
        sys.exit("usage: python -m duo_ext.compat SCRIPT [key=value ...]")
    root = Path(sys.argv[0]).absolute().parent
    tree = host.Host(root, "", None)
    tree.apply(BEFORE)
    sys.path.insert(0, str(root))
    there = [remedy for remedy in AFTER if (root / f"{remedy.module}.py").is_file()]
    tree.apply(remedy for remedy in there if remedy.module != "main")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
