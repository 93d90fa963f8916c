"""Blocks that the host compiled one by one run in an ensemble of U-Nets, and are refused where it pauses inside blocks."""

import torch

from tests.support.ensembles import ensemble, random_aggregator
from tests.support.refusing import refused

BLOCK = "diffusion_model.output_blocks.3.1.transformer_blocks.0"


def with_compiled(model, name: str, calls: list[str]):
    """The model with one block compiled, by a compiler that changes nothing and counts the block's calls."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def backend(graph, inputs):
        def run(*args):
            calls.append(name)
            return graph(*args)

        return run

    model = model.clone()
    set_torch_compile_wrapper(model, backend=backend, keys=[name])
    return model


def test_every_expert_runs_its_own_compiled_block(checkpoint, encode, sample, comfy_host, pack):
    torch._dynamo.reset()
    (first, clip, _), (second, _, _) = checkpoint("tiny_sd15_a"), checkpoint("tiny_sd15_b")
    texts = encode(clip, "a cat"), encode(clip, "")
    aggregator = random_aggregator(first, 2)
    expected = sample(ensemble(comfy_host, aggregator, first, second), *texts)
    calls: tuple[list, list] = ([], [])
    models = [with_compiled(model, BLOCK, each) for model, each in zip((first, second), calls, strict=True)]
    assert torch.equal(sample(ensemble(comfy_host, aggregator, *models), *texts), expected)
    assert len(calls[0]) == len(calls[1]) >= 2
    modules = [model.model.diffusion_model.output_blocks[3][1].transformer_blocks[0] for model in (first, second)]
    assert not any(isinstance(module, torch._dynamo.OptimizedModule) for module in modules)


def test_a_transformer_with_a_compiled_block_is_refused(comfy_host, pack):
    def unet(name):
        return comfy_host.call("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")[0]

    first, second = unet("tiny_flux_a"), unet("tiny_flux_b")
    second = with_compiled(second, "diffusion_model.double_blocks.0", [])
    text = refused(ValueError, lambda: ensemble(comfy_host, "block average", first, second))
    assert "model_2 is a Flux" in text and "diffusion_model.double_blocks.0" in text
