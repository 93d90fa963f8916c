"""ImageReward on the host's memory manager, with the user's files."""

from __future__ import annotations

import comfy.clip_vision
import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

from ...scoring.affine_head import AffineHead
from ...scoring.image_reward import TOKENS, ImageReward, reward
from ..module_patcher import module_patcher
from . import files
from .batches import batches
from .clip_towers import SIZE
from .files import ScorerError, read_weights

HEAD = "mlp."


class ImageRewardScorer:
    """ImageReward v1.0: about -2 to 2, standardised over the authors' data."""

    def __init__(self, name: str):
        path, vocabulary = files.IMAGE_REWARD.find(name), files.BERT_VOCABULARY.find(name)
        state = read_weights(path)
        try:
            head = {key.removeprefix(HEAD): tensor for key, tensor in state.items() if key.startswith(HEAD)}
            self.head = AffineHead.from_state(head)  # its five layers are of the same kind
            network = ImageReward(state, comfy.ops.manual_cast)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ScorerError(
                f"{path.name} is not ImageReward v1.0 ({error}): get {files.IMAGE_REWARD.source}."
            ) from error
        self.tokenizer = _tokenizer(str(vocabulary))
        words = network.get_parameter("blip.text_encoder.embeddings.word_embeddings.weight").shape[0]
        if self.tokenizer.get_vocab_size() > words:
            raise ScorerError(
                f"{vocabulary.name} has {self.tokenizer.get_vocab_size()} words, and {path.name} has {words}: get "
                f"{files.BERT_VOCABULARY.source}."
            )
        self.device = comfy.model_management.text_encoder_device()
        offload = comfy.model_management.text_encoder_offload_device()
        self.patcher = module_patcher(network.train(False), self.device, offload)

    def __call__(self, pictures: Tensor, prompts: list[str], references: Tensor | None = None) -> Tensor:
        comfy.model_management.load_models_gpu([self.patcher])
        scores = []
        for start, batch in batches(pictures):
            texts = self.tokenizer.encode_batch(prompts[start : start + len(batch)])
            tokens = torch.tensor([text.ids for text in texts], device=self.device)
            mask = torch.tensor([text.attention_mask for text in texts], device=self.device)
            pixels = comfy.clip_vision.clip_preprocess(batch.to(self.device), size=SIZE).float()
            scores.append(reward(self.head(self.patcher.model(pixels, tokens, mask))))
        return torch.cat(scores).cpu()


def _tokenizer(vocabulary: str):
    """BERT's, uncased: cut or filled to the 35 tokens that ImageReward reads."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    return tokenizer
