"""The process in which `bonrl.train` and `bonrl.evaluate` run a command. It stops when its parent is gone.

The command runs in a separate process, so that it works in a notebook (which has an event loop), receives signals, and
leaves no state in the caller.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def _stop_with_parent() -> None:
    """Ask the run to stop when the parent closes its end of standard input; the run saves a checkpoint."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    from cluster.cli import main

    sys.argv[0] = "bonrl"
    main()
