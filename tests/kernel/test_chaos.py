"""The chaos tool itself: it finds what is left of each kind, and the lab leaves nothing in some rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LEAKY = """
import json, os, random, sys
from pathlib import Path
from tests.chaos import misfortunes, room, rounds

def process(where):
    if not os.fork():
        os.setsid()
        while True:
            os.read(os.pipe()[0], 1)
    return 0

def file(where):
    (where.folder / "tmp" / "forgotten").touch()
    return 0

def mount(where):
    room.mount("tmpfs", str(where.folder / "tmp"), "tmpfs")
    return 0

def pin(where):
    os.mkdir("/sys/fs/bpf/forgotten")
    return 0

def half_run(where):
    (where.folder / "runs" / "x.json").write_text('{"schema": ')
    return 0

def program(where):
    "A filter of tc, which no process holds."
    from lab.bpf import load
    from lab.bpf.attach import cls_bpf
    from lab.model.action import Direction
    class Target:
        name, ifindex, netns_fd = "eth0", room.FIRST, os.open("/proc/self/ns/net", os.O_RDONLY)
    cls_bpf.attach(load("tc_inspect_header", program="inspect_ingress"), Target(), Direction.INGRESS)
    return 0

def deaf(where):
    import signal, time
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    while True:
        time.sleep(1)

def work(here):
    rounds.GONE_WITHIN_S, rounds.ENDED_WITHIN_S = 0.3, 0.5
    for victim in VICTIMS:
        rounds.VICTIMS = (victim,)
        misfortunes.every = lambda: (misfortunes.Interrupted,)
        tests = {"scenarios": (), "benchmarks": ()}
        told = rounds.Round(here, Path(sys.argv[1], victim.__name__), random.Random(1), tests).run()
        print(json.dumps([victim.__name__, told.left]), flush=True)
    return 0

VICTIMS = (process, file, mount, pin, half_run, deaf, program)
os.environ["CHAOS_CACHE"] = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
sys.exit(room.enter(work))
"""


def test_what_is_left_is_found(tmp_path: Path) -> None:
    """A process, a file, a mount, a pin, half a run, a program at an interface, and a lab that is deaf to Ctrl-C."""
    done = subprocess.run(
        [sys.executable, "-c", LEAKY, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = dict(json.loads(line) for line in done.stdout.splitlines())
    assert list(told) == ["process", "file", "mount", "pin", "half_run", "deaf", "program"], done.stderr
    assert told["process"][0].startswith("process ")
    assert told["file"][0].endswith("/tmp/forgotten")
    assert told["mount"][0].startswith("mount ")
    assert told["pin"] == ["pin /sys/fs/bpf/forgotten"]
    assert told["half_run"][0].startswith("half a run: ")
    assert "goes on 0.5 s after signal 2" in told["deaf"][0]
    assert any(each.startswith("prog ") for each in told["program"])
    assert "clsact at the interface" in told["program"]


def test_the_lab_leaves_nothing_in_twenty_rounds() -> None:
    """As `make chaos` does in 500."""
    words = [sys.executable, "-m", "tests.chaos", "20", "--workers", "2", "--within", "120"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=240, check=False)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["left"], done.returncode) == (0, 0), done.stdout
    assert counts["rounds"] > 0
