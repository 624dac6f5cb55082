"""SEDD and the standalone tree compute the same: scores, losses, samples, updates, files, blocks.

SEDD_ROOT names a checkout of SEDD. As a program, ``test_sedd_tree.py TREE WORK``, this file is what
each tree computes, in a process of its own, because the modules of both have the same names.
"""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import hydra
import omegaconf
import pytest
import torch
import transformers

from duo_ext import host
from sedd_ext import remedies

REPOSITORY = Path(host.__file__).parents[1]
OURS = REPOSITORY / "sedd_ext" / "standalone"
FLASH = REPOSITORY / "duo_ext" / "hosting" / "stand_ins" / "flash_attn"
TOKENIZER = REPOSITORY / "duo_ext" / "assets" / "tokenizers" / "sotu32"
TINY = (
    "tokens=32",
    "model.hidden_size=32",
    "model.cond_dim=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=16",
    "model.dropout=0",
    "training.ema=0.9",
    "optim.lr=1e-2",
    "optim.warmup=3",
)
SETTINGS = {
    "absorb": (),
    "absorb unscaled": ("model.scale_by_sigma=false", "optim.optimizer=Adam", "optim.grad_clip=-1"),
    "absorb geometric": ("noise.type=geometric", "noise.sigma_min=0.01", "noise.sigma_max=3"),
    "uniform": ("graph.type=uniform", "model.scale_by_sigma=false"),
    "uniform geometric": (
        "graph.type=uniform",
        "model.scale_by_sigma=false",
        "noise.type=geometric",
        "noise.sigma_min=0.01",
        "noise.sigma_max=3",
    ),
}
TREES = ("ours", "sedd")
B, L = 6, 16


# the program -----------------------------------------------------------------------------------


class Wrapped(torch.nn.Module):
    """A model as a data-parallel run holds it, with its output in another precision."""

    def __init__(self, module, dtype=torch.float32):
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x, sigma):
        return self.module(x, sigma).to(self.dtype)


def seeded(function, *arguments):
    torch.manual_seed(7)
    return function(*arguments)


def given():
    """Tokens x0 and x, times."""
    generator = torch.Generator().manual_seed(5)
    x0, other = torch.randint(32, (2, B, L), generator=generator)
    changed = torch.rand(B, L, generator=generator) < 0.5
    return x0, other, changed, torch.linspace(0.05, 0.95, B)


def new_model(config, weights=None):
    from model import SEDD

    model = SEDD(config)
    model.load_state_dict(weights or torch.load("weights.pt", weights_only=True)[config.name])
    return model.eval()


def scores_and_losses(config):
    import graph_lib
    import losses
    import noise_lib

    graph, noise = graph_lib.get_graph(config, "cpu"), noise_lib.get_noise(config)
    model = new_model(config)
    x0, other, changed, t = given()
    x = torch.where(changed, torch.full_like(x0, graph.dim - 1) if graph.absorb else other, x0)
    sigma, rate = (value[:, None] for value in noise(t))
    log_score = model(x, sigma[:, 0]).detach()
    loss_fn = losses.get_loss_fn(noise, graph, train=False)
    return {
        "names": [name for name, _ in model.named_parameters()],
        "dim": (graph.dim, graph.absorb),
        "sigma": (sigma, rate),
        "log score": log_score,
        "entropy": graph.score_entropy(log_score, sigma, x, x0),
        "loss": loss_fn(model, x0, t=t, perturbed_batch=x).detach(),
        "loss with its own draws": seeded(loss_fn, model, x0).detach(),
        "transition": seeded(graph.sample_transition, x0, sigma),
        "limit": seeded(graph.sample_limit, B, L),
        "rate": [value.float() for value in (graph.rate(x), graph.transp_rate(x))],
        "reverse rate": graph.reverse_rate(x, log_score.exp()),
        "staggered": graph.staggered_score(log_score.exp(), sigma / 3),
        "transposed": graph.transp_transition(x, sigma / 3),
    }


def samples(config):
    import graph_lib
    import noise_lib
    import sampling

    graph, noise = graph_lib.get_graph(config, "cpu"), noise_lib.get_noise(config)
    found = {}

    def prompt(x):
        return torch.cat([torch.full_like(x[:, :3], 4), x[:, 3:]], 1)

    for predictor, denoise in itertools.product(("euler", "analytic", "none"), (True, False)):
        for dtype in (torch.float32, torch.float64):
            model = Wrapped(new_model(config), dtype)
            draw = sampling.get_pc_sampler(
                graph, noise, (B, L), predictor, 7, denoise=denoise, proj_fun=prompt
            )
            found[predictor, denoise, dtype] = seeded(draw, model)
    draw = sampling.get_sampling_fn(config, graph, noise, (2, L), 1e-5, "cpu")
    return found | {"from the configuration": seeded(draw, new_model(config))}


def train(config, folder, resume=None):
    """Losses and weights of four updates of two batches each; a run's folder with a checkpoint."""
    import graph_lib
    import losses
    import noise_lib
    import utils
    from model.ema import ExponentialMovingAverage

    graph, noise = graph_lib.get_graph(config, "cpu"), noise_lib.get_noise(config)
    model = Wrapped(new_model(config))
    ema = ExponentialMovingAverage(model.parameters(), decay=config.training.ema)
    parameters = itertools.chain(model.parameters(), noise.parameters())
    optimizer = losses.get_optimizer(config, parameters)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    state = {"optimizer": optimizer, "scaler": scaler, "model": model, "noise": noise}
    state |= {"ema": ema, "step": 0}
    if resume:
        state = utils.restore_checkpoint(f"{resume}/checkpoints-meta/checkpoint.pth", state, "cpu")
    optimize_fn = losses.optimization_manager(config)
    train_step = losses.get_step_fn(noise, graph, True, optimize_fn, 2)
    eval_step = losses.get_step_fn(noise, graph, False, optimize_fn, 2)
    x0, other, _, _ = given()
    # each step draws anew: SEDD's compiled dropout draws although it drops nothing
    history = [seeded(train_step, state, batch).detach() for batch in (x0, other) * 4]
    history.append(seeded(eval_step, state, x0))
    Path(folder, "checkpoints-meta").mkdir(parents=True)
    Path(folder, ".hydra").mkdir()
    omegaconf.OmegaConf.save(config, f"{folder}/.hydra/config.yaml")
    utils.save_checkpoint(f"{folder}/checkpoints-meta/checkpoint.pth", state)
    return {
        "step": state["step"],
        "lr": [float(group["lr"]) for group in optimizer.param_groups],
        "losses": history,
        "weights": [weight.detach() for weight in model.parameters()],
        "average": [weight.clone() for weight in ema.shadow_params],
    }


def loaded(load, folder):
    """The log-scores of a model that ``load_model`` reads."""
    model, graph, noise = load(folder, torch.device("cpu"))
    x0, _, _, t = given()
    assert graph.dim == model.state_dict()["vocab_embed.embedding"].shape[0]
    return model.eval()(x0, noise(t)[0]).detach()


def hub_folder(config, folder):
    settings = omegaconf.OmegaConf.to_container(config, resolve=True)
    new_model(config).save_pretrained(folder, config=settings)


def blocks(tree):
    import data

    class Tokenizer:
        @staticmethod
        def from_pretrained(name):
            return transformers.AutoTokenizer.from_pretrained(TOKENIZER)

    data.GPT2TokenizerFast = Tokenizer
    found = {}
    for mode in ("train", "validation"):
        rows = data.get_dataset(
            "speeches", mode, cache_dir=f"{tree}-cache", block_size=L, num_proc=1
        )
        rows = torch.utils.data.DataLoader(rows, batch_size=len(rows))
        found[mode] = next(iter(rows))["input_ids"]
    return found


def compute(tree):
    configs = omegaconf.OmegaConf.load("settings.yaml").values()
    for config in configs:
        hub_folder(config, f"{tree}-hub/{config.name}")
    return {
        "values": {config.name: scores_and_losses(config) for config in configs},
        "samples": {config.name: samples(config) for config in configs},
        "training": {
            config.name: train(config, f"{tree}-runs/{config.name}") for config in configs
        },
        "blocks": blocks(tree),
    }


def cross(tree):
    """What a tree makes of the files of the other."""
    import load_model

    other = TREES[1 - TREES.index(tree)]
    configs = omegaconf.OmegaConf.load("settings.yaml").values()
    found = {}
    for config in configs:
        run, again = f"{other}-runs/{config.name}", f"{tree}-again/{config.name}"
        for name, owner in (("own", tree), ("other's", other)):
            found[f"{config.name}, {name} hub folder"] = loaded(
                load_model.load_model_hf, f"{owner}-hub/{config.name}"
            )
        found[f"{config.name}, run"] = loaded(load_model.load_model_local, run)
        found[f"{config.name}, resumed"] = train(config, again, resume=run)
    return found


def main(tree, stage):
    torch.set_num_threads(1)
    found = {"compute": compute, "cross": cross}[stage](tree)
    torch.save(found, f"{tree}-{stage}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])


# the tests -------------------------------------------------------------------------------------


def run(root, work, tree, stage, **environment):
    paths = [str(root), str(FLASH)] if tree == "sedd" else [str(root)]
    environment |= {"PYTHONPATH": os.pathsep.join([*paths, str(REPOSITORY)])}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, tree, stage]
    done = subprocess.run(
        command, cwd=work, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(work / f"{tree}-{stage}.pt", weights_only=True)


@pytest.fixture(scope="module")
def work(sedd_root, random_weights, tmp_path_factory):
    """A folder with settings, weights and a text for both trees, which they fill."""
    folder = tmp_path_factory.mktemp("sedd")
    settings, weights = {}, {}
    torch.manual_seed(1)
    with hydra.initialize_config_dir(str(OURS / "configs"), version_base=None):
        for name, overrides in SETTINGS.items():
            settings[name] = hydra.compose("config", [*TINY, *overrides, f"+name={name}"])
            weights[name] = random_weights(settings[name])
    omegaconf.OmegaConf.save(settings, folder / "settings.yaml")
    torch.save(weights, folder / "weights.pt")
    (folder / "speeches").mkdir()
    line = "we the people of the united states, in order to form a more perfect union, "
    (folder / "speeches" / "train.txt").write_text("\n".join(line * n for n in (3, 1, 2)) + "\n")
    (folder / "speeches" / "validation.txt").write_text(line + "\n")
    return folder


@pytest.fixture(scope="module")
def ours(work):
    return run(OURS, work, "ours", "compute")


@pytest.fixture(scope="module")
def theirs(sedd_root, work):
    return run(sedd_root, work, "sedd", "compute")


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_the_keys_and_values_of_the_configuration_are_sedds(sedd_root):
    for file in ("config.yaml", "model/small.yaml", "model/medium.yaml"):
        trees = (OURS, sedd_root)
        found, wanted = (omegaconf.OmegaConf.load(tree / "configs" / file) for tree in trees)
        for config in (found, wanted):
            config.pop("hydra", None)
            config.pop("defaults", None)
        assert found == wanted


@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_rates_and_losses(ours, theirs, setting):
    found, wanted = (tree["values"][setting] for tree in (ours, theirs))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name in ("names", "dim"):
            assert found[name] == value
        else:  # SEDD's ratio of the uniform graph is the difference of two near numbers
            close(found[name], value, 2e-4 if "entropy" in name or "loss" in name else 1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_seed_draws_the_same_tokens(ours, theirs, setting):
    found, wanted = (tree["samples"][setting] for tree in (ours, theirs))
    assert found.keys() == wanted.keys()
    for name, tokens in wanted.items():
        assert torch.equal(found[name], tokens), name
    assert len({tuple(tokens.flatten().tolist()) for tokens in wanted.values()}) > 5


@pytest.mark.skipif(importlib.util.find_spec("flash_attn"), reason="flash-attn is installed")
def test_rotary_in_plain_torch_is_sedds(sedd_root):
    spec = importlib.util.spec_from_file_location("rotary", Path(sedd_root) / "model" / "rotary.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    qkv = torch.randn(2, 5, 3, 4, 8)
    tables = theirs.Rotary(8)(qkv)
    assert torch.equal(remedies.turned(qkv, *tables), theirs.apply_rotary_pos_emb(qkv, *tables))


@pytest.mark.parametrize("setting", SETTINGS)
def test_training(ours, theirs, setting):
    found, wanted = (tree["training"][setting] for tree in (ours, theirs))
    assert wanted["step"] == 4 and wanted["lr"] == [1e-2]
    close(found, wanted, tolerance=1e-4)


def test_blocks_of_a_text(ours, theirs):
    for mode, tokens in theirs["blocks"].items():
        assert len(tokens) > 2
        assert torch.equal(ours["blocks"][mode], tokens)


def test_each_reads_the_files_of_the_other(sedd_root, work, ours, theirs):
    """SEDD reads ours as torch.load stands; for its own numpy scalars it needs the variable."""
    assert torch.serialization.get_unsafe_globals_in_checkpoint(
        work / "sedd-runs" / "absorb" / "checkpoints-meta" / "checkpoint.pth"
    )
    found = run(OURS, work, "ours", "cross"), run(sedd_root, work, "sedd", "cross")
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        close(found[0][name], found[1][name], tolerance=1e-4)
    for setting in SETTINGS:
        for tree in found:
            hubs = (tree[f"{setting}, {whose} hub folder"] for whose in ("own", "other's"))
            close(*hubs)
            assert tree[f"{setting}, resumed"]["step"] == 8
