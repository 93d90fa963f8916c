"""The text encoder: the host's CLIP layers, trained on a token table cut to the tokens that occur.

The host's layers add in place, which breaks autograd, so the forward pass is written out here on the same weights; the
tests compare it with the host's own.
"""
import torch

from . import common, data, unet

START = 49406    # the start token; the end and padding token is 49407; every word's id is smaller


def tokenizer():
    return unet.family()["PocketTokenizer"]()


def tokenize(captions):
    """-> CLIP token ids [M, 24]; a caption longer than one chunk is an error, not a silent cut."""
    tok = tokenizer()
    rows = [tok.tokenize_with_weights(c)["l"] for c in captions]
    if any(len(r) != 1 for r in rows):
        raise ValueError("a caption does not fit one chunk of tokens")
    return torch.tensor([[i for i, _ in r[0]] for r in rows])


def vocabulary():
    """Sorted CLIP ids of every token that occurs in a training or spare subject's caption."""
    captions = [*data.captions(data.subjects("train+spare"), common.HANDS), ""]
    return tokenize(captions).unique()


class TextEncoder(torch.nn.Module):
    def __init__(self, known=None):
        """`known`: sorted CLIP ids of the words that get rows of their own; by default `vocabulary()`."""
        super().__init__()
        family = unet.family()
        import comfy.clip_model
        import comfy.ops
        torch.manual_seed(common.SEED)
        config = dict(family["TEXT"], hidden_act="quick_gelu", eos_token_id=49407)
        width = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.register_buffer("vocabulary", vocabulary() if known is None else known)
        # One row more than the vocabulary: every token that was never seen shares the last row, which is trained by
        # dropping tokens, so an unknown word says nothing instead of something random.
        self.tokens = torch.nn.Parameter(torch.randn(len(self.vocabulary) + 1, width) * 0.5)
        self.positions = torch.nn.Parameter(torch.randn(family["TOKENS"], width) * 0.1)
        layers = comfy.clip_model.CLIPEncoder(config["num_hidden_layers"], width, self.heads, config["intermediate_size"],
                                              "quick_gelu", torch.float32, "cpu", comfy.ops.disable_weight_init).layers
        self.layers = layers
        self.norm = torch.nn.LayerNorm(width)
        for m in layers.modules():
            if isinstance(m, torch.nn.Linear):
                torch.nn.Linear.reset_parameters(m)
            elif isinstance(m, torch.nn.LayerNorm):
                torch.nn.init.ones_(m.weight)
                torch.nn.init.zeros_(m.bias)
        for layer in layers:        # starts as a bag of words
            for last in (layer.self_attn.out_proj, layer.mlp.fc2):
                torch.nn.init.zeros_(last.weight)
                torch.nn.init.zeros_(last.bias)

    def rows(self, ids):
        """Which row of the cut table each CLIP id uses."""
        at = torch.searchsorted(self.vocabulary, ids).clamp_max(len(self.vocabulary) - 1)
        return torch.where(self.vocabulary[at] == ids, at, len(self.vocabulary))

    def forward(self, ids, drop=0.0):
        """CLIP ids [B, 24] -> [B, 24, 64]: the host's "last" layer, normalised. `drop`: share of words made unknown."""
        from comfy.ldm.modules.attention import attention_pytorch
        rows = self.rows(ids)
        if drop:
            rows = rows.masked_fill((torch.rand(ids.shape) < drop) & (ids < START), len(self.vocabulary))
        x = self.tokens[rows] + self.positions
        mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max).triu_(1)
        for layer in self.layers:
            attn = layer.self_attn
            n = layer.layer_norm1(x)
            n = attention_pytorch(attn.q_proj(n), attn.k_proj(n), attn.v_proj(n), self.heads, mask)
            x = x + attn.out_proj(n)
            x = x + layer.mlp(layer.layer_norm2(x))
        return self.norm(x)
