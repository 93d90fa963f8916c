"""Known vulnerabilities of what the pack requires, optional packages included, and of all that they require in turn.

    python -m tests.tools.audit FOLDER

FOLDER is a clone of github.com/pypa/advisory-database, and is asked about the versions installed here. Ends with 1 where it
finds something.
"""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.comfy.bootstrap import REPOSITORY


def required() -> dict[str, str]:
    """Installed versions by normalised name."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    waiting = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    versions: dict[str, str] = {}
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in versions or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        versions[name] = importlib.metadata.version(name)
        waiting += importlib.metadata.requires(name) or []
    return versions


def advisories(database: Path, name: str, version: str) -> list[str]:
    """Identifiers of the advisories that concern this version and have not been withdrawn."""
    found = []
    for path in sorted((database / "vulns" / name).glob("*.yaml")):
        advisory = yaml.safe_load(path.read_text())
        if "withdrawn" not in advisory and any(concerns(part, Version(version)) for part in advisory["affected"]):
            found.append(advisory["id"])
    return found


def concerns(affected: dict, version: Version) -> bool:
    """By its ranges: a version that is younger than the advisory is not on its list, even where nothing was mended."""
    events = [event for part in affected["ranges"] if part["type"] == "ECOSYSTEM" for event in part["events"]]
    introduced = sum(Version(event["introduced"]) <= version for event in events if "introduced" in event)
    fixed = sum(Version(event["fixed"]) <= version for event in events if "fixed" in event)
    return introduced > fixed


def main() -> int:
    database = Path(sys.argv[1])
    versions = required()
    found = {f"{name} {version}": advisories(database, name, version) for name, version in sorted(versions.items())}
    known = {package: ids for package, ids in found.items() if ids}
    for package, ids in known.items():
        print(f"{package}: {', '.join(ids)}")
    state = subprocess.check_output(["git", "-C", database, "log", "-1", "--format=%cs"], text=True).strip()
    print(f"{len(versions)} packages, advisories as of {state}: {len(known)} packages with known vulnerabilities")
    return bool(known)


if __name__ == "__main__":
    sys.exit(main())
