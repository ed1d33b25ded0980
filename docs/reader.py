"""What a tutorial imports first, out of sight: it goes to where the stores are."""

import os

from stores import WORK

os.chdir(WORK)
