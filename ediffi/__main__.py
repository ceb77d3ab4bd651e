"""`python -m ediffi` is `ediffi`."""

import sys

from ediffi.cli import main

sys.exit(main())
