"""What a host says of itself, as one line of JSON: `python -m lab.hosts.about`, run there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.bench.environment import read_environment
from lab.kernel import capabilities
from lab.project import find_project


def about() -> dict[str, Any]:
    """The environment here, and the capabilities that are lacking."""
    return {**asdict(read_environment(find_project(Path.cwd()))), "lacking": list(capabilities.lacking())}


if __name__ == "__main__":
    print(json.dumps(about()))
