"""ComfyUI imported into this process, started the way its main.py does, without the HTTP loop."""

import asyncio
import logging
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from .alias import install_alias
from .bootstrap import PACK_NAME, ensure_host, host_arguments


class Host:
    """The imported host: its `nodes` module, and what the tests do with it most."""

    def __init__(self, base: Path, device: tuple[str, ...] = ("--cpu",)):
        self.base, self.device = base, device
        logging.disable(logging.WARNING)  # the host complains at length of missing audio packages
        try:
            self._import(ensure_host())
            import folder_paths
            import server

            import nodes

            # Nodes reach for PromptServer.instance to send progress; nobody listens here.
            server.PromptServer(asyncio.new_event_loop())
            asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        finally:
            logging.disable(logging.NOTSET)
        self.nodes = nodes
        self.folder_paths = folder_paths
        for folder in sorted((base / "custom_nodes").iterdir()):
            if folder.name != PACK_NAME:
                self._load_custom_node(folder)

    def _import(self, tree: Path) -> None:
        """Lets the host read its own arguments: they decide about devices while comfy is being imported."""
        # First, because this repository and the host both have a top-level `nodes`.
        sys.path.insert(0, str(tree))
        import comfy.options

        ours, sys.argv = sys.argv, ["main.py", *host_arguments(self.base, self.device)]
        try:
            comfy.options.enable_args_parsing()
            import comfy.cli_args  # noqa: F401
        finally:
            comfy.options.enable_args_parsing(False)
            sys.argv = ours
        # Like main.py, before nodes.py puts comfy/ with its utils.py in front of the host's package of that name.
        import utils.extra_config  # noqa: F401

        _parse_each_tokenizer_once()

    def _load_custom_node(self, folder: Path) -> ModuleType:
        if not asyncio.run(self.nodes.load_custom_node(str(folder))):
            raise RuntimeError(f"ComfyUI could not load the custom node {folder.name}: see the log above.")
        return sys.modules[_module_name(folder)]

    def load_pack(self) -> ModuleType:
        """Loads this pack as the host does, with `afa_core` being the very package that tests import."""
        folder = self.base / "custom_nodes" / PACK_NAME
        install_alias(f"{_module_name(folder)}.afa_core", "afa_core")
        return self._load_custom_node(folder)

    def call(self, node_id: str, **inputs) -> tuple:
        """Runs one node, of either node API, under inference mode as the executor does; its outputs as a tuple.

        Required widgets that are not given take their defaults.
        """
        import torch

        node = self.nodes.NODE_CLASS_MAPPINGS[node_id]
        required = node.INPUT_TYPES().get("required", {})
        defaults = {name: spec[1]["default"] for name, spec in required.items() if "default" in (*spec, {})[1]}
        with torch.inference_mode():
            if hasattr(node, "PREPARE_CLASS_CLONE"):
                from comfy_api.latest import io

                hidden = {io.Hidden.unique_id: "1"}
                # 0.3.x takes the dict itself, 0.4.0 and newer hosts look it up in one.
                node = node.PREPARE_CLASS_CLONE({**hidden, "hidden_inputs": hidden})
                return node.EXECUTE_NORMALIZED(**{**defaults, **inputs}).args
            outputs = getattr(node(), node.FUNCTION)(**{**defaults, **inputs})
        return outputs.get("result", ()) if isinstance(outputs, dict) else outputs

    def release(self) -> None:
        """Forgets every loaded model and a pending interruption, so that the next test starts from nothing."""
        import gc

        import comfy.model_management as memory

        memory.interrupt_current_processing(False)
        memory.unload_all_models()
        gc.collect()
        memory.cleanup_models()
        memory.soft_empty_cache()


def _parse_each_tokenizer_once() -> None:
    """The host reads CLIP's 49,408 words with every checkpoint, and never changes them."""
    from transformers import CLIPTokenizer

    CLIPTokenizer.from_pretrained = lru_cache(CLIPTokenizer.from_pretrained)


def _module_name(folder: Path) -> str:
    """The name under which nodes.load_custom_node registers a folder."""
    return str(folder).replace(".", "_x_")
