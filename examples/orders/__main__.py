"""`python -m examples.orders [FOLDER]`. Takes Ctrl-C during the imports, too, when there is nothing to clean up yet."""

import os
import sys
from pathlib import Path

STOPPED = 130

if __name__ == "__main__":
    try:
        from examples.orders.main import main

        code = main(*map(Path, sys.argv[1:2]))
    except KeyboardInterrupt:
        code = STOPPED
    if code == STOPPED:
        # Ray that was stopped in the middle of its start can crash in its own exit handlers. All is
        # tidied up by now, so they are passed over.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
