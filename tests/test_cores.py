"""How many cores a process may keep busy: by its affinity, and by the quota of a container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctscan.cores import count_cores, limit_threads
from tests.conftest import ROOT

ALL = count_cores(Path("/nowhere"))  # no quota
NAMES = {1: "5:memory:/elsewhere\n4:cpu,cpuacct:/docker/abc\n0::/docker/abc\n", 2: "0::/docker/abc\n"}


def control_groups(root: Path, version: int, **quotas: str) -> Path:
    """A tree as Linux shows it: in each folder, `top` or `group`, a quota and a period."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(NAMES[version])
    top = root / "sys/fs/cgroup" / ("cpu" if version == 1 else "")
    for place, said in quotas.items():
        folder = top / {"top": "", "group": "docker/abc"}[place]
        folder.mkdir(parents=True, exist_ok=True)
        quota, period = said.split()
        if version == 2:
            (folder / "cpu.max").write_text(f"{said}\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text(f"{period}\n")
    return root


@pytest.mark.skipif(ALL < 2, reason="one core")
@pytest.mark.parametrize(
    ("version", "quotas", "cores"),
    [
        (2, {"top": "100000 100000"}, 1),  # the container sees itself at the top
        (2, {"group": "100000 100000"}, 1),
        (2, {"group": "max 100000", "top": "50000 100000"}, 1),  # the group around it
        (2, {"group": "150000 100000"}, 2),
        (2, {"group": "max 100000"}, ALL),
        (2, {"top": "99900000 100000"}, ALL),
        (1, {"top": "100000 100000"}, 1),
        (1, {"group": "20000 100000", "top": "-1 100000"}, 1),
        (1, {"group": "-1 100000"}, ALL),
        (1, {}, ALL),
        (2, {"group": "odd 100000"}, ALL),
    ],
)
def test_a_quota_of_either_version_counts_at_any_height(
    version: int, quotas: dict[str, str], cores: int, tmp_path: Path
) -> None:
    assert count_cores(control_groups(tmp_path, version, **quotas)) == cores


def test_threads_are_limited_where_time_is_and_what_is_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads(Path("/nowhere"))
    assert "OMP_NUM_THREADS" not in os.environ
    root = control_groups(tmp_path, 2, group="80000 100000")
    limit_threads(root)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    limit_threads(root)
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_a_process_that_may_use_one_core_counts_one_and_so_does_torch() -> None:
    program = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from ctscan.cores import count_cores; import torch; print(count_cores(), torch.get_num_threads())"
    )
    settings = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=settings, text=True, capture_output=True)
    assert done.stdout.split() == ["1", "1"], done.stderr
