"""The small network of Flux.1's class: what is trained here is what the host's loader reads."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from afa_core.aggregator.file import load_aggregator
from tests.pocket import assemble, common
from tests.pocket.dit import network
from tests.pocket.scenes import checkpoints, models
from tests.support.ensembles import ensemble


def test_the_loader_reads_the_trained_network(comfy_host):
    net = network.build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not name.startswith("vector_in"):
                parameter.copy_((parameter + 0.05 * torch.randn(parameter.shape, generator=generator)).half())
    state = {key: value.half() for key, value in net.state_dict().items()}
    text = assemble.text_state(models.WEIGHTS / "text_encoder.safetensors")
    path = comfy_host.base / "models" / "checkpoints" / "dit_test.safetensors"
    save_file(assemble.checkpoint(state, text, load_file(common.WEIGHTS / "vae.safetensors")), path)
    model, clip, vae = comfy_host.call("CheckpointLoaderSimple", ckpt_name=path.name)[:3]
    path.unlink()
    assert clip is not None and vae is not None
    x, context = torch.randn(2, 4, 8, 16, generator=generator), torch.randn(2, 48, 64, generator=generator)
    t = torch.tensor([0.2, 0.9])
    with torch.inference_mode():
        found = model.model.diffusion_model(x, t, context, y=torch.ones(2, 64))
    torch.testing.assert_close(found, network.predict(net, x, t, context).detach(), rtol=1e-3, atol=1e-3)
    assert found.abs().mean() > 0.01
    sampling = model.get_model_object("model_sampling")
    assert torch.equal(sampling.timestep(t), t)
    clean, noise = x, torch.randn(x.shape, generator=generator)
    noisy, velocity = network.noised(clean, noise, t)
    sigma = t.view(-1, 1, 1, 1)
    torch.testing.assert_close(sampling.noise_scaling(sigma, noise.clone(), clean), noisy)
    torch.testing.assert_close(sampling.calculate_denoised(t, velocity, noisy), clean, rtol=1e-3, atol=1e-3)


def test_experts_are_moved_from_their_base_and_small():
    moved = models.moves("dit")
    assert 0.02 < moved["length"] < 0.5 and moved["cosine"] < 0.9
    assert sum(path.stat().st_size for path in network.WEIGHTS.glob("*.safetensors")) <= 25e6


def test_the_committed_aggregator_knows_the_committed_experts(comfy_host, pack, caplog):
    """It is refused on the same experts in another order."""
    from afa_core.host.experts.experts import ExpertError

    paths = checkpoints.ensure(comfy_host.base / "models" / "checkpoints", checkpoints.expert_names("dit"))
    experts = [comfy_host.call("CheckpointLoaderSimple", ckpt_name=path.name)[0] for path in paths.values()]
    aggregator = load_aggregator(network.WEIGHTS / "aggregator.safetensors")
    ensemble(comfy_host, aggregator, *experts)
    assert "AFA" not in caplog.text
    with pytest.raises(ExpertError, match="in another order"):
        ensemble(comfy_host, aggregator, *experts[::-1])
