"""Damaged and malicious aggregators: what a reader of files from the internet has to stand."""

import json
import random
import struct


def split(file: bytes) -> tuple[dict, bytes]:
    """A .safetensors' header and data."""
    (size,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + size]), file[8 + size :]


def join(header, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


ODD_TEXTS = [
    "", "null", "[]", "{}", "{", "NaN", "-1", "1e999", "true", '"', "[[[[]]]]", '{"a": {}}', nested(200_000), nested(900),
    '{"__proto__": 1}', "9" * 5000, "\x00", "<script>alert(1)</script>", '"\\ud800"', "../../etc/passwd", "\n\n\n",
    '[{"loras": 1}, {}]', '[{"loras": [{"file": "a", "strength": 1%s, "strength_clip": 0}]}, {}]' % ("0" * 400),
    '[{"loras": [{"file": "a", "strength": NaN, "strength_clip": 0}]}, {}]', '[{"loras": [[]], "sketch": ["x"]}, {}]',
    '["a", "b"]', "[1, 2]", '[{"file": 1}, {}]', '[{"file": "\\n\\u202e\\ud800"}, {"file": "' + "x" * 10_000 + '"}]',
]  # fmt: skip
ODD_VALUES = [
    None, True, -1, 0, 1, 3, 7, 33, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), "", "8", "\n", "\u202eabc", "x" * 300,
    [], [1], [4, 8], [4] * 300, [-4, 8, 4], [4, "8", 4], [2**60] * 3, [[4]], {}, {"a": 1}, ["time"], ["space", "time"],
    [["time"]], "time", [None],
]  # fmt: skip
ODD_DTYPES = ["F8_E4M3", "F8_E5M2", "I64", "I8", "U8", "BOOL", "F64", "BF16", "F32", "F4", "C64", "", "F16 ", None, 5]
ODD_SHAPES = [[], [0], [-1], [2**63], [2**62, 4], [10**30], ["64"], None, {}, [64.5], [1] * 5000]


def mutated_file(file: bytes, choice: random.Random) -> bytes:
    """One of our .safetensors with something wrong in it."""
    kind = choice.choice(
        ["bits", "start", "cut", "more", "metadata", "metadata", "config", "config", "tensor", "tensor", "data"]
    )
    if kind == "bits":
        return _flipped(file, choice, len(file))
    if kind == "start":
        return _flipped(file, choice, choice.choice([8, 200, 5000]))
    if kind == "cut":
        return file[: choice.choice([0, 1, 7, 8, 9, 100, choice.randrange(len(file)), len(file) - 1])]
    if kind == "more":
        return file + bytes(choice.randrange(1, 100))
    header, data = split(file)
    metadata = header["__metadata__"]
    if kind == "metadata":
        key = choice.choice([*metadata, "odd"])
        if choice.random() < 0.2:
            metadata.pop(key, None)
        elif choice.random() < 0.2:
            metadata[key] = choice.choice(ODD_VALUES)
        else:
            metadata[key] = choice.choice(ODD_TEXTS)
    elif kind == "config":
        metadata["config"] = json.dumps(_with_odd_value(json.loads(metadata["config"]), choice))
    elif kind == "tensor":
        _damage_tensor(header, choice)
    else:
        start = choice.randrange(len(data) - 64) // 2 * 2
        odd = choice.choice([b"\x00\x7c", b"\x00\xfc", b"\xff\x7f", b"\xff\xff"])  # infinities and NaNs in float16
        data = data[:start] + odd + data[start + 2 :]
    return join(header, data)


def mutate_folder(folder, choice: random.Random) -> None:
    """Damages one file of an aggregator in the authors' layout."""
    file = choice.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    kind = choice.choice(["value", "value", "text", "bits", "gone", "folder"])
    if kind == "gone":
        file.unlink()
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "bits" or file.suffix != ".json":
        content = file.read_bytes()
        file.write_bytes(_flipped(content, choice, min(len(content), 5000)))
    elif kind == "text":
        file.write_text(choice.choice(ODD_TEXTS), encoding="utf-8", errors="surrogatepass")
    else:
        file.write_text(json.dumps(_with_odd_value(json.loads(file.read_text()), choice)))


def _flipped(content: bytes, choice: random.Random, within: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(choice.choice([1, 1, 3, 20])):
        damaged[choice.randrange(min(within, len(damaged)))] ^= 1 << choice.randrange(8)
    return bytes(damaged)


def mutated_routing(points: list[str], experts: int, choice: random.Random) -> dict:
    """What training measured, with one thing wrong at any depth."""
    shares = [[[1 / experts] * experts for _ in points] for _ in range(3)]
    routing = {"points": list(points), "timesteps": [100, 500, 900], "shares": shares}
    place, key = routing, choice.choice(["points", "shares", "shares", "shares"])
    while isinstance(place[key], list) and place[key] and choice.random() < 0.8:
        place, key = place[key], choice.randrange(len(place[key]))
    odd = choice.choice([*ODD_VALUES, "gone", "twice", "nested"])
    if odd == "gone":
        del place[key]
    elif odd == "twice" and isinstance(place, list):
        place.append(place[key])
    else:
        place[key] = json.loads(nested(100)) if odd == "nested" else odd
    return routing


def _with_odd_value(fields: dict, choice: random.Random) -> dict:
    key = choice.choice([*fields, "odd"])
    if choice.random() < 0.15:
        fields.pop(key, None)
    else:
        fields[key] = choice.choice(ODD_VALUES)
    return fields


def _damage_tensor(header: dict, choice: random.Random) -> None:
    key = choice.choice([key for key in header if key != "__metadata__"])
    tensor = header[key]
    kind = choice.choice(["dtype", "shape", "offsets", "rename", "remove", "add", "replace"])
    if kind == "dtype":
        tensor["dtype"] = choice.choice(ODD_DTYPES)
    elif kind == "shape":
        tensor["shape"] = choice.choice([*ODD_SHAPES, tensor["shape"][::-1], [*tensor["shape"], 1]])
    elif kind == "offsets":
        tensor["data_offsets"] = choice.choice([[0, 2**62], [2**63, 2**64], [-1, 4], [8, 0], [0], None, [0, 0]])
    elif kind == "rename":
        header[choice.choice(["", "\n", "x" * 100_000, "../" + key, "\u202e", key.upper()])] = header.pop(key)
    elif kind == "remove":
        del header[key]
    elif kind == "add":
        header["more"] = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    else:
        header[key] = choice.choice(ODD_VALUES)
