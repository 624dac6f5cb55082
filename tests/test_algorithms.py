"""IDLM in the standalone host: what is trained, saved and resumed."""

import copy
import gc
import types
import weakref

import hydra
import lightning
import pytest
import torch

from duo_ext import ALGORITHMS, Refused
from duo_ext.core import adapters
from duo_ext.core.networks import Tempered
from duo_ext.core.samplers import SAMPLERS, ancestral, blank, grids
from duo_ext.measuring import draws
from duo_ext.trainer import manual_trainer
from duo_ext.training import loaders
from duo_ext.weights import checkpoints

TEACHERS = {"idlm": "duo_base", "idlm_mdlm": "mdlm", "idlm_dcd": "distillation"}
RECIPE = (
    "algo.fake_warmup=1",
    "algo.fake_ratio=2",
    "algo.fake_lr=1e-2",
    "optim.lr=1e-2",
    "loader.batch_size=2",  # two micro-batches an update
    "model.dropout=0.1",
    "trainer.max_steps=2",
    "checkpointing.resume_from_ckpt=false",
)
MICRO_BATCHES = 14  # of two pairs
SHARED = "algo.shared_forward=true"
ADAPTED = ("algo.adapter.rank=3", "algo.adapter.whole=['*.bias']")
HALVED = "algo.adapter.frozen=bf16"


@pytest.fixture
def distil(standalone, tiny, tokenizer, teacher, tmp_path, monkeypatch):
    """``distil("idlm", ...)`` runs a small distillation and returns the algorithm."""
    monkeypatch.chdir(tmp_path)
    paths = {}

    def run(name, *overrides, save_after=None, resume=None):
        if name not in paths:
            paths[name] = teacher(TEACHERS[name])
        config = tiny(f"algo={name}", f"algo.teacher_path={paths[name]}", *RECIPE, *overrides)
        cls = hydra.utils.get_class(ALGORITHMS[name])
        lightning.seed_everything(config.seed, verbose=False)
        model = cls(config, tokenizer)
        train, _ = standalone.module("dataloader").get_dataloaders(config, tokenizer)
        trainer = manual_trainer(
            callbacks=[Watch(save_after)],
            accelerator="cpu",
            max_steps=config.trainer.max_steps,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, train, ckpt_path=resume, weights_only=True)
        return model

    return run


class Watch(lightning.Callback):
    """Keeps the batches that were seen; saves after a number of them."""

    def __init__(self, save_after):
        self.save_after = save_after

    def on_train_start(self, trainer, pl_module):
        pl_module.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.seen.append(batch["input_ids"])
        if len(pl_module.seen) == self.save_after:
            trainer.save_checkpoint("middle.ckpt")


def state(model):
    return [
        *model.backbone.state_dict().values(),
        *model.ema.shadow_params,
        *model.opponents.fake.state_dict().values(),
    ]


@pytest.mark.parametrize("name", TEACHERS)
def test_student_moves_and_teacher_does_not(distil, name):
    model = distil(name)
    given = checkpoints.read(model.config.algo.teacher_path, "path")
    teacher = list(model.opponents.teacher.parameters())
    averages = given["ema"]["shadow_params"]
    assert all(map(torch.equal, teacher, averages))
    assert not any(map(torch.equal, model.backbone.parameters(), averages))
    assert model.distiller.pairs == model.trainer.global_step == 2
    assert model.ema.num_updates == 2


@pytest.mark.parametrize("noising", ["categorical", "gaussian"])
def test_both_noisings_train(distil, noising):
    model = distil("idlm", f"algo.noising={noising}", "algo.prompt_length=3")
    assert model.distiller.pairs == 2


def test_the_posterior_is_what_was_asked_for(distil):
    plain, asked = (distil("idlm", f"algo.posterior={told}") for told in (False, True))
    assert not plain.process.posterior and asked.process.posterior
    assert not all(map(torch.equal, state(plain), state(asked)))


RECIPES = (("idlm",), ("idlm_mdlm",), ("idlm", SHARED), ("idlm", *ADAPTED))
RECIPES += (("idlm", *ADAPTED, HALVED, "algo.adapter.targets=['*']"),)


@pytest.mark.parametrize("recipe", RECIPES, ids="-".join)
@pytest.mark.parametrize("after", [1, 2, 5, 7, 8, 9])
def test_resume_is_exact_in_every_phase(distil, recipe, after):
    """1, 2: fake warm-up; 5: amid a fake update; 7: amid the student's; 8, 9: around a pair."""
    straight = distil(*recipe)
    distil(*recipe, save_after=after)
    resumed = distil(*recipe, resume="middle.ckpt")
    assert len(straight.seen) == MICRO_BATCHES - 4 * (SHARED in recipe)
    assert all(map(torch.equal, resumed.seen, straight.seen[after:]))
    assert len(resumed.seen) == len(straight.seen) - after
    assert all(map(torch.equal, state(resumed), state(straight)))


def test_a_checkpoint_that_was_resumed_is_given_back_before_training_begins(distil, monkeypatch):
    """Of what it holds only the moments live on, as those of the optimizers."""
    from duo_ext import algorithms

    distil("idlm", save_after=5)
    read, alive = [], []
    load = algorithms.IDLM.on_load_checkpoint

    def loaded(model, checkpoint):
        saved = checkpoint["idlm"]["distiller"]
        parts = (checkpoint["state_dict"], saved["fake"])
        read.extend(weakref.ref(tensor) for part in parts for tensor in part.values())
        load(model, checkpoint)

    def step(model, batch, batch_idx):
        gc.collect()
        alive.extend(tensor() for tensor in read if tensor() is not None)
        model.trainer.should_stop = True

    monkeypatch.setattr(algorithms.IDLM, "on_load_checkpoint", loaded)
    monkeypatch.setattr(algorithms.IDLM, "training_step", step)
    model = distil("idlm", resume="middle.ckpt")
    assert len(read) > 60 and not alive
    assert model.trainer._checkpoint_connector._loaded_checkpoint == {}


@pytest.mark.parametrize(("asked", "cores", "given"), [(8, 4, 4), (2, 4, 2), (0, 4, 0), (8, 0, 1)])
def test_a_rank_has_no_more_workers_than_cores(distil, monkeypatch, asked, cores, given):
    monkeypatch.setattr(loaders, "cores", lambda: cores)
    made = []

    class Loader(loaders.ResumableLoader):
        def __init__(self, *parts, num_workers, persistent_workers, **options):
            made.append((num_workers, persistent_workers))
            super().__init__(*parts, **options)

    monkeypatch.setattr(loaders, "ResumableLoader", Loader)
    distil("idlm", f"loader.num_workers={asked}", "trainer.max_steps=1")
    assert made == [(given, given > 0)]


def test_blocks_that_are_computed_again_train_the_same_student(distil):
    plain, again = distil("idlm"), distil("idlm", "algo.recompute_blocks=true")
    networks = (again.backbone, again.opponents.fake, again.opponents.teacher)
    assert all("forward" in vars(block) for network in networks for block in network.blocks)
    assert all(map(torch.equal, state(again), state(plain)))


@pytest.mark.parametrize("name", ["idlm", "idlm_mdlm"])
def test_checkpoint_is_the_students_and_samples_as_its_base(
    distil, standalone, tiny, tokenizer, name
):
    """The host's own class loads it as algo=mdlm or duo_base and samples the EMA student."""
    model = distil(name, save_after=MICRO_BATCHES)
    saved = checkpoints.read("middle.ckpt", "path")
    assert {key.split(".")[0] for key in saved["state_dict"]} == {"backbone"}
    assert len(saved["optimizer_states"]) == 1
    assert set(saved["ema"]) == {"decay", "num_updates", "shadow_params"}
    base = TEACHERS[name]
    config = tiny(f"algo={base}", "sampling.predictor=ancestral")
    plain = (
        standalone.module("main")
        .ALGORITHMS[base]
        .load_from_checkpoint("middle.ckpt", config=config, tokenizer=tokenizer, weights_only=True)
    )
    samples = []
    for drawn in (model, plain):
        torch.manual_seed(5)
        samples.append(drawn.restore_model_and_sample(num_steps=3))
    assert torch.equal(*samples)


def test_padding_and_prompt_are_given(distil, monkeypatch):
    from duo_ext.core import distiller

    seen = []
    step = distiller.Distiller.step
    monkeypatch.setattr(
        distiller.Distiller,
        "step",
        lambda self, x, given: seen.append(given) or step(self, x, given),
    )
    distil("idlm", "algo.prompt_length=3", "data.wrap=false")
    prompt, rest = seen[0][:, :3], seen[0][:, 3:]
    assert prompt.all() and not rest.all()


LOOKS = (
    "algo.guard.every=1",
    "algo.guard.steps=[2]",
    "algo.guard.samples=4",
    "algo.guard.teacher_steps=2",
)


class NoJudge:
    name = "none"

    def __init__(self, *_, key):
        pass

    def score(self, texts, ranks):
        return None

    def warn_of_unread(self, texts):
        assert texts


def test_a_run_that_the_guard_stopped_stays_stopped(distil, monkeypatch, tmp_path):
    """Stopped after its first pair, it takes no other when it is started again."""
    from duo_ext.measuring import judge, metrics

    row = {"genppl": 9.0, "entropy": 2.0, "unigram_kl": 9.0, "bigram_tv": 0.0}
    monkeypatch.setattr(metrics, "measure", lambda *_: row)
    monkeypatch.setattr(judge, "Judge", NoJudge)
    stopped = distil("idlm", *LOOKS, "algo.guard.patience=1")
    assert stopped.distiller.pairs == 1 and len(stopped.seen) == 8
    stopped.trainer.save_checkpoint("last.ckpt")
    again = distil("idlm", *LOOKS, "algo.guard.patience=1", resume="last.ckpt")
    assert again.distiller.pairs == 1 and again.seen == []


@pytest.mark.parametrize("name", ["idlm", "idlm_mdlm"])
def test_the_hosts_commands_draw_as_algo_sampler_says(tiny, tokenizer, name):
    """By the host's own sampler, unless another is named, or other times."""
    from duo_ext import algorithms

    drawn = {}
    for own in ((), ("algo.sampler=spread", "algo.grid=power:2"), ("algo.grid=linear",)):
        config = tiny(f"algo={name}", "sampling.steps=3", *own)
        cls = hydra.utils.get_class(ALGORITHMS[name])
        torch.manual_seed(1)
        model = cls(config, tokenizer)
        torch.manual_seed(2)
        drawn[own] = model.generate_samples(num_samples=4, eps=1e-5)
    plain, by_spread, linear = drawn.values()
    torch.manual_seed(2)
    base = super(algorithms.Distillation, model).generate_samples(num_samples=4, eps=1e-5)
    assert torch.equal(plain, base)
    process = model.family.noisings["categorical"](model)
    student = Tempered(model.backbone, model.time_conditioning)
    for found, sampler, grid in (
        (by_spread, SAMPLERS["spread"], "power:2"),
        (linear, ancestral.sample, "linear"),
    ):
        torch.manual_seed(2)
        start = blank(student, (4, model.num_tokens))
        assert torch.equal(found, sampler(process, student, *start, grids.times(grid, 3)))


@pytest.mark.parametrize("removal", ["ancestral", "greedy", "none"])
@pytest.mark.parametrize("name", ["idlm", "idlm_mdlm"])
def test_a_look_draws_the_average_student_by_the_cores_sampler(distil, monkeypatch, name, removal):
    """In evaluation, as the teacher; the host's sampler is not called."""
    from duo_ext.measuring import judge, metrics

    seen = []
    row = {"genppl": 9.0, "entropy": 2.0, "unigram_kl": 0.0, "bigram_tv": 0.0}
    monkeypatch.setattr(metrics, "measure", lambda tokens_NL, *_: seen.append(tokens_NL) or row)
    monkeypatch.setattr(judge, "Judge", NoJudge)
    last = f"sampling.noise_removal={removal}"
    model = distil(name, *LOOKS, "algo.guard.samples=20", last)
    assert model.training and model.backbone.training
    process = model.family.noisings["categorical"](model)
    average = copy.deepcopy(model.backbone).eval()
    for parameter, shadow in zip(average.parameters(), model.ema.shadow_params, strict=True):
        parameter.data.copy_(shadow)
    teacher = copy.deepcopy(model.opponents.teacher).eval()
    for network, found in ((teacher, seen[0]), (average, seen[-1])):
        student = Tempered(network, model.time_conditioning)
        process.uniforms = draws.of_texts(model.config.seed, 0, 20)
        start = blank(student, (20, 16))
        drawn = ancestral.sample(process, student, *start, grids.times("host", 2), removal)
        assert torch.equal(drawn, found)


@pytest.mark.parametrize(
    ("name", "setting", "told"),
    [
        ("idlm_mdlm", "sampling.use_float64=false", "use_float64 is 'False'; .* it must be True"),
        ("idlm_mdlm", "sampling.predictor=analytic", "predictor is 'analytic'; .* ancestral or"),
    ],
)
def test_sampling_that_the_guard_cannot_do_is_refused_at_once(tiny, tokenizer, name, setting, told):
    from duo_ext import algorithms

    make = {"idlm": algorithms.IDLM, "idlm_mdlm": algorithms.IDLMMDLM}[name]
    config = tiny(f"algo={name}", "algo.teacher_path=none", setting)
    assert make(config, tokenizer)  # without a guard
    config.algo.guard.every = 10
    with pytest.raises(Refused, match=told):
        make(config, tokenizer)


def test_an_order_of_masks_is_refused_where_there_are_none(tiny, tokenizer):
    """With and without a guard: the checkpoint would name a sampler that cannot draw from it."""
    from duo_ext import algorithms

    config = tiny("algo=idlm", "algo.teacher_path=none", "algo.sampler=comb")
    with pytest.raises(Refused, match="sampler is 'comb', which needs a process that has masks"):
        algorithms.IDLM(config, tokenizer)
    config = tiny("algo=idlm_mdlm", "algo.teacher_path=none", "algo.sampler=comb")
    assert algorithms.IDLMMDLM(config, tokenizer)


def test_a_start_from_other_weights_than_the_teachers_is_refused(tiny, tokenizer):
    from duo_ext import algorithms

    config = tiny("algo=idlm", "algo.teacher_path=none", "training.finetune_path=x.ckpt")
    with pytest.raises(Refused, match=r"training.finetune_path is 'x.ckpt'; .* must be empty"):
        algorithms.IDLM(config, tokenizer)


def test_a_run_without_looks_hands_the_guards_state_on(distil, monkeypatch):
    """Switched on again, the guard knows the looks before."""
    from duo_ext.measuring import judge, metrics

    row = {"genppl": 9.0, "entropy": 2.0, "unigram_kl": 0.0, "bigram_tv": 0.0}
    monkeypatch.setattr(metrics, "measure", lambda *_: dict(row))
    monkeypatch.setattr(judge, "Judge", NoJudge)
    distil("idlm", *LOOKS, save_after=4)
    first = checkpoints.read("middle.ckpt", "path")["idlm"]["guard"]
    distil("idlm", "algo.guard.every=0", save_after=1, resume="middle.ckpt")
    assert first and checkpoints.read("middle.ckpt", "path")["idlm"]["guard"] == first


def test_a_noise_that_the_guard_does_not_know_is_refused(tiny, tokenizer, standalone, monkeypatch):
    from duo_ext import algorithms

    noise = standalone.module("trainer_base").LogLinear
    monkeypatch.setattr(noise, "forward", lambda self, t: (-1, 1 - t**2))
    with pytest.raises(Refused, match="noise is not log-linear, which the guard needs"):
        algorithms.IDLM(
            tiny("algo=idlm", "algo.teacher_path=none", "algo.guard.every=1"), tokenizer
        )


def test_guard_keeps_the_best_student(distil, monkeypatch, tmp_path):
    """Two looks, one outside the bounds: best.ckpt is the other's student."""
    from duo_ext.measuring import judge, metrics

    entropies = iter([2.0, 2.01, 3.0])  # the teacher's, then the student's after 1 and 2 pairs

    def measure(*_):
        return {"genppl": 9.0, "entropy": next(entropies), "unigram_kl": 0.0, "bigram_tv": 0.0}

    monkeypatch.setattr(metrics, "measure", measure)
    monkeypatch.setattr(judge, "Judge", NoJudge)
    model = distil("idlm", *LOOKS, "algo.guard.word_length=9", save_after=8)
    assert model.watch.guard.kept == 1
    best = checkpoints.read(str(tmp_path / "checkpoints/best.ckpt"), "path")
    middle = checkpoints.read("middle.ckpt", "path")
    pairs = zip(best["ema"]["shadow_params"], middle["ema"]["shadow_params"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert (tmp_path / "guard.json").exists()


def test_no_copy_of_the_weights_stays_behind_a_look(standalone):
    """The hosts' averages keep what they have stored."""
    from duo_ext.training import looks

    ema, student = types.SimpleNamespace(collected_params=["weights"]), torch.nn.Module()
    model = types.SimpleNamespace(
        ema=ema, backbone=student, _eval_mode=lambda: None, _train_mode=lambda: None
    )
    with looks._network(model, teacher=False) as network:
        assert network is student
    assert ema.collected_params == []


def test_a_class_refuses_the_process_of_another(tiny, tokenizer, standalone):
    from duo_ext import algorithms

    config = tiny("algo=idlm_mdlm", "algo.teacher_path=none")
    with pytest.raises(Refused, match=r"^algo.process is 'absorbing'; IDLM distils 'uniform'$"):
        algorithms.IDLM(config, tokenizer)


@pytest.fixture
def adapted(distil):
    pytest.importorskip("peft")
    return lambda *overrides, **more: distil("idlm_mdlm", *ADAPTED, *overrides, **more)


def test_adapters_alone_are_trained_averaged_and_kept(adapted):
    model = adapted(save_after=MICRO_BATCHES)
    given = checkpoints.read(model.config.algo.teacher_path, "path")["ema"]["shadow_params"]
    assert all(map(torch.equal, model.opponents.teacher.parameters(), given))
    trained = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name or name.endswith(".bias") for name in trained)
    saved = checkpoints.read("middle.ckpt", "path")
    own, moments = saved["idlm"]["adapter"], saved["optimizer_states"][0]["state"]
    assert list(own["weights"]) == list(own["average"]) == trained
    assert len(own["average"]) == len(moments) == len(trained) == len(model.ema.shadow_params)
    assert saved["idlm"]["distiller"]["fake"].keys() == {*trained, "rotary_emb.inv_freq"}


@pytest.mark.parametrize("frozen", adapters.FROZEN)
@pytest.mark.parametrize("precision", ["mixed", "bf16"])
def test_adapters_train_in_each_precision_and_the_way_to_less_memory(adapted, precision, frozen):
    way = f"algo.precision={precision}", "algo.recompute_blocks=true"
    model = adapted(*way, f"algo.adapter.frozen={frozen}")
    assert model.distiller.pairs == 2
    trained = adapters.trained(model.backbone)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trained)


@pytest.mark.parametrize("frozen", adapters.FROZEN)
def test_an_adapted_student_is_saved_as_a_plain_one_of_the_host(
    adapted, standalone, tokenizer, frozen
):
    model = adapted(f"algo.adapter.frozen={frozen}", save_after=MICRO_BATCHES)
    host = standalone.module("algo").MDLM(model.config, tokenizer)
    saved = checkpoints.denoiser(checkpoints.read("middle.ckpt", "path"))
    assert list(saved.weights) == list(host.backbone.state_dict())
    checkpoints.fill(host.backbone, saved, model.config, "path")
    merged = adapters.merged(model.backbone, model.ema.shadow_params)
    assert all(map(torch.equal, host.backbone.parameters(), merged.parameters()))
    assert not all(
        map(torch.equal, host.backbone.parameters(), model.opponents.teacher.parameters())
    )
    checkpoints.load(host.backbone, saved, average=False)
    merged = adapters.merged(model.backbone)
    assert all(map(torch.equal, host.backbone.parameters(), merged.parameters()))


def test_the_guard_draws_what_the_hosts_network_draws(adapted, standalone, tokenizer, monkeypatch):
    """To the last bit, from the weights of the checkpoint that it keeps."""
    from duo_ext.measuring import judge, metrics
    from duo_ext.training import looks

    seen = []
    row = {"genppl": 9.0, "entropy": 2.0, "unigram_kl": 0.0, "bigram_tv": 0.0}
    monkeypatch.setattr(metrics, "measure", lambda tokens_NL, *_: seen.append(tokens_NL) or row)
    monkeypatch.setattr(judge, "Judge", NoJudge)
    model = adapted(*LOOKS, "algo.guard.samples=20", save_after=MICRO_BATCHES)
    host = standalone.module("algo").MDLM(model.config, tokenizer).eval()
    saved = checkpoints.denoiser(checkpoints.read("middle.ckpt", "path"))
    checkpoints.fill(host.backbone, saved, model.config, "path")
    with looks._network(model, teacher=False) as network:
        assert all(map(torch.equal, network.parameters(), host.backbone.parameters()))
    process = model.family.noisings["categorical"](model)
    process.uniforms = draws.of_texts(model.config.seed, 0, 20)
    student = Tempered(host.backbone, model.time_conditioning)
    start = blank(student, (20, 16))
    found = ancestral.sample(process, student, *start, grids.times("host", 2), "ancestral")
    assert torch.equal(found, seen[-1])


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("algo.adapter.rank=3", "algo.adapter.rank=4", "its algo.adapter.rank is 3, this run's 4"),
        ("algo.adapter.rank=0", "algo.adapter.rank=3", "its algo.adapter.rank is 0, this run's 3"),
        ("algo.adapter.rank=3", "algo.adapter.rank=0", "its algo.adapter.rank is 3, this run's 0"),
        (
            "algo.adapter.alpha=1",
            "algo.adapter.alpha=2",
            "its algo.adapter.alpha is 1, this run's 2",
        ),
        (
            "algo.adapter.alpha=null",
            HALVED,
            "its algo.adapter.frozen is float32, this run's bf16",
        ),
    ],
)
def test_a_run_goes_on_with_its_own_adapters_alone(adapted, before, after, told):
    adapted(before, save_after=2)
    with pytest.raises(Refused, match=f"another run .{told}"):
        adapted(after, resume="middle.ckpt")


def test_an_earlier_versions_run_had_full_networks(adapted):
    adapted("algo.adapter.rank=0", save_after=2)
    saved = torch.load("middle.ckpt", weights_only=False)
    for key in list(saved["idlm"]["run"]):
        if key.startswith("algo.adapter"):
            del saved["idlm"]["run"][key]
    torch.save(saved, "middle.ckpt")
    with pytest.raises(Refused, match=r"its algo.adapter.rank is 0, this run's 3"):
        adapted(resume="middle.ckpt")
    adapted("algo.adapter.rank=0", resume="middle.ckpt")


def test_the_teacher_is_known_by_its_file_however_its_weights_are_held(adapted):
    known = [adapted(*way).opponents.teacher_sha256 for way in ((), (HALVED,))]
    assert known[0] == known[1]


def test_an_earlier_versions_adapters_were_on_float32(adapted):
    adapted(save_after=2)
    saved = torch.load("middle.ckpt", weights_only=False)
    del saved["idlm"]["run"]["algo.adapter.frozen"]
    torch.save(saved, "middle.ckpt")
    with pytest.raises(Refused, match=r"its algo.adapter.frozen is float32, this run's bf16"):
        adapted(HALVED, resume="middle.ckpt")
    adapted(resume="middle.ckpt")
