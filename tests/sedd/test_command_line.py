"""python -m sedd_ext: Hydra's flags and groups, as plain Hydra takes them, without a run."""

import itertools
import sys
import types

import pytest

import duo_ext.commands.line
import sedd_ext.__main__
from sedd_ext import host
from sedd_ext.__main__ import hydra_arguments

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")
SMALL = ("model=sotu", "tokens=32")


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """``command("-m", ...)``: what is printed, and [(configuration, folder)] of what would run."""
    tree = host.Host(host.STANDALONE, "standalone", None)
    ran = []
    modes = types.SimpleNamespace(MODES={"train": lambda *given: ran.append(given)})
    monkeypatch.setattr(duo_ext.commands.line, "TRACEBACK", False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(host, "find", lambda given: types.SimpleNamespace(activate=lambda: tree))
    monkeypatch.setattr(host, "active", lambda: tree)
    monkeypatch.setitem(sys.modules, "sedd_ext.modes", modes)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["sedd_ext", *words])
        try:
            sedd_ext.__main__.main()
        except SystemExit as stop:
            assert stop.code == 0
        return capfd.readouterr().out, list(ran)

    return call


WORDS = {
    "": "+algo=sedd",
    "tokens=32": "+algo=sedd tokens=32",
    "tokens=32 algo=idlm": "+algo=idlm tokens=32",
    "+data=sotu ++algo=idlm": "+algo=idlm data=sotu",
    "--cfg job": "+algo=sedd --cfg job",
    "--info": "+algo=sedd --info",
    "-c job -p data tokens=32": "-c job -p data +algo=sedd tokens=32",
    "tokens=32 --cfg job --resolve": "+algo=sedd tokens=32 --cfg job --resolve",
    "-m optim.lr=1,2 data=sotu": "-m +algo=sedd optim.lr=1,2 data=sotu",
    "-cn config -cd more algo=idlm,sedd -m": "-cn config -cd more +algo=idlm,sedd -m",
    "-i defaults data=sotu": "-i defaults +algo=sedd data=sotu",
    "-cp=conf --multirun tokens=1": "-cp=conf --multirun +algo=sedd tokens=1",
}


@pytest.mark.parametrize("words", WORDS)
def test_the_algorithm_is_the_first_setting_and_flags_stay(words):
    assert hydra_arguments(words.split()) == WORDS[words].split()


FLAGS = {
    "--cfg job -p data": "train: openwebtext",
    "-c all --resolve": "sweeper:",
    "--help": "Powered by Hydra",
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("flags", FLAGS)
def test_a_flag_may_stand_before_or_behind_the_settings(command, flags, behind):
    words = (SMALL, flags.split()) if behind else (flags.split(), SMALL)
    printed, ran = command(*itertools.chain(*words))
    assert FLAGS[flags] in printed and not ran


@pytest.mark.parametrize("behind", [False, True])
def test_a_sweep_runs_each_in_its_folder(command, tmp_path, behind):
    settings = (*QUIET, *SMALL, "data=sotu", "seed=3,4", f"hydra.sweep.dir={tmp_path}/sweep")
    _, ran = command(*settings, "--multirun") if behind else command("-m", *settings)
    assert [(config.seed, folder) for config, folder in ran] == [
        (3, f"{tmp_path}/sweep/0"), (4, f"{tmp_path}/sweep/1")
    ]  # fmt: skip
    assert (tmp_path / "sweep" / "1" / ".hydra" / "config.yaml").is_file()


@pytest.mark.parametrize("sign", ["", "+"])
@pytest.mark.parametrize("experiment", ["sotu_sedd", "sotu_idlm_sedd"])
def test_other_data_under_an_experiment(command, tmp_path, sign, experiment):
    (tmp_path / "more" / "data").mkdir(parents=True)
    (tmp_path / "more" / "data" / "mine.yaml").write_text("train: here\nvalid: there\n")
    words = (*QUIET, f"+experiment={experiment}", f"hydra.run.dir={tmp_path}/run")
    _, [(config, _)] = command("-cd", f"{tmp_path}/more", *words, f"{sign}data=mine")
    assert (config.data.train, config.data.tokenizer) == ("here", "gpt2")
    _, [(config, folder)] = command(*words)
    assert "sotu32" in config.data.train and folder == f"{tmp_path}/run"
