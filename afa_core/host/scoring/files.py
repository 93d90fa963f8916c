"""The scorers' weights: the users' files in ComfyUI's model folders, found by their names. Nothing is downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import comfy.utils
import folder_paths
from torch import Tensor

FOLDER = "scorers"
ENDINGS = folder_paths.supported_pt_extensions | {".txt"}
FOLDERS = (FOLDER, "clip_vision")
GENERIC = {"model", "pytorchmodel", "openclippytorchmodel", "openclipmodel", "vocab"}
"""File names that say nothing: there the folder's name counts."""


def scorer_files() -> list[tuple[str, str]]:
    """(folder, name) of every file that a scorer may need."""
    return [(folder, name) for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]


class ScorerError(ValueError):
    """A scorer that cannot score; says what is missing or wrong, and what to do."""


class MissingFile(ScorerError):
    """The user does not have a file that a scorer needs."""


@dataclass(frozen=True)
class WeightsFile:
    """A file that a scorer needs.

    pattern: what its name holds, in small letters and digits only, and a suffix
    source:  where the user gets it
    save_as: where to put it, below models/
    """

    pattern: str
    source: str
    save_as: str

    def find(self, scorer: str) -> Path:
        """Raises MissingFile where the user does not have it."""
        for folder, name in scorer_files():
            if re.search(self.pattern, _kind_in(name)):
                return Path(folder_paths.get_full_path_or_raise(folder, name))
        raise MissingFile(
            f"{scorer} needs a file that is not in models/{FOLDERS[0]} or models/{FOLDERS[1]}: get {self.source} and save "
            f"it as models/{self.save_as}."
        )


CLIP_L = WeightsFile(
    r"(?<!laion)clip.*(vitl14|vitlargepatch14)(?!.*(336|laion|datacomp|dfn))",
    "model.safetensors (1.7 GB) of openai/clip-vit-large-patch14 from Hugging Face",
    "clip_vision/clip-vit-large-patch14.safetensors",
)
AESTHETIC = WeightsFile(
    r"saclogosava1l14linearmse",
    "sac+logos+ava1-l14-linearMSE.pth (3.7 MB) of christophschuhmann/improved-aesthetic-predictor from GitHub",
    "scorers/sac+logos+ava1-l14-linearMSE.pth",
)
PICKSCORE = WeightsFile(
    r"pickscore",
    "model.safetensors (3.9 GB) of yuvalkirstain/PickScore_v1 from Hugging Face",
    "clip_vision/PickScore_v1.safetensors",
)
HPS_2_0 = WeightsFile(
    r"hpsv2(0|(?!\d))",
    "HPS_v2_compressed.pt (2.0 GB) of xswu/HPSv2 from Hugging Face",
    "clip_vision/HPS_v2_compressed.pt",
)
HPS_2_1 = WeightsFile(
    r"hpsv21",
    "HPS_v2.1_compressed.pt (2.0 GB) of xswu/HPSv2 from Hugging Face",
    "clip_vision/HPS_v2.1_compressed.pt",
)
IMAGE_REWARD = WeightsFile(
    r"imagereward",
    "ImageReward.pt (1.8 GB) of zai-org/ImageReward from Hugging Face",
    "scorers/ImageReward.pt",
)
BERT_VOCABULARY = WeightsFile(
    r"bertbaseuncased.*\.txt$",
    "vocab.txt (0.2 MB) of google-bert/bert-base-uncased from Hugging Face",
    "scorers/bert-base-uncased/vocab.txt",
)
INCEPTION = WeightsFile(
    r"inception20151205.*\.pth$",
    "weights-inception-2015-12-05-6726825d.pth (96 MB) of the release v0.2.0 of toshas/torch-fidelity from GitHub",
    "scorers/weights-inception-2015-12-05-6726825d.pth",
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file's tensors by name, read without running anything in it. Raises ScorerError for anything else."""
    try:
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # each kind of file has errors of its own
        raise ScorerError(f"{path.name} cannot be read: it is damaged, or no file of weights: get it again.") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ScorerError(f"{path.name} holds something else than weights: get it again.")
    return state


def _kind_in(name: str) -> str:
    """The part of a file's name that names its kind, reduced to small letters and digits, and its suffix."""
    path = Path(name)
    stem, folder = (re.sub(r"[^a-z0-9]", "", part.lower()) for part in (path.stem, path.parent.name))
    return (folder if stem in GENERIC else stem) + path.suffix.lower()
