"""Stand-ins for what the published recipes take from the hub, in the layouts that it has there.

Teachers of random weights as kuleshov-group/mdlm-owt (config.json and safetensors), as Lightning
checkpoints of Duo and of Duo-DCD, as louaaron/sedd-small; a byte-level BPE with the vocabulary of
GPT-2; a judge; a text.
"""

import dataclasses
import json
from pathlib import Path

import omegaconf
import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from duo_ext import host
from duo_ext.data import corpus

TOKENS = 50257
END_OF_TEXT = "<|endoftext|>"
FEW = 12  # addresses of some thousands of tokens each

# What of a recipe is on the hub, as overrides in which {name} stands for a path.
DUO_PATHS = (
    *("data=sotu", "data.train={text}", "data.cache_dir={folder}/tokens"),
    *("data.tokenizer_name_or_path={tokenizer}", "algo.teacher_path={teacher}"),
    "eval.gen_ppl_eval_model_name_or_path={judge}",
)
SEDD_PATHS = (
    *("data=sotu", "data.train={text}", "data.cache_dir={folder}/tokens"),
    *("data.tokenizer={tokenizer}", "teacher={teacher}", "eval.judge={judge}"),
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The published sizes of model=small of both hosts."""

    hidden_size: int = 768
    cond_dim: int = 128
    length: int = 1024
    n_blocks: int = 12
    n_heads: int = 12

    @property
    def words(self):
        """As overrides of a command line."""
        return [f"model.{name}={value}" for name, value in dataclasses.asdict(self).items()]


SMALL = Shape(hidden_size=32, cond_dim=16, length=64, n_blocks=2, n_heads=2)


def make_common(folder, addresses=FEW):
    """{name: path} of a text, a tokenizer and a judge, made in ``folder`` where they are not.

    ``addresses``: of how many the text is, None for all.
    """
    folder = Path(folder).absolute()
    made = {name: folder / name for name in ("text", "tokenizer", "judge")}
    if not made["text"].exists():
        _write_text(made["text"], addresses)
    if not made["tokenizer"].exists():
        tokenizer().save_pretrained(made["tokenizer"])
    if not made["judge"].exists():
        make_judge(made["judge"], made["tokenizer"], {"n_embd": 64, "n_layer": 2, "n_head": 2})
    return made


def _write_text(folder, count):
    training, held_out = corpus.split(corpus.addresses())
    parts = {"train": training[:count], "validation": held_out[:2]}
    folder.mkdir(parents=True)
    for name, addresses in parts.items():
        lines = "".join(f"{corpus.tidy(address.text)}\n" for address in addresses)
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")


def tokenizer():
    """Byte-level BPE of GPT-2's 50257 tokens, the last one its end of text.

    The shipped corpus gives fewer merges; names that no text has fill the rest.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS - 1, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator((address.text for address in corpus.addresses()), trainer)
    rules = json.loads(made.to_str())["model"]
    names = sorted(rules["vocab"], key=rules["vocab"].get)
    names += [f"<unused {n}>" for n in range(TOKENS - 1 - len(names))] + [END_OF_TEXT]
    merges = [tuple(pair) for pair in rules["merges"]]
    made.model = models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges)
    made.decoder = decoders.ByteLevel()
    ends = {f"{role}_token": END_OF_TEXT for role in ("bos", "eos", "unk")}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **ends)


def make_judge(folder, tokenizer, sizes):
    """A GPT-2 of random weights and these sizes, with a tokenizer's folder beside it."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**sizes, vocab_size=TOKENS)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def make_problems(folder, count=16):
    """Questions in the forms of TinyGSM, with programs, and of GSM8K, with answers: tinygsm.jsonl
    and gsm8k.jsonl in ``folder``, which is given back as a path."""
    asked = [f"Tom has {n} eggs and finds {n} more. How many has he?" for n in range(count)]
    code = "def simple_math_problem() -> int:\n    eggs = {n}\n    return eggs + {n}\n"
    parts = {
        "tinygsm": [{"code": code.format(n=n)} for n in range(count)],
        "gsm8k": [{"answer": f"He has {n} + {n}.\n#### {2 * n}"} for n in range(count)],
    }
    for name, answers in parts.items():
        rows = [{"question": q} | own for q, own in zip(asked, answers, strict=True)]
        (Path(folder) / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return Path(folder)


# teachers --------------------------------------------------------------------------------------


def make_teacher(folder, kind, shape):
    """The path of a teacher of random weights in ``folder``; not made again where it is."""
    name = f"{kind.removesuffix('.ckpt')}-{shape.hidden_size}-{shape.length}"
    path = Path(folder).absolute() / name
    path = path.with_suffix(".ckpt") if kind.endswith(".ckpt") else path
    if not path.exists():
        network = random_network(shape)
        write = {"mdlm-owt": _write_mdlm, "sedd-small": _write_sedd}.get(kind)
        if write:
            path.mkdir(parents=True)
            write(path, network, shape)
        else:
            name = {"duo.ckpt": "duo", "duo-dcd.ckpt": "distillation"}[kind]
            _write_duo(path, network, shape, name)
    return path


def dit(shape, vocabulary, dropout=0.1):
    """A fresh DIT of the tree that is active."""
    return host.active().module("models.dit").DIT(_network_config(shape, dropout), vocabulary)


def random_network(shape, vocabulary=TOKENS + 1, seed=0):
    """The hosts' common DIT, its logits as far apart as a trained one's."""
    network = dit(shape, vocabulary)
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        std = {"output_layer.linear.weight": 0.05}.get(name, 0.02)
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
        elif name.endswith("adaLN_modulation.bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def _network_config(shape, dropout=0.1):
    model = dataclasses.asdict(shape) | {"scale_by_sigma": True, "dropout": dropout}
    algo = {"backbone": "dit", "causal_attention": False}
    return omegaconf.OmegaConf.create({"model": model, "algo": algo})


def _write_safetensors(folder, network, config, prefix=""):
    weights = {f"{prefix}{name}": w.contiguous() for name, w in network.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _write_mdlm(folder, network, shape):
    config = {
        "architectures": ["MDLM"],
        "model_type": "mdlm",
        "cond_dim": shape.cond_dim,
        "hidden_dim": shape.hidden_size,
        "model_length": shape.length,
        "n_blocks": shape.n_blocks,
        "n_heads": shape.n_heads,
        "dropout": 0.1,
        "time_conditioning": False,
        "vocab_size": TOKENS + 1,
        "return_dict": False,
        "torch_dtype": "float32",
    }
    _write_safetensors(folder, network, config, "backbone.")


def _write_sedd(folder, network, shape):
    model = {"name": "small", "type": "ddit", **dataclasses.asdict(shape)}
    config = {
        "tokens": TOKENS,
        "graph": {"type": "absorb", "file": "data", "report_all": False},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "model": model | {"scale_by_sigma": True, "dropout": 0.1},
    }
    _write_safetensors(folder, network, config)


def _write_duo(path, network, shape, name):
    """As Lightning writes it: the configuration as OmegaConf's own type, the EMA as a list."""
    config = _network_config(shape)
    config.algo.update({"name": name, "time_conditioning": True})
    average = [parameter.detach() for parameter in network.parameters()]
    checkpoint = {
        "state_dict": {f"backbone.{key}": value for key, value in network.state_dict().items()},
        "ema": {"decay": 0.9999, "num_updates": 1000, "shadow_params": average},
        "hyper_parameters": {"config": config},
        "epoch": 0,
        "global_step": 1000,
        "pytorch-lightning_version": "2.6.6",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
