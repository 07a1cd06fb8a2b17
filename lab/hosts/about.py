"""What a host says of itself, as one line of JSON: `python -m lab.hosts.about`, run there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from lab.bench.environment import read_environment
from lab.kernel import capabilities
from lab.project import find_project

if __name__ == "__main__":
    print(json.dumps({**asdict(read_environment(find_project(Path.cwd()))), "lacking": capabilities.lacking()}))
