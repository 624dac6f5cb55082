"""Networks that share frozen weights: each is the host's own, with low-rank adapters of its own.

``adapt`` freezes a network and lets its linear layers compute W x + (alpha / rank) B A x. W stays,
A and B are trained; B starts at 0, so the network starts as it was. The layers are peft's. W can be
held in bf16 (``halved``): then all networks start as the one with W rounded. ``twin`` copies a
network's modules and what is trained in it; what is frozen is the same tensors in both. So nothing
is switched on or off: no network can see another's adapters, also where its blocks are compiled, or
computed again in a backward pass.

What is trained is what requires a gradient, as for the hosts' averages. All of this holds for a
network without adapters, too: its twin shares nothing, and merged it is itself.
"""

import copy
import fnmatch
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from duo_ext import Refused
from duo_ext.core.halved import Halved, halved, linear

KEY = "algo.adapter"
NAME = "default"  # peft's, of the one adapter of a layer
FROZEN = ("float32", "bf16")  # how weights under adapters are held


def library() -> object:
    """The module peft; Refused where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise Refused(
            f"{KEY}.rank needs the library peft, which is not installed: "
            "pip install 'idlm[adapters]'"
        ) from error
    return peft


def twin(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of a network that shares its frozen parameters, and has its own of all others."""
    frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
    return copy.deepcopy(network, frozen)


def adapt(network: torch.nn.Module, settings: Mapping, seed: int) -> torch.nn.Module:
    """Freeze a network and put adapters on it, as the section ``algo.adapter`` says, in place.

    Gives the frozen network without adapters. A weight that is trained whole has none. A is drawn
    by ``seed``. Raises Refused where a pattern matches nothing.
    """
    peft = library()
    frozen = twin(network.requires_grad_(False))
    names = [name for name, _ in network.named_parameters()]
    names = _matching("whole", settings["whole"], names, "parameters")
    layers = [name for name, m in network.named_modules() if isinstance(m, torch.nn.Linear)]
    targets = _matching("targets", settings["targets"], layers, "linear layers")
    targets = [name for name in targets if f"{name}.weight" not in names]
    if not targets:
        raise Refused(
            f"{KEY}.whole is {list(settings['whole'])}, which leaves no layer of {KEY}.targets an "
            f"adapter; full networks are {KEY}.rank=0"
        )
    whole = [_own(network, name) for name in names]
    rank = settings["rank"]
    holder = torch.nn.ModuleDict({"network": network})  # peft looks into a network's config
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if settings["alpha"] is None else settings["alpha"],
        target_modules=[f"network.{name}" for name in targets],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, holder, NAME)
    for name, layer in adapted(network).items():
        layer.cast_input_dtype_enabled = False  # an autocast says what they run in
        if settings["frozen"] == "bf16":
            weight, teachers = halved(layer.base_layer.weight), frozen.get_submodule(name)
            layer.base_layer = linear(Halved, layer.base_layer, weight)
            frozen.set_submodule(name, linear(Halved, teachers, weight))
    for parameter in whole:
        parameter.requires_grad_(True)
    return frozen


def _matching(key, patterns, names, of):
    """The names that one of the patterns matches; Refused where a pattern matches none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise Refused(
                f"{KEY}.{key} has '{pattern}', which matches no name of the network's {of}; "
                f"they are named as {', '.join(names[:3])}, ..., {names[-1]}"
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _own(network, name):
    """A parameter of the network's own in the place of one that others may share."""
    place, _, leaf = name.rpartition(".")
    module = network.get_submodule(place)
    setattr(module, leaf, torch.nn.Parameter(getattr(module, leaf).detach().clone()))
    return getattr(module, leaf)


def adapted(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """{name: peft's layer} of the layers that have adapters."""
    return {name: m for name, m in network.named_modules() if hasattr(m, "lora_A")}


def trained(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that are trained."""
    return [p for p in network.parameters() if p.requires_grad]


def own_state(network: torch.nn.Module) -> dict[str, Tensor]:
    """A network's state_dict without what is frozen."""
    state = network.state_dict()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            del state[name]
    return state


def load_own_state(network: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what ``own_state`` gave; what is frozen stays."""
    frozen = network.state_dict()
    for name in own_state(network):
        del frozen[name]
    network.load_state_dict(frozen | state)


@torch.no_grad()
def merged(network: torch.nn.Module, values: Iterable[Tensor] = ()) -> torch.nn.Module:
    """A network of the host's own layers: the product B A is added to the weight that it adapts.

    ``values``, such as a host's average, stand for what is trained. The network itself, where it
    has no adapters and no values are given.
    """
    if not (values := list(values)) and not adapted(network):
        return network
    plain = twin(network)
    if values:
        for parameter, value in zip(trained(plain), values, strict=True):
            parameter.copy_(value)
    for name, layer in adapted(plain).items():
        weight = torch.nn.Parameter(layer.base_layer.weight + layer.get_delta_weight(NAME))
        plain.set_submodule(name, linear(torch.nn.Linear, layer.base_layer, weight))
    return plain


def plain(
    network: torch.nn.Module, average: list[Tensor] | None
) -> tuple[dict[str, Tensor], list[Tensor] | None, dict]:
    """(state_dict, average, ours) that a host's checkpoint holds of an adapted network.

    The first two are merged, and on the CPU, so that a device holds one merged network at a time.
    ``ours`` is what ``go_on`` takes. ``average`` is a host's of what is trained, or None.
    """
    own = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    ours = {"weights": own, "average": average and dict(zip(own, average, strict=True))}
    weights = {name: value.cpu() for name, value in merged(network).state_dict().items()}
    if average is not None:
        average = [p.detach().cpu() for p in merged(network, average).parameters()]
    return weights, average, ours


def go_on(network: torch.nn.Module, ours: Mapping) -> list[Tensor] | None:
    """Load what ``plain`` gave as ours into an adapted network; the average of what is trained."""
    load_own_state(network, own_state(network) | ours["weights"])
    return ours["average"] and list(ours["average"].values())
