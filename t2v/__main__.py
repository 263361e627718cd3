"""`python -m t2v` is the command line."""

import sys

from t2v.cli import main

sys.exit(main())
