"""``python -m snnrl`` is ``snnrl``, so that torchrun can start it."""

import sys

from snnrl.cli import main

sys.exit(main())
