"""Ranks on one machine talk over the loopback interface, which nobody outside it can reach.

Gloo and NCCL listen where the name of the machine leads, perhaps on the network of the hospital, and ask nobody for a
password. Several machines must be reachable; there a person chooses the interface.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACKS = ("lo", "lo0")  # Linux; macOS and the BSDs
IS_UP = 1  # IFF_UP of <net/if.h>


def keep_local(environment: MutableMapping[str, str] = os.environ) -> None:
    """Bind the ranks to the loopback interface if torchrun started all of them on this machine.

    Variables that a person has set stay.

    Args:
        environment: with torchrun's variables; gets `GLOO_SOCKET_IFNAME` and `NCCL_SOCKET_IFNAME`.
    """
    world, here = environment.get("WORLD_SIZE", ""), environment.get("LOCAL_WORLD_SIZE", "")
    loopback = _loopback()
    if world and world == here and loopback:
        for name in VARIABLES:
            environment.setdefault(name, loopback)


def _loopback() -> str:
    present = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    return next((name for name in LOOPBACKS if name in present and _is_up(name)), "")


def _is_up(name: str) -> bool:
    try:
        return bool(int(Path(f"/sys/class/net/{name}/flags").read_text(encoding="ascii"), 16) & IS_UP)
    except (OSError, ValueError):
        return name != "lo"  # not Linux: there it is up unless somebody takes it down
