"""The pictures' npm packages: fetched with `npm pack` into .pocket/npm when absent, read straight from the archives."""
import functools
import subprocess
import tarfile

from . import common

PACKAGES = {"noto": "emoji-datasource-google@16.0.0", "twemoji": "emoji-datasource-twitter@16.0.0",
            "fluent": "@lobehub/fluent-emoji-3d@1.1.0"}
FOLDER = {"noto": "img/google/64", "twemoji": "img/twitter/64", "fluent": "assets"}


def archive(hand):
    """Path of the hand's .tgz; runs npm only if it is not there yet."""
    spec = PACKAGES[hand]
    name, version = spec.lstrip("@").replace("/", "-").rsplit("@", 1)
    cache = common.WORK / "npm"
    path = cache / f"{name}-{version}.tgz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(cache), spec], check=True)
    return path


def bare(code):
    """Code point sequence without the variation selector, which the packages write or omit at will."""
    return "-".join(c for c in code.lower().split("-") if c != "fe0f")


@functools.cache
def members(hand):
    """-> {bare code: bytes of its picture}"""
    out = {}
    with tarfile.open(archive(hand)) as tar:
        for m in tar:
            folder, _, file = m.name.removeprefix("package/").rpartition("/")
            if folder == FOLDER[hand] and file.endswith((".png", ".webp")):
                out[bare(file.rsplit(".", 1)[0])] = tar.extractfile(m).read()
    return out


def read(hand, file):
    with tarfile.open(archive(hand)) as tar:
        return tar.extractfile("package/" + file).read().decode()


def has_all(code):
    return all(bare(code) in members(h) for h in common.HANDS)
