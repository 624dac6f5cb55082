"""docs/scale.md has the tables of benchmarks.scale, and these are of what was counted."""

import pytest
import torch

from benchmarks import meters, one_pair, scale
from duo_ext.core import adapters


def test_the_page_has_the_tables_of_today(monkeypatch):
    text = scale.PAGE.read_text()
    assert scale.TIME in text and scale.SIZE in text
    assert scale.page(text) == text, "python -m benchmarks.scale --write"
    assert all(line in text for line in scale.sentences().splitlines())
    monkeypatch.setattr(scale, "BANDWIDTH", 1e12)
    assert scale.page(text) != text


@pytest.mark.parametrize("name", scale.PROCESSES)
def test_passes_are_those_that_were_counted(name):
    """The body's count has embeddings of mixtures and time in it."""
    process = scale.PROCESSES[name]
    for precision in scale.precisions():
        row = process.counted(precision)
        assert sum(row["bodies"].values()) == pytest.approx(process.bodies, rel=0.06)
        assert sum(row["heads"].values()) == pytest.approx(process.heads, rel=0.03)


def test_an_update_takes_a_gradient_and_copies():
    """Over the state; not all parameters are copied, and a few activations are there."""
    row = scale.counted("state", "duo main", "bf16")
    assert max(row["update"].values()) == pytest.approx(scale.GRADIENT + scale.COPIES, abs=0.4)


def test_ddp_holds_a_copy_of_the_gradients(tmp_path):
    network = torch.nn.Linear(256, 256)
    held = []
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrap = torch.nn.parallel.DistributedDataParallel
        # without init_sync: a thread of gloo's frees what it has sent whenever it likes
        changes = meters.allocations(lambda: held.append(wrap(network, init_sync=False)))
    finally:
        torch.distributed.destroy_process_group()
    parameters = sum(p.numel() for p in network.parameters())
    left = sum(size for _, size in changes) / parameters
    assert left == pytest.approx(scale.BUCKETS, rel=0.02)


def test_seconds_are_bytes_and_operations_over_rates(monkeypatch):
    """By hand, of one block of width 1: rates of 1, one token."""
    block = {"what": "blocks", "host": "sedd", "dropout": 0.1}
    rows = [
        {"what": "pair", "host": "sedd", "process": "sedd", "options": False, "precision": "mixed"}
        | {"elementwise_bytes": 2.0, "bodies": {"float32": 1, "bfloat16": 3}}
        | {"heads": {"float32": 5}},
        block | {"precision": "bf16", "forward": 10.0, "backward": 100.0},
        block | {"precision": "float32", "forward": 1000.0, "backward": 10000.0},
    ]
    constants = {"BATCH": 1, "LENGTH": 1, "VOCAB": 7, "BANDWIDTH": 1.0, "REACHED": 1.0}
    constants |= {"PEAK": {"float32": 1.0, "bfloat16": 2.0}, "latest": lambda: ("after", rows)}
    for key, value in constants.items():
        monkeypatch.setattr(scale, key, value)
    model = scale.Model(width=1, blocks=1)
    process = scale.Process("sedd", "sedd", bodies=9, heads=3.5, backward_through=2)
    products = 9 * 28 * (1 / 4 + 3 / 4 / 2) + 3.5 * 14
    assert model.product_seconds(process, "mixed") == pytest.approx(products)
    blocks = 3 * 10 + 2 * 100 + 2 * 1000 + 2 * 10000
    assert model.elementwise_seconds(process, "mixed") == [7 * 2.0, blocks]


@pytest.mark.parametrize("held", scale.HELD)
def test_adapters_are_counted_as_they_are(standalone, tiny, monkeypatch, held):
    """Beside biases, norms and the layers of time, which are not counted, nor the rotary table."""
    pytest.importorskip("peft")
    config = tiny("algo=mdlm", "model.hidden_size=64")
    network = standalone.module("models").dit.DIT(config, scale.VOCAB)
    teacher = adapters.adapt(
        network, one_pair.ADAPTER | {"rank": scale.RANK, "frozen": held}, seed=1
    )
    model = scale.Model(config.model.hidden_size, config.model.n_blocks, config.model.cond_dim)
    trained = [p.numel() for p in adapters.trained(network)]
    assert model.adapters == sum(trained) > 10_000
    monkeypatch.setattr(scale, "state_of_a_parameter", lambda: scale.WEIGHT)  # no adapters
    frozen = sum(p.nbytes for p in teacher.parameters() if p.ndim > 1)
    time = sum(p.nbytes for p in teacher.sigma_map.parameters() if p.ndim > 1)
    time += teacher.output_layer.adaLN_modulation.weight.nbytes
    assert model.adapted_state(held) == frozen - time


@pytest.mark.parametrize(("trained", "copies"), [(True, 1), (False, 2)])
def test_autocast_keeps_copies_of_what_is_trained_alone(trained, copies):
    """Of a frozen weight it makes one for each product."""
    weight = torch.nn.Parameter(torch.ones(64, 64), requires_grad=trained)

    def products():
        with torch.autocast("cpu", torch.bfloat16):
            for _ in range(2):
                torch.nn.functional.linear(torch.ones(1, 64), weight)

    made = [size for _, size in meters.allocations(products) if size == 2 * weight.numel()]
    assert len(made) == copies


@pytest.mark.parametrize("held", scale.HELD)
def test_what_a_gpu_holds_is_what_is_left_for_activations(held):
    model = scale.MODELS["863M"]
    state, copied = model.adapted_state(held), model.adapters + model.head + model.block
    texts = [model.texts(state, copied, memory) for memory in scale.GPUS]
    assert texts == sorted(texts) and texts[1] >= 8  # of 24 GB
    assert model.texts(state, copied, scale.CHUNK) == 0
