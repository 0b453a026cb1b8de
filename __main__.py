"""``python -m eyespot`` is the command ``eyespot``."""

import sys

from eyespot.cluster.cli import main

sys.exit(main())
