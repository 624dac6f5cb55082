"""Models read back for sampling, from a run and from a folder of the hub."""

import omegaconf
import pytest
import torch


@pytest.fixture
def saved_run(sedd, network, compose, tmp_path):
    """A run's folder, and the model with its average weights."""

    def make(*overrides):
        model, config = network(*overrides), compose(*overrides)
        ema = sedd.model.ema.ExponentialMovingAverage(model.parameters(), 0.5)
        ema.shadow_params = [weight.detach() * 1.5 for weight in model.parameters()]
        state = {"model": model, "ema": ema, "step": 1}
        state["optimizer"] = sedd.losses.get_optimizer(config, model.parameters())
        (tmp_path / ".hydra").mkdir()
        omegaconf.OmegaConf.save(config, tmp_path / ".hydra" / "config.yaml")
        path = tmp_path / "checkpoints-meta" / "checkpoint.pth"
        sedd.utils.save_checkpoint(str(path), state)
        ema.copy_to(model.parameters())
        return str(tmp_path), model

    return make


UNIFORM = ("graph.type=uniform", "model.scale_by_sigma=false", "noise.type=geometric")


def outputs(model, size):
    x = torch.randint(size, (2, 8), generator=torch.Generator().manual_seed(0))
    return model(x, torch.tensor([0.1, 2.0]))


@pytest.mark.parametrize("overrides", [(), UNIFORM])
def test_a_run_gives_its_average_weights(sedd, saved_run, overrides):
    folder, wanted = saved_run(*overrides)
    for load in (sedd.load_model.load_model_local, sedd.load_model.load_model):
        model, graph, noise = load(folder, torch.device("cpu"))
        assert not model.training
        assert torch.equal(outputs(model, graph.dim), outputs(wanted, graph.dim))
        kind = sedd.graph_lib.Uniform if overrides else sedd.graph_lib.Absorbing
        schedule = sedd.noise_lib.GeometricNoise if overrides else sedd.noise_lib.LogLinearNoise
        assert type(graph) is kind and type(noise) is schedule


@pytest.mark.parametrize("overrides", [(), UNIFORM])
def test_a_folder_of_the_hub(sedd, network, tmp_path, overrides):
    wanted = network(*overrides)
    wanted.save_pretrained(tmp_path)
    for load in (sedd.load_model.load_model_hf, sedd.load_model.load_model):
        model, graph, noise = load(str(tmp_path), torch.device("cpu"))
        assert torch.equal(outputs(model, graph.dim), outputs(wanted, graph.dim))
        assert graph.absorb == (not overrides)
        assert isinstance(noise, sedd.noise_lib.Noise)


def test_a_run_of_another_model_is_refused(sedd, saved_run):
    folder, _ = saved_run()
    path = f"{folder}/.hydra/config.yaml"
    config = omegaconf.OmegaConf.load(path)
    config.tokens = 9
    omegaconf.OmegaConf.save(config, path)
    with pytest.raises(ValueError, match=r"checkpoint.pth' are those of another model: size mism"):
        sedd.load_model.load_model_local(folder, "cpu")
