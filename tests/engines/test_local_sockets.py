from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_ext.engines import local_sockets, process_group
from monai_ext.engines.local_sockets import VARIABLES, keep_local
from rank_processes import on_ranks

LISTENS = "0A"  # state of <net/tcp_states.h> in /proc/net/tcp


def environment(world: str, here: str, **given: str) -> dict[str, str]:
    found = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": here, **given}
    keep_local(found)
    return {name: found[name] for name in VARIABLES if name in found}


def test_ranks_of_one_machine_use_the_loopback_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sockets, "_is_up", lambda name: name == "lo")
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    assert environment("2", "2") == dict.fromkeys(VARIABLES, "lo")
    assert environment("2", "2", GLOO_SOCKET_IFNAME="eth0") == {VARIABLES[0]: "eth0", VARIABLES[1]: "lo"}
    assert environment("4", "2") == {}  # two machines have to reach each other
    assert environment("", "") == {}
    monkeypatch.setattr(local_sockets, "_is_up", lambda _: False)
    assert environment("2", "2") == {}  # a network namespace in which it is down


def gloo_addresses() -> list[str]:
    """Where this process listens, as hexadecimal address and port, the store of the ranks left out."""
    own = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and link.exists()}
    process_group.barrier()
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    port = int(os.environ["MASTER_PORT"])
    listening = [line[1] for line in lines if line[3] == LISTENS and f"socket:[{line[9]}]" in own]
    return [address for address in listening if int(address.partition(":")[2], 16) != port]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's list of sockets")
def test_gloo_listens_on_localhost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    for addresses in on_ranks(gloo_addresses, 2):
        assert isinstance(addresses, list), addresses
        assert addresses
        assert all(address.startswith("0100007F:") for address in addresses), addresses
