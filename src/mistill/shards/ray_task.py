"""What Ray runs on a node, from first to last. It goes there by value, so it says where mistill is missing, too.

It is told no secret but the token of the way to its driver; what else is secret comes by that way.
"""

from __future__ import annotations


def work_here(
    address: tuple[str, int],
    token: bytes,
    number: int,
    version: str,
    mark: tuple[str, str],
    directory: str,
) -> tuple[str, str, str] | None:
    """Works on shards until the driver ends it.

    Args:
        address: of the driver. ``number``: of this place among the workers. ``version``: the driver's.
        mark: a file that the driver has written into the folder of the ledgers, and what is in it.
        directory: in which the driver works, for names of files that are no whole paths.

    Returns:
        What is wrong here, the node, and what more there is to say of it; ``None``: nothing was.
    """
    import contextlib
    import importlib
    import os
    import pathlib
    import time

    node = str(importlib.import_module("ray").util.get_node_ip_address())
    try:
        from mistill._version import __version__
    except ImportError:
        return "missing", node, ""
    if __version__ != version:
        return "version", node, __version__
    path, text = pathlib.Path(mark[0]), ""
    for _ in range(20):  # a network file system may be some seconds late
        with contextlib.suppress(OSError):
            text = path.read_text("ascii")
        if text == mark[1]:
            break
        time.sleep(0.25)
    else:
        return "folder", node, ""

    from mistill.shards.joining import join

    with contextlib.suppress(OSError):
        os.chdir(directory)
    try:
        join(*address, token, number, node)
    except (OSError, EOFError) as error:
        return "driver", node, str(error)
    return None
