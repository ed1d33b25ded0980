"""What a tutorial imports first, out of sight: it goes to where the stores are, and commands print as into a file."""

import os

from stores import WORK

os.chdir(WORK)
os.environ |= {
    "TERM": "dumb",
    "COLUMNS": "100",
    "NO_COLOR": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
