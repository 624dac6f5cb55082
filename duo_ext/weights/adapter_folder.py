"""Adapters as a folder of the library peft: adapter_config.json and adapter_model.safetensors.

``peft.PeftModel.from_pretrained`` puts them on the teacher's network. Biases that are trained whole
are peft's ``bias="all"``, other parameters its ``modules_to_save``, each with its whole module.
"""

import json
from pathlib import Path

from duo_ext import Refused
from duo_ext.core import adapters
from duo_ext.weights.checkpoints import Saved
from duo_ext.weights.pretrained import as_safetensors, write_new

PEFTS = "base_model.model."  # before the names of the network that peft wraps


def write(folder: str | Path, saved: Saved, raw: bool, named: str) -> None:
    """Write the adapters of a file (``Saved``) as a new folder.

    They are the averaged ones, or with ``raw`` those that were trained. Raises Refused where the
    file holds none (``named`` is how the sentence begins), or the folder cannot be written.
    """
    if saved.adapter is None:
        raise Refused(f"{named}; it holds no adapters: its student is a full network")
    trained = saved.adapter["weights" if raw else "average"] or saved.adapter["weights"]
    low = {name: value for name, value in trained.items() if ".lora_" in name}
    whole = {name: value for name, value in trained.items() if name not in low}
    places = {name.rpartition(".")[0] for name in whole if not name.endswith(".bias")}
    beside = {n: v for n, v in saved.weights.items() if n.rpartition(".")[0] in places}
    tensors = {name.replace(f".{adapters.NAME}.", "."): value for name, value in low.items()}
    tensors = {PEFTS + name: value for name, value in (tensors | beside | whole).items()}
    layers = {name.partition(".lora_")[0] for name in low}
    config = adapters.library().LoraConfig(
        r=saved.adapter["rank"],
        lora_alpha=saved.adapter["alpha"] or saved.adapter["rank"],
        target_modules=layers,
        modules_to_save=sorted(places) or None,
        bias="all" if any(name.endswith(".bias") for name in whole) else "none",
        inference_mode=True,
    )
    content = {
        "adapter_model.safetensors": as_safetensors(tensors),
        "adapter_config.json": json.dumps(config.to_dict(), default=sorted, indent=2).encode(),
    }
    write_new(folder, content)
