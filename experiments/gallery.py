"""The former name of `experiments.figures`."""

import sys

from experiments.settings.errors import print_error

if __name__ == "__main__":
    sys.exit(print_error("experiments.gallery is now experiments.figures", 2))
