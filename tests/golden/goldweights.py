"""Portable, exact weight generator for the AFA golden set (numpy only, no torch).

Every weight is a pure function of (seed, tensor name, shape): a splitmix64 hash of the element
counter gives 11 random bits -> an odd integer in [-2047, 2047] / 2048 -> one float32 multiply ->
one round-to-nearest-even cast to float16.  All those steps are exactly defined by IEEE-754, so any
machine rebuilds bit-identical weights, and a float16 file holds them without loss.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

# ---------------------------------------------------------------- tiny SD1.5-like expert
TINY = dict(
    model_channels=32,
    channel_mult=(1, 2, 2, 2),
    num_res_blocks=2,
    attn_levels=(0, 1, 2),
    context_dim=64,
    num_heads=8,
    in_channels=4,
    out_channels=4,
)
EXPERT_SEEDS = [1000, 1001, 1002, 1003]

CASES = {
    # hidden = aggregator hidden size, seed = aggregator seed, small = tiny-variance weights (eps-sensitive)
    "case_a": dict(experts=[0, 1], layers=1, hidden=64, heads=8, hw=(16, 16), batch=2, t=[500, 500], seed=100),
    "case_b": dict(experts=[0, 1, 2], layers=2, hidden=64, heads=8, hw=(16, 24), batch=1, t=[801], seed=200),
    "case_e": dict(
        experts=[2, 0], layers=1, hidden=64, heads=8, hw=(16, 8), batch=2, t=[21, 621], seed=500, small=True
    ),
}


def rand(seed, name, shape):
    """float32 array, uniform with mean 0 / variance ~1, 11 significant bits per value."""
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        key = np.uint64((seed << 32) ^ zlib.crc32(name.encode()))
        z = (np.arange(1, n + 1, dtype=np.uint64) + key * np.uint64(0xD1342543DE82EF95)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    odd = (z >> np.uint64(53)).astype(np.int64) * 2 - 2047
    return (odd.astype(np.float32) * np.float32(1.7320508 / 2048)).reshape(shape)


def weight(seed, name, shape, gain=1.0):
    """Random parameter, float32 holding float16-representable values."""
    r = rand(seed, name, shape)
    if len(shape) == 1:
        w = np.float32(1.0) + np.float32(0.25) * r if name.endswith("weight") else np.float32(0.1 * gain) * r
    else:
        fan_in = int(np.prod(shape[1:]))
        w = r * np.float32(gain / fan_in**0.5)
    return w.astype(np.float16).astype(np.float32)


# ---------------------------------------------------------------- name/shape tables
def _res_ldm(p, ci, co, temb):
    s = {
        p + "in_layers.0.weight": (ci,),
        p + "in_layers.0.bias": (ci,),
        p + "in_layers.2.weight": (co, ci, 3, 3),
        p + "in_layers.2.bias": (co,),
        p + "emb_layers.1.weight": (co, temb),
        p + "emb_layers.1.bias": (co,),
        p + "out_layers.0.weight": (co,),
        p + "out_layers.0.bias": (co,),
        p + "out_layers.3.weight": (co, co, 3, 3),
        p + "out_layers.3.bias": (co,),
    }
    if ci != co:
        s |= {p + "skip_connection.weight": (co, ci, 1, 1), p + "skip_connection.bias": (co,)}
    return s


def _transformer(p, c, ctx, depth=1):
    s = {
        p + "norm.weight": (c,),
        p + "norm.bias": (c,),
        p + "proj_in.weight": (c, c, 1, 1),
        p + "proj_in.bias": (c,),
    }
    for d in range(depth):
        q = f"{p}transformer_blocks.{d}."
        for n in (1, 2, 3):
            s |= {f"{q}norm{n}.weight": (c,), f"{q}norm{n}.bias": (c,)}
        for n, kv in ((1, c), (2, ctx)):
            s |= {
                f"{q}attn{n}.to_q.weight": (c, c),
                f"{q}attn{n}.to_k.weight": (c, kv),
                f"{q}attn{n}.to_v.weight": (c, kv),
                f"{q}attn{n}.to_out.0.weight": (c, c),
                f"{q}attn{n}.to_out.0.bias": (c,),
            }
        s |= {
            q + "ff.net.0.proj.weight": (8 * c, c),
            q + "ff.net.0.proj.bias": (8 * c,),
            q + "ff.net.2.weight": (c, 4 * c),
            q + "ff.net.2.bias": (c,),
        }
    return s | {p + "proj_out.weight": (c, c, 1, 1), p + "proj_out.bias": (c,)}


def expert_shapes(cfg=TINY):
    """LDM key (without 'model.diffusion_model.') -> shape."""
    mc, mult, ctx, R = cfg["model_channels"], cfg["channel_mult"], cfg["context_dim"], cfg["num_res_blocks"]
    t = 4 * mc
    s = {
        "time_embed.0.weight": (t, mc),
        "time_embed.0.bias": (t,),
        "time_embed.2.weight": (t, t),
        "time_embed.2.bias": (t,),
        "input_blocks.0.0.weight": (mc, cfg["in_channels"], 3, 3),
        "input_blocks.0.0.bias": (mc,),
    }
    ch, chans, i = mc, [mc], 1
    for lv, m in enumerate(mult):
        for _ in range(R):
            s |= _res_ldm(f"input_blocks.{i}.0.", ch, m * mc, t)
            ch = m * mc
            if lv in cfg["attn_levels"]:
                s |= _transformer(f"input_blocks.{i}.1.", ch, ctx)
            chans.append(ch)
            i += 1
        if lv != len(mult) - 1:
            s |= {f"input_blocks.{i}.0.op.weight": (ch, ch, 3, 3), f"input_blocks.{i}.0.op.bias": (ch,)}
            chans.append(ch)
            i += 1
    s |= (
        _res_ldm("middle_block.0.", ch, ch, t)
        | _transformer("middle_block.1.", ch, ctx)
        | _res_ldm("middle_block.2.", ch, ch, t)
    )
    i = 0
    for lv in reversed(range(len(mult))):
        for r in range(R + 1):
            s |= _res_ldm(f"output_blocks.{i}.0.", ch + chans.pop(), mult[lv] * mc, t)
            ch, j = mult[lv] * mc, 1
            if lv in cfg["attn_levels"]:
                s |= _transformer(f"output_blocks.{i}.1.", ch, ctx)
                j = 2
            if lv and r == R:
                s |= {
                    f"output_blocks.{i}.{j}.conv.weight": (ch, ch, 3, 3),
                    f"output_blocks.{i}.{j}.conv.bias": (ch,),
                }
            i += 1
    return s | {
        "out.0.weight": (ch,),
        "out.0.bias": (ch,),
        "out.2.weight": (cfg["out_channels"], mc, 3, 3),
        "out.2.bias": (cfg["out_channels"],),
    }


def aggregator_in_channels(cfg=TINY):
    """Of the 25 aggregators: conv_in, every down resnet and downsampler, mid, every up resnet; the last one has 4."""
    boc = [cfg["model_channels"] * m for m in cfg["channel_mult"]]
    L = [boc[0]]
    for lv, c in enumerate(boc):
        L += [c] * (cfg["num_res_blocks"] + (lv != len(boc) - 1))
    L.append(boc[-1])
    for c in reversed(boc):
        L += [c] * (cfg["num_res_blocks"] + 1)
    L[-1] = 4
    return L


def aggregator_shapes(in_channels, hidden, n, layers, ctx, temb):
    """official key -> shape"""
    h, p = hidden, "res_block."
    return (
        {
            "conv_in.weight": (h, in_channels * n, 1, 1),
            "conv_in.bias": (h,),
            p + "norm1.weight": (h,),
            p + "norm1.bias": (h,),
            p + "conv1.weight": (h, h, 3, 3),
            p + "conv1.bias": (h,),
            p + "time_emb_proj.weight": (h, temb),
            p + "time_emb_proj.bias": (h,),
            p + "norm2.weight": (h,),
            p + "norm2.bias": (h,),
            p + "conv2.weight": (h, h, 3, 3),
            p + "conv2.bias": (h,),
        }
        | _transformer("transformer.", h, ctx, layers)
        | {"conv_out.weight": (n, h, 1, 1)}
    )


# ---------------------------------------------------------------- state dicts
def expert_state(k, cfg=TINY):
    return {n: weight(EXPERT_SEEDS[k], n, s) for n, s in expert_shapes(cfg).items()}


CONV_OUT_GAIN = 0.2
ENTER_A_NORM = (
    "conv_in.",
    "res_block.conv1",
    "res_block.time_emb_proj",
    "res_block.conv2",
    "transformer.proj_in",
)


def aggregator_state(case, i, cfg=TINY):
    c = CASES[case]
    conf = aggregator_config(case, i, cfg)
    shapes = aggregator_shapes(
        conf["in_channels"],
        conf["hidden_size"],
        conf["num_experts"],
        conf["num_layers"],
        conf["cross_attn_dim"],
        conf["temb_channels"],
    )
    out = {}
    for n, s in shapes.items():
        gain = CONV_OUT_GAIN if n == "conv_out.weight" else 1.0
        if c.get("small"):  # make the activations that enter each norm tiny, so that every norm's eps matters
            if n.startswith(ENTER_A_NORM):
                gain = 0.008
            elif ".to_out." in n:
                gain = 0.02
            elif ".ff.net.2." in n or n.startswith("transformer.proj_out"):
                gain = 2.0
        out[n] = weight(c["seed"], f"aggregator_{i}.{n}", s, gain)
    return out


def aggregator_config(case, i, cfg=TINY):
    c = CASES[case]
    return dict(
        in_channels=aggregator_in_channels(cfg)[i],
        hidden_size=c["hidden"],
        num_experts=len(c["experts"]),
        num_layers=c["layers"],
        num_attn_heads=c["heads"],
        cross_attn_dim=cfg["context_dim"],
        temb_channels=4 * cfg["model_channels"],
    )


def materialise(case, directory):
    """Write the authors' on-disk layout (float16 files) without torch: needs `safetensors`."""
    from safetensors.numpy import save_file

    directory = Path(directory)
    for i in range(len(aggregator_in_channels())):
        folder = directory / f"aggregator_{i}"
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.astype(np.float16) for k, v in aggregator_state(case, i).items()}
        save_file(state, folder / "aggregator.safetensors")
        (folder / "config.json").write_text(json.dumps(aggregator_config(case, i)))
    model_config = {"num_models": len(CASES[case]["experts"]), "num_aggregators": 25}
    (directory / "model_config.json").write_text(json.dumps(model_config))


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "materialise":
        materialise(sys.argv[2], sys.argv[3])
    else:
        sys.exit("usage: goldweights.py materialise case_X DIR")
