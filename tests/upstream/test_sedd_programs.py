"""``python -m sedd_ext`` in a SEDD checkout: runs and samples against the standalone tree's, the
loss, the scores and the files against SEDD's own code. SEDD_ROOT names the checkout.

As a program, ``test_sedd_programs.py STAGE ROOT WORK OUTPUT``, this file is what one tree computes,
in a process of its own, because the modules of two have the same names.
"""

import json
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import omegaconf
import pytest
import torch

from duo_ext import host
from duo_ext.data import corpus
from duo_ext.weights import checkpoints
from sedd_ext import host as sedd_host
from sedd_ext import runs

TREES = ("standalone", "sedd")
ADAPTERS = ("algo.adapter.rank=3", "algo.adapter.whole=['*.bias']")
HALVED = (*ADAPTERS, "algo.adapter.frozen=bf16", "algo.adapter.targets=['*']")  # and the head
STUDENTS = {"student": (), "adapted": ADAPTERS, "halved": HALVED}
KINDS = ("teacher", *STUDENTS)
PREDICTORS = ("analytic", "euler")
MODELS = {"scaled": True, "unscaled": False}
NOISES = {
    "loglinear": {"type": "loglinear"},
    "geometric": {"type": "geometric", "sigma_min": 0.01, "sigma_max": 3.0},
}
B, V, MASK = 6, 33, 32


# the program -----------------------------------------------------------------------------------


def settings(work, **sections):
    """The configuration of the teacher's run with other values in some sections."""
    config = omegaconf.OmegaConf.load(f"{work}/{runs.CONFIG}")
    return omegaconf.OmegaConf.merge(config, sections)


def model_of(tree, config, work):
    model = tree.module("model").SEDD(config)
    model.load_state_dict(torch.load(f"{work}/weights.pt", weights_only=True))
    return model.eval()


def given(length):
    """Tokens x0 (B, L), where x_t is masked, where z is, times (B,)."""
    generator = torch.Generator().manual_seed(5)
    x0 = torch.randint(MASK, (B, length), generator=generator)
    hidden, masked = torch.rand(2, B, length, generator=generator) < 0.6
    return x0, hidden, masked, torch.linspace(0.05, 0.95, B, dtype=torch.float64)


def input_of_scores(length):
    x0, hidden, _, t = given(length)
    return torch.where(hidden, MASK, x0), t.float()


def scores(tree, work):
    """The log-scores of one state dict."""
    found = {}
    for name, scaled in MODELS.items():
        config = settings(work, model={"scale_by_sigma": scaled})
        model = model_of(tree, config, work)
        with torch.no_grad():
            found[name] = model(*input_of_scores(config.model.length))
    return found


class Oracle(torch.nn.Module):
    """A student that knows x0: its softmax is one-hot."""

    def __init__(self, x0_BL):
        super().__init__()
        self.known_BLV = torch.nn.functional.one_hot(x0_BL, V).double()
        self.output_layer = torch.nn.Module()
        self.output_layer.linear = torch.nn.Linear(V, V, bias=False)
        torch.nn.init.eye_(self.output_layer.linear.weight).data.mul_(1e4)

    def forward(self, x_BL, sigma_B):
        return self.output_layer.linear(self.known_BLV)


def losses(tree, work, noise, scaled):
    """(the host's loss, ours), sums over one batch at one-hot tokens, float64."""
    from duo_ext.core.networks import Denoiser
    from sedd_ext.parts import Parts

    model = {"scale_by_sigma": scaled}
    config = settings(work, model=model, noise=NOISES[noise], algo={"on_policy": 0.0})
    parts = Parts.build(config, torch.device("cpu"))
    parts.model.load_state_dict(torch.load(f"{work}/weights.pt", weights_only=True))
    # SEDD makes float32 of sigma
    parts.model.eval().sigma_map.mlp.register_forward_pre_hook(lambda _, args: args[0].double())
    x0, hidden, masked, t = given(config.model.length)
    loss_fn = tree.module("losses").get_loss_fn(parts.noise, parts.graph, train=False)
    theirs = loss_fn(parts.model, x0, t=t, perturbed_batch=torch.where(hidden, MASK, x0))

    process = parts.process()
    alpha, dalpha = process.schedule(t)
    weight = (dalpha / (1 - alpha))[:, None].expand_as(hidden)
    z = torch.where(masked, MASK, x0)  # xhat is the student's where masked, else the token
    none = torch.zeros_like(hidden)  # all masks are written by the step that z is compared by
    process._draw = lambda *_: (z, alpha, hidden, none, alpha, weight)
    networks = (Denoiser(network, True) for network in (Oracle(x0), parts.model))
    ours = process.fake_loss(*networks, x0, torch.zeros_like(hidden))
    return theirs.sum().item(), ours.item() * x0.numel()


def compute(tree, work):
    """Scores, losses, and a folder of the hub as ``save_pretrained`` writes it."""
    corpus.register_resolvers()
    config = settings(work)
    plain = omegaconf.OmegaConf.to_container(config, resolve=True)
    model_of(tree, config, work).save_pretrained(f"{work}/hub-{tree.name}", config=plain)
    found = {"scores": scores(tree, work), "losses": {}}
    torch.set_default_dtype(torch.float64)
    for noise in NOISES:
        for name, scaled in MODELS.items():
            found["losses"][noise, name] = losses(tree, work, noise, scaled)
    return found


class Float64(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, sigma):
        return self.model(x, sigma).double()


def draw(tree, run):
    """Tokens by the host's own load_model and sampler, in float64, its prompt given as in
    run_sample_cond.py."""
    cpu = torch.device("cpu")
    model, graph, noise = tree.module("load_model").load_model(run, cpu)
    prompt = json.loads(Path(run, "prompt.json").read_text())

    def project(x):
        x[:, prompt["places"]] = torch.tensor(prompt["tokens"])
        return x

    found = {}
    for predictor in PREDICTORS:
        sampler = tree.module("sampling").get_pc_sampler(
            graph, noise, (8, 16), predictor, 3, device=cpu, proj_fun=project
        )
        torch.manual_seed(1)
        found[predictor] = project(sampler(Float64(model)))
    return found


def duo(root, work):
    """Logits of Duo's DIT."""
    config = settings(work)
    models = host.find(root).activate().module("models")
    network = {"model": config.model, "algo": {"causal_attention": False}}
    model = models.dit.DIT(omegaconf.OmegaConf.create(network), V).eval()
    model.load_state_dict(torch.load(f"{work}/weights.pt", weights_only=True))
    with torch.no_grad():
        return model(*input_of_scores(config.model.length))


def main(stage, root, work, output):
    torch.set_num_threads(1)
    if stage == "duo":
        found = duo(root, work)
    else:
        found = {"compute": compute, "draw": draw}[stage](sedd_host.find(root).activate(), work)
    torch.save(found, output)


if __name__ == "__main__":
    main(*sys.argv[1:])


# the tests -------------------------------------------------------------------------------------


def run_stage(stage, root, work, output):
    command = [sys.executable, __file__, stage, str(root), str(work), str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output, weights_only=True)


@pytest.fixture(scope="module")
def programs(sedd_root, sedd_program):
    return {"standalone": sedd_program(), "sedd": sedd_program(sedd_root)}


@pytest.fixture(scope="module")
def work(programs, tmp_path_factory):
    return tmp_path_factory.mktemp("sedd")


@pytest.fixture(scope="module")
def trained(programs, work):
    """{(tree, kind): the folder of a run}; all students have SEDD's teacher."""
    found = {(tree, kind): work / tree / kind for kind in KINDS for tree in TREES}
    for tree, kind in found:
        (work / tree).mkdir(exist_ok=True)
        programs[tree](found[tree, kind], *own(kind, work))
    return found


def own(kind, work):
    """The overrides of a run."""
    if kind == "teacher":
        return ()
    return "algo=idlm", f"teacher={work}/sedd/teacher", "algo.fake_warmup=1", *STUDENTS[kind]


def close(found, wanted, rtol=0.0, atol=0.0):
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_both_trees_train_alike(programs, trained, kind):
    ours, theirs = (programs[tree].logged(trained[tree, kind]) for tree in TREES)
    assert [line[0] for line in theirs] == [1, 2, 3, 4] and len(theirs[0]) == 3
    close(torch.tensor(ours), torch.tensor(theirs), rtol=2e-5)  # six digits are logged
    ours, theirs = (programs[tree].weights(trained[tree, kind]) for tree in TREES)
    close(ours, theirs, atol=1e-4)  # Adam enlarges the differences of small gradients


@pytest.mark.parametrize("setting", ["graph.type=nope", "noise.type=nope"])
def test_what_sedd_itself_refuses_is_a_sentence(programs, tmp_path, setting):
    printed = programs["sedd"](tmp_path / "run", setting, code=1)
    assert "error: SEDD refuses this: " in printed and "nope" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_straight_one(programs, trained, work, tmp_path, kind):
    sedd = programs["sedd"]
    sedd(tmp_path / "run", *own(kind, work), "training.n_iters=2")
    sedd(tmp_path / "run", *own(kind, work))
    close(sedd.state(tmp_path / "run"), sedd.state(trained["sedd", kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_with_accumulation(programs, trained, work, tmp_path, kind):
    sedd = programs["sedd"]
    sedd(tmp_path / "two", *own(kind, work), "training.accum=1", processes=2)
    folders = (tmp_path / "two", trained["sedd", kind])
    close(*map(sedd.weights, folders), atol=1e-6)
    two, one = ([line[2] for line in sedd.logged(folder)] for folder in folders)
    assert two == pytest.approx(one, rel=2e-5)


def test_two_processes_look_as_one_does(programs, work, trained, tmp_path):
    """The teacher's texts are the same ones, in the standalone tree too; the second process reads
    the tokens that the first has kept."""
    looks = ("algo.guard.every=2", "algo.guard.steps=[2]", "algo.guard.samples=20")
    looks += (
        "algo.guard.teacher_steps=3",
        "algo.guard.entropy=9",
        "algo.guard.unigram_kl=9",
        "algo.guard.word_length=9",
    )
    found = {}
    for tree, processes in (("standalone", 1), ("sedd", 1), ("sedd", 2)):
        folder, cache = tmp_path / f"{tree}-{processes}", tmp_path / f"tokens-{tree}-{processes}"
        shared = (*own("student", work), *looks, f"data.cache_dir={cache}")
        programs[tree](folder, *shared, "training.micro_batch=2", processes=processes)
        guard = json.loads((folder / "guard.json").read_text())
        found[tree, processes] = guard, len(list(cache.rglob("*.arrow")))
    (one, kept), (two, kept_by_two) = found["sedd", 1], found["sedd", 2]
    assert one["teacher"] == two["teacher"] and [e["pair"] for e in two["history"]] == [2, 4]
    assert kept == kept_by_two > 0
    standalone, _ = found["standalone", 1]
    close(one["teacher"]["entropy"], standalone["teacher"]["entropy"], rtol=1e-3)


@pytest.fixture(scope="module", params=STUDENTS)
def sampled(request, programs, trained, work):
    """{(tree, predictor): the texts that mode=sample draws from SEDD's student}; its folder."""
    ends = ("sampling.samples=8", "sampling.prefix=we", "sampling.suffix=end")
    run = trained["sedd", request.param]
    student = ("mode=sample", f"checkpoint={run}", "sampling.steps=3")
    found = {"run": run}
    for tree in TREES:
        for predictor in PREDICTORS:
            folder = work / tree / request.param / predictor
            programs[tree](folder, *student, *ends, f"sampling.predictor={predictor}")
            content = (folder / "samples" / "samples.json").read_text()
            found[tree, predictor] = json.loads(content)["texts"]
    return found


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_both_trees_draw_the_same_texts(sampled, predictor):
    texts = sampled["sedd", predictor]
    assert len(set(texts)) == 8 and texts == sampled["standalone", predictor]
    assert all(text.startswith("we") and text.endswith("end") for text in texts)


def test_sedds_own_load_model_and_sampler_draw_the_same_tokens(
    sampled, sedd_root, tokenizer, tmp_path
):
    student = sampled["run"]
    we, end = (tokenizer(text, add_special_tokens=False).input_ids for text in ("we", "end"))
    prompt = {"places": [0, 1, 13, 14, 15], "tokens": we + end}
    (student / "prompt.json").write_text(json.dumps(prompt))
    found = run_stage("draw", sedd_root, student, tmp_path / "drawn.pt")
    for predictor in PREDICTORS:
        assert tokenizer.batch_decode(found[predictor]) == sampled["sedd", predictor]


def test_both_trees_have_the_same_finite_bound(programs, trained, tmp_path):
    bounds = {}
    for tree in TREES:
        programs[tree](tmp_path / tree, "mode=eval", f"checkpoint={trained['sedd', 'student']}")
        bounds[tree] = json.loads((tmp_path / tree / "eval.json").read_text())
    assert 0 < bounds["sedd"]["nll"] < 10 and math.isfinite(bounds["sedd"]["ppl"])
    close(bounds["standalone"], bounds["sedd"], rtol=1e-5)


@pytest.fixture(scope="module")
def weights(trained, random_weights, work):
    """A folder with a configuration and random weights, which the trees are given."""
    folder = work / "weights"
    shutil.copytree(trained["sedd", "teacher"] / ".hydra", folder / ".hydra")
    torch.manual_seed(1)
    torch.save(random_weights(settings(folder), std=0.3), folder / "weights.pt")
    return folder


@pytest.fixture(scope="module")
def computed(weights, sedd_root):
    """{tree: what it computes}; SEDD's writes the folder of the hub."""
    roots = {"standalone": sedd_host.STANDALONE, "sedd": sedd_root}
    return {
        tree: run_stage("compute", root, weights, weights / f"{tree}.pt")
        for tree, root in roots.items()
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("tree", TREES)
def test_the_process_has_sedds_loss_at_one_hot_tokens(computed, tree, noise, model):
    theirs, ours = computed[tree]["losses"][noise, model]
    assert theirs == pytest.approx(ours, rel=1e-10) and abs(theirs) > 100


@pytest.fixture(scope="module")
def logits(weights, checkouts):
    """Of Duo's DIT, in its branch ch-1 where DUO_ROOT names a checkout of it."""
    _, root = checkouts["duo ch-1"]
    return run_stage("duo", root or host.STANDALONE, weights, weights / "duo.pt")


@pytest.mark.parametrize("model", MODELS)
def test_one_state_dict_has_the_same_scores_in_duo_too(computed, logits, model):
    x, sigma = input_of_scores(16)
    assert logits.std((0, 1)).mean() > 0.1  # they depend on the input
    wanted = logits
    if MODELS[model]:
        wanted = logits - torch.expm1(sigma).log()[:, None, None] - math.log(MASK)
    wanted = wanted.scatter(-1, x[..., None], 0.0)
    for tree in TREES:
        tolerance = {"atol": 1e-6, "rtol": 1e-6} if MODELS[model] else {}
        close(computed[tree]["scores"][model], wanted, **tolerance)


@pytest.mark.parametrize("tree", TREES)
def test_a_folder_of_the_hub_is_a_teacher(programs, computed, weights, tree, tmp_path):
    """As louaaron/sedd-small: SEDD's own save_pretrained with the configuration as config.json."""
    folder = weights / "hub-sedd"
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors"}
    given = ("algo=idlm", f"teacher={folder}", "training.n_iters=1")
    programs[tree](tmp_path / "run", *given)
    known = runs.read(f"{tmp_path}/run/{runs.LAST}", "last")["idlm"]["run"]["teacher"]
    wanted = torch.load(weights / "weights.pt", weights_only=True)
    assert known == checkpoints.fingerprint(types.SimpleNamespace(state_dict=lambda: wanted))


def test_a_script_in_a_checkout_runs_without_flash_attn(sedd_root, tmp_path):
    """docs/evaluate.md: by ``duo_ext.compat``, as in a checkout of Duo."""
    clone = tmp_path / "sedd"
    subprocess.run(["git", "clone", "-q", str(sedd_root), str(clone)], check=True)
    (clone / "use.py").write_text("from load_model import load_model\nprint(load_model.__name__)\n")
    command = [sys.executable, "-m", "duo_ext.compat", "use.py"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["load_model"], done.stderr[-2000:]
