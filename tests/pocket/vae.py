"""The pictures' autoencoder: the host's own TAESD class (4 channels, 64 px -> 8x8), trained here.

Diffusion wants latents of mean 0 and deviation 1 per channel (SD's noise schedule keeps some signal in its last step: a
mean colour would leak) and the white background at 0. Both are nudged by two small losses; then the exact normalisation
is folded into the encoder's last layer, the encoder is frozen, and the decoder alone goes on training on the normalised
latents plus a little noise, which is what it will be given by a sampler.
"""
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from . import clock, common, data

BATCH = 24
PEAK = 1.5e-3
COMMITTED = common.WEIGHTS / "vae.safetensors"
ENCODER_SHARE = 0.7   # of the budget: then the encoder is normalised and frozen


def build():
    common.use_host()
    from comfy.taesd.taesd import TAESD
    torch.manual_seed(common.SEED)
    vae = TAESD()
    for p in vae.parameters():      # the host's layers come uninitialised
        with torch.no_grad():
            if p.ndim == 4:
                torch.nn.init.kaiming_normal_(p, nonlinearity="relu")
            elif p.ndim == 1:
                p.zero_()
    for block in vae.modules():     # each residual branch starts small, or 20 of them in a row explode
        if type(block).__name__ == "Block":
            with torch.no_grad():
                block.conv[4].weight.mul_(0.1)
    with torch.no_grad():
        vae.vae_scale.fill_(1.0)
        vae.vae_shift.zero_()
        vae.taesd_encoder[-1].weight.mul_(0.3)
        vae.taesd_decoder[-1].bias.fill_(0.8)   # pictures are mostly white
        vae.taesd_decoder[-1].weight.mul_(0.1)
    vae.requires_grad_(True)
    vae.vae_scale.requires_grad_(False)
    vae.vae_shift.requires_grad_(False)
    return vae


def augment(pictures):
    """uint8 [B, 3, 64, 64] -> float 0..1, shifted by up to 3 pixels, half of the batch mirrored."""
    dx, dy = torch.randint(-3, 4, (2,)).tolist()
    x = data.shift(pictures, dx, dy).float() / 255
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)


def loss_of(out, x):
    """L1 + squared error + L1 of the differences of neighbours, which are the edges."""
    edges = F.l1_loss(out.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(out.diff(dim=-2), x.diff(dim=-2))
    return F.l1_loss(out, x) + 2 * F.mse_loss(out, x) + 0.5 * edges


def latent_loss(z):
    """Per-channel mean 0 and deviation 1 over the batch; the last entry of z is an all-white picture, wanted at 0."""
    white, z = z[-1], z[:-1]
    return z.mean((0, 2, 3)).square().mean() + (z.std((0, 2, 3)) - 1).square().mean() + white.square().mean()


@torch.no_grad()
def encode(vae, x, batch=128):
    """float 0..1 [M, 3, 64, 64] -> [M, 4, 8, 8], float32."""
    return torch.cat([vae.taesd_encoder(b) for b in x.split(batch)])


@torch.no_grad()
def decode(vae, z, batch=64):
    """[M, 4, 8, 8] -> float 0..1 [M, 3, 64, 64]; the host's own clamp to 0..1 included."""
    return torch.cat([vae.taesd_decoder(b) for b in z.split(batch)]).clamp(0, 1)


@torch.no_grad()
def normalise(vae, pictures):
    """Fold the exact per-channel mean and deviation over the training pictures into the encoder's last layer."""
    z = encode(vae, pictures.float() / 255)
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    last = vae.taesd_encoder[-1]
    last.weight.div_(std.view(-1, 1, 1, 1))
    last.bias.sub_(mean).div_(std)
    return mean, std


class Flag:
    """A boolean that is saved with the run."""

    def __init__(self):
        self.on = False

    def state_dict(self):
        return {"on": self.on}

    def load_state_dict(self, state):
        self.on = state["on"]


def train(minutes):
    pictures, _, _ = data.load("train+spare", common.HANDS)
    vae = build().to(memory_format=torch.channels_last)
    params = [p for p in vae.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    frozen = Flag()
    run = clock.Run("vae", minutes, vae=vae, opt=opt, frozen=frozen)
    white = torch.ones(1, 3, common.SIZE, common.SIZE)
    going = run.share < 1
    while going:
        if run.share >= ENCODER_SHARE and not frozen.on:
            mean, std = normalise(vae, pictures)
            run.say(f"encoder normalised and frozen; mean was {mean.tolist()}, deviation {std.tolist()}")
            frozen.on = True
        for group in opt.param_groups:
            group["lr"] = clock.rate(run.share, PEAK)
        x = augment(pictures[torch.randint(len(pictures), (BATCH,))]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(not frozen.on):
            z = vae.taesd_encoder(torch.cat([x, white])).float()
        extra = latent_loss(z)
        z = z[:-1]
        noisy = z + 0.1 * torch.rand(len(z), 1, 1, 1) * torch.randn_like(z)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = vae.taesd_decoder(noisy)
        out = out.float()
        loss = loss_of(out, x)
        opt.zero_grad(set_to_none=True)
        (loss if frozen.on else loss + 0.1 * extra).backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        going = run.tick(BATCH, loss=loss.detach(), latent=extra.detach(), mse=F.mse_loss(out.detach(), x))
    run.save()
    common.save_atomic({k: v.contiguous() for k, v in vae.state_dict().items()}, common.WORK / "vae.pt")
    vae.requires_grad_(False)
    out = decode(vae, encode(vae, pictures[::10].float() / 255))
    run.say(f"done; float32 reconstruction error of every tenth training picture: mse "
            f"{F.mse_loss(out, pictures[::10].float() / 255):.5f}")


def polish(minutes):
    """Goes on with the decoder alone, mostly on the hands that the base draws, and writes what is committed.

    Latents stay what they are.
    """
    drawn, _, _ = data.load("train+spare")
    others, _, _ = data.load("train+spare", common.HANDS)
    vae = load().to(memory_format=torch.channels_last)
    vae.taesd_decoder.requires_grad_(True)
    params = list(vae.taesd_decoder.parameters())
    opt = torch.optim.AdamW(params, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    run = clock.Run("decoder", minutes, vae=vae, opt=opt)
    going = run.share < 1
    while going:
        for group in opt.param_groups:
            group["lr"] = clock.rate(run.share, 0.6 * PEAK)
        some = drawn[torch.randint(len(drawn), (BATCH * 3 // 4,))], others[torch.randint(len(others), (BATCH // 4,))]
        x = augment(torch.cat(some)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                z = vae.taesd_encoder(x).float()
            out = vae.taesd_decoder(z + 0.1 * torch.rand(len(z), 1, 1, 1) * torch.randn_like(z)).float()
        loss = loss_of(out, x)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        going = run.tick(BATCH, loss=loss.detach(), mse=F.mse_loss(out.detach(), x))
    run.save()
    weights = {k: v.contiguous() for k, v in vae.state_dict().items()}
    common.save_atomic(weights, common.WORK / "vae.pt")
    save_file({k: v.half() for k, v in weights.items()}, COMMITTED)


def load():
    """What training has left so far, before it is rounded to float16."""
    vae = build()
    vae.load_state_dict(torch.load(common.WORK / "vae.pt", weights_only=True))
    return vae.requires_grad_(False).eval()
