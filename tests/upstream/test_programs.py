"""Whole runs in the real checkouts: the command lines of README, teachers, students, processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duo_ext import harness, host
from duo_ext.data import corpus
from duo_ext.weights import checkpoints

REPOSITORY = Path(host.__file__).parents[1]
TINY = (
    "data=sotu",
    "model=sotu",
    "model.hidden_size=32",
    "model.cond_dim=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "model.length=16",
    "+machine=cpu",
    "loader.global_batch_size=8",
    "loader.eval_global_batch_size=8",
    "lr_scheduler.num_warmup_steps=1",
    "trainer.precision=32",
    "trainer.max_steps=2",
    "training.ema=0.5",
    "optim.lr=1e-3",
    "eval.gen_ppl_eval_model_name_or_path=${idlm_asset:judge}",
)
BASES = {
    "idlm": ("duo_base", "sampling.predictor=ancestral"),
    "idlm_mdlm": ("mdlm", "sampling.predictor=ancestral_cache"),
}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Overrides for a small text in a folder of its own."""
    folder = tmp_path_factory.mktemp("upstream")
    (folder / "text").mkdir()
    line = "we the people of the united states, in order to form a more perfect union, "
    (folder / "text" / "train.txt").write_text("\n".join(line * 3 for _ in range(8)) + "\n")
    (folder / "text" / "validation.txt").write_text(line * 6 + "\n")
    return (f"data.train={folder}/text", f"data.cache_dir={folder}/tokens")


@pytest.fixture
def run(text, tmp_path):
    """``run("-m duo_ext", "algo=idlm", ...)``: python with these arguments in the tiny setting; its
    output. It fails unless the exit code is ``code``."""

    def call(program, *overrides, out="run", cwd=tmp_path, code=0, tiny=TINY):
        place = f"hydra.run.dir={tmp_path / out}"
        command = [sys.executable, *program.split(), *tiny, *text, place, *overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return call


@pytest.fixture
def weights(standalone, tiny, tmp_path):
    """``weights("idlm")``: the path of a teacher of random weights for an algorithm of ours."""

    def make(algorithm):
        name, _ = BASES[algorithm]
        config = standalone.compose([setting for setting in TINY if "machine" not in setting])
        vocabulary = 33 if name == "mdlm" else 32
        torch.manual_seed(1)
        backbone = standalone.module("models").dit.DIT(config, vocabulary)
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
        path = tmp_path / f"{name}.ckpt"
        torch.save({"state_dict": state}, path)
        return f"algo.teacher_path={path}"

    return make


def student(folder):
    """The average weights of a run's last checkpoint."""
    return checkpoints.denoiser(checkpoints.read(f"{folder}/checkpoints/last.ckpt", "last")).average


@pytest.fixture(params=BASES)
def algorithm(request):
    return request.param


ADAPTERS = ("algo.adapter.rank=3", "algo.adapter.whole=['*.bias']")
HALVED = (*ADAPTERS, "algo.adapter.frozen=bf16", "algo.adapter.targets=['*']")  # and the head


@pytest.fixture(params=[(), ADAPTERS, HALVED], ids=["full", "adapted", "halved"])
def kind(request):
    """Overrides of a distillation: of full networks, or of adapters on one."""
    return request.param


def test_the_host_and_its_remedies_are_listed(run, checkout):
    listed = run(f"-m duo_ext --host {checkout.root} --check")
    assert listed.startswith(f"host: {checkout.name} in {checkout.root}, commit {checkout.commit}")
    assert "stand-in for flash_attn" in listed and "known types in checkpoints" in listed


def test_a_student_is_trained_resumed_and_sampled_by_the_hosts_own_program(
    run, checkout, weights, algorithm, kind, tmp_path
):
    """Resumed = straight, bit for bit; main.py and evaluate draw the same samples from one seed."""
    program, own = (
        f"-m duo_ext --host {checkout.root}",
        (f"algo={algorithm}", weights(algorithm), *kind),
    )
    assert f"host: {checkout}" in run(program, *own, "trainer.max_steps=4", out="straight")
    run(program, *own)
    assert "updates, pair 4 [" in run(program, *own, "trainer.max_steps=4")
    straight, resumed = student(tmp_path / "straight"), student(tmp_path / "run")
    assert all(map(torch.equal, straight, resumed))
    base, sampler = BASES[algorithm]
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    sampling = (
        "mode=sample_eval",
        f"algo={base}",
        sampler,
        "sampling.steps=3",
        f"eval.checkpoint_path={last}",
        f"eval.generated_samples_path={tmp_path}/samples.json",
    )
    run("-m duo_ext.compat main.py", *sampling, cwd=checkout.root, out="sampled")
    theirs = json.loads((tmp_path / "samples.json").read_text())["generated_seqs"]
    precision = "float32" if checkout.samples_masked_in_float32 and base == "mdlm" else "float64"
    ours = evaluated(checkout, last, precision, tmp_path)
    assert len(theirs) == 16 and ours == theirs
    run(program, "mode=ppl_eval", f"algo={base}", sampler, f"eval.checkpoint_path={last}")
    sampling = (sampling[0], *own, *sampling[3:], "algo.sampler=spread", "algo.grid=linear")
    run(program, *sampling, out="spread")
    spread = json.loads((tmp_path / "samples.json").read_text())["generated_seqs"]
    assert len(spread) == 16 and spread != theirs


def test_the_last_two_are_kept_and_blocks_can_be_computed_again(
    run, checkout, weights, algorithm, tmp_path
):
    """A step that was written twice would be both of the two."""
    program, own = f"-m duo_ext --host {checkout.root}", (f"algo={algorithm}", weights(algorithm))
    every = "callbacks.checkpoint_every_n_steps.every_n_train_steps=1"
    own += ("model.dropout=0.1", every, "loader.batch_size=4")
    looks = ("algo.guard.every=1", "algo.guard.steps=[2]", "algo.guard.samples=4")
    looks += (
        "algo.guard.teacher_steps=2",
        "algo.guard.entropy=9",
        "algo.guard.unigram_kl=99",
        "algo.guard.word_length=9",
    )
    run(program, *own, *looks, "trainer.max_steps=3", "algo.recompute_blocks=true", out="again")
    run(program, *own, *looks, "trainer.max_steps=4", "algo.recompute_blocks=true", out="again")
    run(program, *own, "trainer.max_steps=4", out="plain")
    steps = {
        path.name: checkpoints.read(str(path), "path")["global_step"]
        for path in (tmp_path / "again" / "checkpoints").iterdir()
    }
    assert 1 <= steps.pop("best.ckpt") <= 4
    assert steps == {"last.ckpt": 4, "previous.ckpt": 3}
    assert all(map(torch.equal, student(tmp_path / "again"), student(tmp_path / "plain")))


def evaluated(checkout, path, precision, folder):
    """The texts that evaluate draws in a checkout, with the settings of ``sampling`` above."""
    script = """if True:
        import json, sys
        from duo_ext import evaluate, host
        from duo_ext.commands import evaluation, streams
        from duo_ext.data import corpus
        from duo_ext.measuring.subject import Setting
        root, path, precision, output = sys.argv[1:]
        host.find(root).activate()
        corpus.register_resolvers()
        given = ["--student", path, "--samples", "16", "--batch-size", "8", "--seed", "1"]
        given += ["--precision", precision, "--output", "unused"]
        options = evaluation.parse(evaluate.SIDE, given)
        subject = evaluate.load("student", path, options)
        tokens, _, _ = streams.sample([(subject, Setting(3))], options)[0]
        json.dump(subject.model.tokenizer.batch_decode(tokens), open(output, "w"))
    """
    output = folder / "ours.json"
    arguments = [str(checkout.root), str(path), precision, str(output)]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
    return json.loads(output.read_text())


DRAWN = """if True:
    import sys
    from duo_ext import evaluate, host
    from duo_ext.commands import evaluation, streams
    from duo_ext.data import corpus
    from duo_ext.measuring.subject import Setting
    root, path, *settings = sys.argv[1:]
    tree = host.find(root).activate()
    corpus.register_resolvers()
    given = ["--student", path, "--samples", "4", "--output", "unused", *settings]
    options = evaluation.parse(evaluate.SIDE, given)
    subject = evaluate.load("student", path, options)
    base, drawn = tree.module("trainer_base"), set()
    draw = base.sample_categorical
    base.sample_categorical = lambda probs: drawn.add(str(probs.dtype)) or draw(probs)
    streams.sample([(subject, Setting(3))], options)[0]
    print(*drawn)
"""


def test_psi_is_mains_own_sampler_by_its_name(checkout, weights, text):
    """With ReMDM's kappas, for MDLM and Duo; ch-1 has none."""
    for algorithm, base in (("idlm_mdlm", "mdlm"), ("idlm", "duo_base")):
        path = weights(algorithm).partition("=")[2]
        settings = [word for word in (*TINY, *text) if "machine" not in word]
        settings += [f"algo={base}", "--samples", "4", "--steps", "3", "--seed", "1"]
        if checkout.name == "duo main":
            settings += [
                "sampling.psi.middle_mode=max-rescale-0.5",
                "sampling.psi.low_mode=pure-pc",
            ]
        found = {}
        for predictor in ("ancestral", "psi"):
            command = [sys.executable, "-c", TEXTS, str(checkout.root), path, *settings]
            done = subprocess.run(
                [*command, "--predictor", predictor], capture_output=True, text=True
            )
            found[predictor] = done.stdout.splitlines()[-1:]
        if checkout.name == "duo main":
            assert found["psi"] and found["psi"] != found["ancestral"], done.stderr[-2000:]
        else:
            assert "Refused: --predictor is psi, a sampler of Duo's main itself" in done.stderr


TEXTS = """if True:
    import sys
    from duo_ext import evaluate, host
    from duo_ext.commands import options, streams
    from duo_ext.data import corpus
    root, path, *settings = sys.argv[1:]
    host.find(root).activate()
    corpus.register_resolvers()
    given = options.parse(evaluate.SIDE, ["--student", path, "--output", "unused", *settings])
    subject = evaluate.load("student", path, given)
    (setting,) = options.of_subject(subject, [subject], given)
    subject.require(setting, given.precision)
    print(streams.sample([(subject, setting)], given)[0][0].tolist())
"""


@pytest.mark.parametrize("timed", ["false", "true"])
def test_masked_tokens_are_drawn_in_float64(checkout, weights, text, timed):
    """With and without time conditioning, with which main's MDLM takes no predictor."""
    path = weights("idlm_mdlm").partition("=")[2]
    settings = [word for word in (*TINY, *text) if "machine" not in word]
    settings += ["algo=mdlm", f"algo.time_conditioning={timed}"]
    command = [sys.executable, "-c", DRAWN, str(checkout.root), path, *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    if timed == "true" and checkout.name == "duo main":
        assert "Refused: Duo refuses this: assert self.sampler != 'ancestral'" in done.stderr
        return
    assert done.stdout.splitlines()[-1:] == ["torch.float64"], done.stderr[-2000:]


JUDGED = """if True:
    import json, sys
    import torch, transformers
    from duo_ext import host
    root, name, text = sys.argv[1:]
    Metrics = host.find(root).activate().module("metrics").Metrics
    metrics = Metrics(name, 2)
    metrics.record_generative_perplexity([text, text], len(text), "cpu")
    judge = transformers.AutoModelForCausalLM.from_pretrained(name).eval()
    chunks = torch.tensor(metrics.tokenizer(text)["input_ids"]).split(judge.config.n_positions)
    with torch.no_grad():
        losses = [judge(c[None], labels=c[None]).loss * (len(c) - 1) for c in chunks if len(c) > 1]
    predicted = sum(len(chunk) - 1 for chunk in chunks)
    print(metrics.gen_ppl.compute().item(), (sum(losses) / predicted).exp().item())
"""


@pytest.mark.parametrize("length", [100, 128, 300])
def test_texts_longer_than_the_judge_reads_are_judged_in_chunks(checkout, length):
    """The shipped judge reads 127 tokens."""
    judge = corpus.asset("judge")
    text = "we the people of the united states, in order to form a more perfect union. " * 9
    arguments = [str(checkout.root), judge, text[:length]]
    done = subprocess.run(
        [sys.executable, "-c", JUDGED, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, wanted = map(float, done.stdout.splitlines()[-1].split())
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_of_duos_own_training(run, checkout, tmp_path):
    """Its checkpoint holds the configuration and the tokenizer; both are known types."""
    program = f"-m duo_ext --host {checkout.root}"
    every = "callbacks.checkpoint_every_n_steps.every_n_train_steps=1"
    quick = ("trainer.limit_val_batches=0", "trainer.num_sanity_val_steps=0", every)
    run(program, "algo=duo_base", *quick, out="teacher")
    path = tmp_path / "teacher" / "checkpoints" / "last.ckpt"
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path)
    run(program, "algo=duo_base", *quick, "trainer.max_steps=3", out="teacher")  # resumes
    run(program, "mode=ppl_eval", "algo=duo_base", f"eval.checkpoint_path={path}")
    given = f"algo.teacher_path={path}"
    run(program, "algo=idlm", given, out="average")
    run(program, "algo=idlm", given, "algo.teacher_ema=false", out="raw")
    assert not all(map(torch.equal, student(tmp_path / "average"), student(tmp_path / "raw")))
    message = run(program, "algo=idlm_mdlm", given, code=1)
    assert "a checkpoint of algo=duo_base; algo=idlm_mdlm takes mdlm" in message


def test_a_checkpoint_of_unknown_types_is_refused_and_not_executed(run, checkout, tmp_path):
    class Foreign:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "proof"),)

    path = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}, "x": Foreign()}, path)
    for setting in ("mode=ppl_eval eval.checkpoint_path", "training.finetune_path"):
        overrides = f"algo=duo_base {setting}={path}".split()
        message = run(f"-m duo_ext --host {checkout.root}", *overrides, code=1)
        assert "algo.trust_checkpoint=true" in message and "mkdir" in message
        assert "Traceback" not in message
    assert not (tmp_path / "proof").exists()


def test_an_exported_student_is_read_by_duos_dit_as_a_teacher_and_by_evaluate(
    run, checkout, weights, tmp_path
):
    program = f"-m duo_ext --host {checkout.root}"
    run(program, "algo=idlm", weights("idlm"))
    last, folder = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "hf"
    export = f"-m duo_ext.export {last} --output {folder} --host {checkout.root}"
    subprocess.run([sys.executable, *export.split()], check=True, capture_output=True)
    script = """if True:
        import sys, torch
        from duo_ext import evaluate, host
        from duo_ext.commands import evaluation
        from duo_ext.data import corpus
        root, folder, output = sys.argv[1:]
        models = host.find(root).activate().module("models")
        theirs = models.dit.DIT.from_pretrained(folder).parameters()
        options = evaluation.parse(evaluate.SIDE, ["--student", folder, "--output", "unused"])
        corpus.register_resolvers()
        ours = evaluate.load("student", folder, options).model.backbone.parameters()
        torch.save([[p.detach() for p in found] for found in (theirs, ours)], output)
    """
    arguments = [str(checkout.root), str(folder), str(tmp_path / "read.pt")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)
    for found in torch.load(tmp_path / "read.pt", weights_only=True):
        assert all(map(torch.equal, found, student(tmp_path / "run")))
    run(program, "algo=idlm", f"algo.teacher_path={folder}", out="again")


def test_exported_adapters_are_put_on_the_teacher_by_peft(run, checkout, weights, tmp_path):
    """They give what the merged student gives, in the host's network."""
    pytest.importorskip("peft")
    teacher = weights("idlm")
    run(f"-m duo_ext --host {checkout.root}", "algo=idlm", teacher, *ADAPTERS)
    last, folder = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "adapters"
    export = f"-m duo_ext.export {last} --adapter --output {folder} --host {checkout.root}"
    subprocess.run([sys.executable, *export.split()], check=True, capture_output=True)
    script = """if True:
        import sys, peft, torch
        from duo_ext import host
        from duo_ext.weights import checkpoints
        root, teacher, student, folder = sys.argv[1:]
        models, found = host.find(root).activate().module("models"), []
        for path in (student, teacher):
            saved = checkpoints.denoiser(checkpoints.read(path, "path"))
            config = checkpoints.denoiser(checkpoints.read(student, "path")).config
            config["model"]["scale_by_sigma"] = True
            network = models.dit.DIT(config, 32).eval()
            checkpoints.load(network, saved)
            del network.config
            found.append(network)
        x_BL, sigma_B = torch.arange(32).view(2, 16), torch.tensor([0.5, 2.0])
        with torch.no_grad():
            before = found[1](x_BL, sigma_B)
            student, adapted = found[0], peft.PeftModel.from_pretrained(found[1], folder)
            found = [network(x_BL, sigma_B) for network in (student, adapted)]
        print((found[0] - found[1]).abs().max().item(), (found[0] - before).abs().max().item())
    """
    path = teacher.partition("=")[2]
    arguments = [str(checkout.root), path, str(last), str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    error, moved = map(float, done.stdout.split())
    assert error < 1e-5 < 1e-3 < moved


def test_what_duo_asserts_is_a_sentence(run, checkout):
    overrides = ("algo=mdlm", "sampling.predictor=ancestral")
    message = run(f"-m duo_ext --host {checkout.root}", *overrides, code=1)
    assert "error: Duo refuses this: assert self.sampler" in message
    assert "Traceback" not in message


def test_a_patched_checkout_trains_a_registered_class(run, checkout, weights, algorithm, tmp_path):
    """``python main.py algo=idlm`` with the first patch; with all, without any remedy of ours."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(checkout.root), str(clone)], check=True)
    shutil.copytree(checkout.root / "integral", clone / "integral", dirs_exist_ok=True)
    apply = [sys.executable, str(REPOSITORY / "patches" / "apply.py"), str(clone), "--only", "0001"]
    own = (f"algo={algorithm}", weights(algorithm))
    message = run("-m duo_ext.compat main.py", *own, cwd=clone, code=1)
    assert f"Invalid algorithm name: {algorithm}" in message
    subprocess.run(apply, check=True)
    run("-m duo_ext.compat main.py", *own, cwd=clone, out="patched")
    run(f"-m duo_ext --host {checkout.root}", *own, out="ours")
    assert all(map(torch.equal, student(tmp_path / "patched"), student(tmp_path / "ours")))


@pytest.mark.parametrize("experiment", ["owt_idlm_mdlm", "owt_idlm_duo", "owt_idlm_dcd"])
def test_the_published_settings_compose_in_the_hosts_own_program(run, checkout, experiment):
    program = "-m duo_ext.compat main.py --cfg job"
    devices = ("trainer.accelerator=cpu", "trainer.devices=8")
    shown = run(program, f"+experiment={experiment}", *devices, cwd=checkout.root, tiny=())
    for line in ("lr: 1.0e-06", "ema: 0.9999", "num_warmup_steps: 2500", "global_batch_size: 512"):
        assert line in shown
    assert ("noising: gaussian" in shown) == (experiment != "owt_idlm_mdlm")


@pytest.mark.parametrize("experiment", ["owt_eval_mdlm", "owt_eval_duo"])
def test_the_published_evaluation_composes(run, checkout, experiment):
    program = "-m duo_ext.compat main.py --cfg all"
    devices = ("trainer.accelerator=cpu", "trainer.devices=1")
    shown = run(program, f"+experiment={experiment}", *devices, cwd=checkout.root, tiny=())
    assert "sampling.steps: 4,8,16,32" in shown and "mode: sample_eval" in shown


def test_two_processes_are_one_with_accumulation(run, checkout, weights, algorithm, kind, tmp_path):
    program = f"-m duo_ext --host {checkout.root}"
    check_two_processes(run, program, (f"algo={algorithm}", weights(algorithm), *kind), tmp_path)


def test_two_processes_in_the_standalone_tree(run, weights, algorithm, tmp_path):
    check_two_processes(run, "-m duo_ext", (f"algo={algorithm}", weights(algorithm)), tmp_path)


def check_two_processes(run, program, own, folder):
    run(program, *own, "loader.batch_size=4", "trainer.devices=1", out="one")
    run(program, *own, "loader.batch_size=4", "trainer.devices=2", out="two")
    assert (folder / "two" / "train_ddp_process_1.log").exists()  # there were two
    for one, two in zip(student(folder / "one"), student(folder / "two"), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


LOOKS = ("algo.guard.every=1", "algo.guard.steps=[2]", "algo.guard.samples=20")
LOOKS += (
    "algo.guard.teacher_steps=3",
    "algo.guard.entropy=9",
    "algo.guard.unigram_kl=9",
    "algo.guard.word_length=9",
)


def test_two_processes_look_as_one_does(run, checkout, weights, algorithm, tmp_path):
    """The teacher's texts are the same ones, in the standalone tree too."""
    own = (f"algo={algorithm}", weights(algorithm), *LOOKS, "loader.batch_size=4")
    program = f"-m duo_ext --host {checkout.root}"
    run("-m duo_ext", *own, "trainer.devices=1", out="standalone")
    run(program, *own, "trainer.devices=1", out="one")
    run(program, *own, "trainer.devices=2", out="two")
    standalone, one, two = (
        json.loads((tmp_path / name / "guard.json").read_text())
        for name in ("standalone", "one", "two")
    )
    assert two["teacher"] == one["teacher"]
    assert one["teacher"]["entropy"] == pytest.approx(standalone["teacher"]["entropy"], rel=1e-3)
    for found in (one, two):
        assert [look["pair"] for look in found["history"]] == [1, 2] and found["kept"] in (1, 2)
    assert (tmp_path / "two" / "checkpoints" / "best.ckpt").exists()


TASK = """task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/words.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
ROWS = [
    {"text": "we the", "choices": [" people", " zzqq"], "answer": 0},
    {"text": "a more", "choices": [" xkqj", " perfect"], "answer": 1},
]
LM_EVALS = ("0.4.10", "0.4.11")  # that the harness goes with (docs/evaluate.md)


def likelihoods(root, path, folder):
    """What Duo main's own harness says of each choice, of a checkpoint."""
    (folder / "words.yaml").write_text(TASK.format(folder=folder))
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    told = f"checkpoint_path={path},num_mc_samples=8,num_proc=1"
    command = [sys.executable, "-m", "duo_ext.compat", harness.SCRIPT, "--model", "dlm"]
    command += ["--model_args", told, "--device", "cpu", "--batch_size", "4", "--tasks", "words"]
    command += ["--include_path", str(folder), "--output_path", str(folder / "found")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command += ["--log_samples"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    [samples] = (folder / "found").rglob("samples_words_*.jsonl")
    lines = map(json.loads, samples.read_text().splitlines())
    return {line["doc_id"]: line["filtered_resps"] for line in lines}


def parameters(state):
    """The weights in a state dict, without tables that are computed."""
    return [value for name, value in state.items() if "backbone" in name and "inv_freq" not in name]


def test_duo_mains_harness_reads_a_student(run, checkout, weights, algorithm, tmp_path):
    """It says of an exported student what it says of a plain Duo checkpoint of its EMA weights."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    if lm_eval.__version__ not in LM_EVALS:
        pytest.skip(f"lm-eval is {lm_eval.__version__}; Duo's harness goes with {LM_EVALS}")
    if not (checkout.root / harness.SCRIPT).is_file():
        pytest.skip(f"{checkout.name} has no {harness.SCRIPT}")
    program = f"-m duo_ext --host {checkout.root}"
    run(program, f"algo={algorithm}", weights(algorithm), out="student")
    assets = [f"{key}={corpus.asset(name)}" for key, name in (
        ("data.tokenizer_name_or_path", "tokenizers/sotu32"),
        ("eval.gen_ppl_eval_model_name_or_path", "judge"),
    )]  # fmt: skip
    base, sampler = BASES[algorithm]
    run(program, f"algo={base}", sampler, *assets, out="plain")
    last = tmp_path / "student" / "checkpoints" / "last.ckpt"
    command = [sys.executable, "-m", "duo_ext.export", str(last), "--for", "harness"]
    command += ["--output", str(tmp_path / "exported.ckpt"), "--host", str(checkout.root)]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    plain = torch.load(next((tmp_path / "plain").rglob("last.ckpt")), weights_only=False)
    exported = torch.load(tmp_path / "exported.ckpt", weights_only=False)["state_dict"]
    averages = student(tmp_path / "student")
    assert all(any(map(value.equal, averages)) for value in parameters(exported))
    assert exported.keys() == plain["state_dict"].keys()
    plain["state_dict"] = exported
    torch.save(plain, tmp_path / "plain.ckpt")
    found = []
    for name in ("exported", "plain"):
        (tmp_path / name).mkdir(exist_ok=True)
        found.append(likelihoods(checkout.root, tmp_path / f"{name}.ckpt", tmp_path / name))
    assert found[0] == found[1] and len(found[0]) == len(ROWS)
