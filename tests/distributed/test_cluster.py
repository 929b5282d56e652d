"""Two hosts with a network between them, where this machine lets us make them, and what the committed numbers say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import cluster
import pytest
import yaml
from hashes import CONFIG, found, train

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/tutorials/many-devices.md"


def reason() -> str | None:
    """Why no network namespaces can be made here, if so."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("nsenter") and shutil.which("unshare")):
        return "iproute2 or util-linux is not installed"
    made = subprocess.run(["ip", "netns", "add", "smooth-try"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", "smooth-try"], capture_output=True)
    return made.stderr.strip() or None


@pytest.mark.slow
def test_two_hosts_leave_the_bits_of_one_process(tmp_path):
    if why := reason():
        pytest.skip(why)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(CONFIG))
    alone = train(tmp_path, "two", "alone", 1, 2)
    with cluster.two_hosts(tmp_path) as hosts:
        cluster.finish(cluster.torchrun(hosts, 1, "train", "two.yaml", "--run-dir", "apart", cwd=tmp_path))
    assert found(tmp_path / "apart", 2, 1) == alone | {"processes": 2, "accumulate": 1}


def test_the_table_of_the_docs_is_that_of_the_last_full_run():
    results = json.loads((HERE / "cluster.json").read_text())
    assert results["different"] == []
    page = PAGE.read_text()
    for part in ("machines", "job"):
        for name, run in results[part].items():
            assert f"| {name} | {run['processes']} | `{run['model'][:16]}` |" in page, name
