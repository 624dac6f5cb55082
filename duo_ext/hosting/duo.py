"""The remedies on the imported modules of Duo (``remedies``)."""

import functools
import inspect
import os

import omegaconf
import torch
from omegaconf import DictConfig

from duo_ext import files
from duo_ext.hosting.kept_tokens import TokensOfOneTokenizer
from duo_ext.hosting.pairs import GivenTokensStayClean, PairsAsData
from duo_ext.hosting.remedies import AnyTree, Remedy
from duo_ext.measuring.judge import said_context
from duo_ext.weights import checkpoints, pickles


class ProcessesAsDevices(Remedy):
    """Lets ``get_dataloaders`` and ``${device_count:}`` count the CPU's processes."""

    name = "processes counted as devices"
    cause = "dataloader.py counts GPUs, of which there are none, and stops with an AssertionError"
    module = "dataloader"

    def needed(self, host: AnyTree) -> bool:
        counts = "cuda.device_count" in (host.root / "dataloader.py").read_text()
        return counts and not torch.cuda.is_available()

    def apply(self, host: AnyTree) -> None:
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


class DeviceOfGenPPL(Remedy):
    """Passes the device on to ``record_generative_perplexity`` by its name."""

    name = "GenPPL on the model's device"
    cause = "the device lands in another argument, so that GenPPL asks for CUDA"
    module = "metrics"

    def needed(self, host: AnyTree) -> bool:
        record = host.module("metrics").Metrics.record_generative_perplexity
        return "retokenize" in inspect.signature(record).parameters

    def apply(self, host: AnyTree) -> None:
        metrics = host.module("metrics").Metrics
        record = metrics.record_generative_perplexity

        @functools.wraps(record)
        def on_device(self, text_samples, max_length, retokenize=True, device="cuda"):
            if not isinstance(retokenize, bool):
                retokenize, device = True, retokenize
            return record(self, text_samples, max_length, retokenize, device)

        metrics.record_generative_perplexity = on_device


class JudgesOwnContext(Remedy):
    """Lets ``_eval_retokenize`` cut texts into chunks of no more tokens than the judge reads."""

    name = "texts cut at the judge's context"
    cause = "texts are cut into chunks of 1024 tokens, whatever number of them the judge reads"
    module = "metrics"

    def needed(self, host: AnyTree) -> bool:
        return hasattr(host.module("metrics").Metrics, "_eval_retokenize")

    def apply(self, host: AnyTree) -> None:
        import transformers

        metrics = host.module("metrics").Metrics
        retokenize = metrics._eval_retokenize

        @functools.cache  # not for each batch: a name of the hub is looked up there
        def context(name):
            return said_context(transformers.AutoConfig.from_pretrained(name))

        @functools.wraps(retokenize)
        def within_context(self, *args, **kwargs):
            samples, mask, chunk = retokenize(self, *args, **kwargs)
            return samples, mask, min(chunk, context(self.gen_ppl_eval_model_name_or_path) or chunk)

        metrics._eval_retokenize = within_context


class KnownTypesInCheckpoints(Remedy):
    """Lets torch.load make the types that Duo's checkpoints hold, and no others."""

    name = "known types in checkpoints"
    cause = "torch >= 2.6 refuses the configuration and the tokenizer in Duo's checkpoints"
    module = "main"

    def needed(self, host: AnyTree) -> bool:
        return "weights_only" not in (host.root / "main.py").read_text()

    def apply(self, host: AnyTree) -> None:
        program = host.module("main")
        load, train = program._load_from_checkpoint, program._train

        @functools.wraps(load)
        def load_admitted(**given):
            if "hf" not in given["config"].algo.backbone:
                admit(given["config"], "eval.checkpoint_path")
            return load(**given)

        @functools.wraps(train)
        def train_admitted(**given):
            admit(given["config"], "training.finetune_path")
            if given["config"].checkpointing.resume_from_ckpt:
                admit(given["config"], "checkpointing.resume_ckpt_path", may_be_missing=True)
            return train(**given)

        program._load_from_checkpoint, program._train = load_admitted, train_admitted


def admit(config: DictConfig, key: str, may_be_missing: bool = False) -> None:
    """Let torch.load make the known types of the checkpoint that ``key`` names, if it names one.

    Raises Refused if it holds others, unless algo.trust_checkpoint says that they may be made.
    """
    path = omegaconf.OmegaConf.select(config, key)
    if not path or (may_be_missing and not files.exists(path)):
        return
    if checkpoints.trusted(config):
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
        return
    checkpoints.read(path, key)
    with pickles.opened(path, key) as file:
        torch.serialization.add_safe_globals(pickles.known_types(file))


class HubModelsOnCPU(Remedy):
    """Makes a model of an hf backbone without moving it to a GPU."""

    name = "hf backbones on the CPU"
    cause = "main.py moves them to 'cuda', of which there is none"
    module = "main"

    def needed(self, host: AnyTree) -> bool:
        moves = ".to('cuda')" in (host.root / "main.py").read_text()
        return moves and not torch.cuda.is_available()

    def apply(self, host: AnyTree) -> None:
        program = host.module("main")
        load = program._load_from_checkpoint

        @functools.wraps(load)
        def load_on_cpu(*, diffusion_model, config, tokenizer):
            if "hf" in config.algo.backbone:
                return diffusion_model(config, tokenizer=tokenizer)
            return load(diffusion_model=diffusion_model, config=config, tokenizer=tokenizer)

        program._load_from_checkpoint = load_on_cpu


AFTER = (
    ProcessesAsDevices(),
    TokensOfOneTokenizer(),
    PairsAsData(),
    GivenTokensStayClean(),
    DeviceOfGenPPL(),
    JudgesOwnContext(),
    KnownTypesInCheckpoints(),
    HubModelsOnCPU(),
)
