"""Small files under the names that the workflow templates ask for, so that the very graphs run.

    with stand_ins(base):
        server.run(template("quick_start", object_info))

The checkpoints are links to others; LoRAs, a ControlNet, aggregators and a scorer of random weights fit those.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.browser.graphs import put_aggregator
from tests.support.identities import digests
from tests.support.small_clip import small_clip

TOYS = ["tiny_sd15_a", "tiny_sd15_b", "tiny_sd15_c"]
SDXL_TOYS = ["tiny_sdxl_a", "tiny_sdxl_b"]
NET = "model.diffusion_model."
FILES = {
    "diffusion_models/your_flux_1": "tiny_flux_a",
    "diffusion_models/your_flux_2": "tiny_flux_b",
    "diffusion_models/your_anima_1": "tiny_anima_a",
    "diffusion_models/your_anima_2": "tiny_anima_b",
    "diffusion_models/your_anima_3": "tiny_anima_c",
    "diffusion_models/your_z_image": "tiny_zimage_a",
    "text_encoders/clip_l": "tiny_clip_l",
    "text_encoders/t5xxl_fp16": "tiny_t5xxl",
    "text_encoders/qwen_3_06b_base": "tiny_qwen3_06b",
    "text_encoders/qwen_3_4b": "tiny_qwen3_4b",
    "vae/ae": "tiny_16_channels",
    "vae/qwen_image_vae": "tiny_16_channels",
}
"""Parts of transformers by the names in the templates, and the toys that take their places."""
SUBJECTS = ["a fox", "a lighthouse", "a red bicycle"]


def can_run(base: Path, prompt: dict) -> bool:
    """Whether the host at hand knows the transformers of a template: it has toys of those that it knows."""
    names = [node["inputs"]["unet_name"] for node in prompt.values() if "unet_name" in node["inputs"]]
    return all((base / "models" / "diffusion_models" / name).exists() for name in names)


@contextmanager
def stand_ins(base: Path, experts: list[str] = TOYS, sdxl_experts: list[str] = SDXL_TOYS) -> Iterator[None]:
    """Everything that the templates name, in a base directory for as long as it is needed."""
    models, given = base / "models", base / "input"
    checkpoints = models / "checkpoints"
    with ExitStack() as stack:

        def place(path: Path) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(lambda: shutil.rmtree(path) if path.is_dir() else path.unlink())
            return path

        for kind, names in (("checkpoint", experts), ("sdxl_checkpoint", sdxl_experts)):
            for number, name in enumerate(names, start=1):
                link = place(checkpoints / f"your_{kind}_{number}.safetensors")
                link.symlink_to((checkpoints / f"{name}.safetensors").resolve())
        for name, toy in FILES.items():
            path = models / f"{name}.safetensors"
            if (real := path.with_stem(toy)).exists():  # an older host has no Anima
                place(path).symlink_to(real.resolve())
        path = place(models / "afa" / "your_aggregator_1_2_3.safetensors")
        named = [f"your_checkpoint_{i}.safetensors" for i in (1, 2, 3)]
        put_aggregator(base, path.name, named, digests=digests(base, named))
        for number, name in enumerate([*sdxl_experts, sdxl_experts[0]], start=1):
            save_file(
                lora(checkpoints / f"{name}.safetensors", number),
                place(models / "loras" / f"your_lora_{number}.safetensors"),
            )
        for number in (1, 2, 3):
            save_file(
                lora(models / "diffusion_models" / "your_z_image.safetensors", number),
                place(models / "loras" / f"your_z_image_lora_{number}.safetensors"),
            )
        save_file(
            control_net(checkpoints / f"{experts[0]}.safetensors"),
            place(models / "controlnet" / "your_control_net.safetensors"),
        )
        clip = {key: tensor.half() for key, tensor in small_clip("gelu").state_dict().items()}
        save_file(clip, place(models / "clip_vision" / "HPS_v2.1_compressed.safetensors"))
        Image.linear_gradient("L").convert("RGB").save(place(given / "example.png"))
        pictures(place(given / "my_pictures"))
        prompts = place(given / "my_prompts")
        prompts.mkdir()
        (prompts / "prompts.txt").write_text("\n".join(SUBJECTS))
        (prompts / "held_out.txt").write_text(SUBJECTS[0])
        yield


def pictures(folder: Path) -> None:
    """A prompt folder so small that none would be held out by itself."""
    folder.mkdir()
    for i, subject in enumerate(SUBJECTS):
        Image.new("RGB", (64, 64), (80 * i, 100, 250 - 80 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(subject)
    (folder / "held_out.txt").write_text(SUBJECTS[0])


def lora(checkpoint: Path, seed: int) -> dict[str, torch.Tensor]:
    """Rank 2 on every attention of the network, which may be in a file of its own."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    with safe_open(checkpoint, "pt") as file:
        for key in file.keys():
            if key.endswith(("to_q.weight", "to_v.weight", "attention.qkv.weight")):
                rows, columns = file.get_slice(key).get_shape()
                name = "diffusion_model." + key.removeprefix(NET).removesuffix(".weight")
                state[f"{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.3
                state[f"{name}.lora_down.weight"] = torch.randn(2, columns, generator=generator) * columns**-0.5
    return state


def control_net(checkpoint: Path) -> dict[str, torch.Tensor]:
    """As a ControlNet is begun, from the checkpoint's own encoder, but for the last layers, which are not zero."""
    net = {key.removeprefix(NET): tensor for key, tensor in load_file(checkpoint).items() if key.startswith(NET)}
    kept = ("time_embed.", "input_blocks.", "middle_block.")
    state = {key: tensor for key, tensor in net.items() if key.startswith(kept)}
    width = net["input_blocks.0.0.weight"].shape[0]
    blocks = 1 + max(int(key.split(".")[1]) for key in net if key.startswith("input_blocks."))
    generator = torch.Generator().manual_seed(7)

    def convolution(name: str, inputs: int, outputs: int, side: int) -> None:
        state[f"{name}.weight"] = (
            torch.randn(outputs, inputs, side, side, generator=generator) * (inputs * side**2) ** -0.5
        )
        state[f"{name}.bias"] = torch.zeros(outputs)

    hint = [3, 16, 16, 32, 32, 96, 96, 256, width]
    for i, (inputs, outputs) in enumerate(zip(hint, hint[1:], strict=False)):
        convolution(f"input_hint_block.{2 * i}", inputs, outputs, 3)
    for block in range(blocks):
        convolution(f"zero_convs.{block}.0", width, width, 1)
    convolution("middle_block_out.0", width, width, 1)
    return {f"control_model.{key}": tensor.half().contiguous() for key, tensor in state.items()}
