"""assets.make_judge and make_teacher: the learning rate of any number of steps, wrong inputs."""

import pytest
import torch

from duo_ext.assets import make_judge, make_teacher


def test_the_learning_rate_rises_and_falls():
    steps = make_judge.WARMUP + 2
    factors = [make_judge.learning_rate_factor(step, steps) for step in range(steps + 1)]
    assert factors[make_judge.WARMUP] == max(factors) == 1 and factors[0] > 0
    assert factors[-1] == pytest.approx(0)


@pytest.mark.parametrize("steps", [1, make_judge.WARMUP - 1, make_judge.WARMUP])
def test_a_training_of_the_warm_up_alone_comes_to_its_end(steps):
    """The scheduler asks for one step more than there are."""
    assert all(0 < make_judge.learning_rate_factor(step, steps) <= 1 for step in range(steps + 1))


@pytest.mark.parametrize("name", ["steps", "width", "layers"])
def test_no_steps_are_refused(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", ["make_judge", "out", f"--{name}", "0"])
    with pytest.raises(SystemExit):
        make_judge.main()
    assert f"--{name} is 0; it must be at least 1" in capsys.readouterr().err


def test_a_run_without_what_a_teacher_has_is_one_sentence(monkeypatch, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "run.ckpt")
    for name, told in (("none.ckpt", "cannot be opened"), ("run.ckpt", "it has no epoch")):
        monkeypatch.setattr("sys.argv", ["make_teacher", f"{tmp_path}/{name}", "out.ckpt"])
        with pytest.raises(SystemExit) as stop:
            make_teacher.main()
        assert str(stop.value).startswith("error: checkpoint is '") and told in str(stop.value)
