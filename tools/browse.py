import sys

from retinanet.__main__ import main

sys.exit(main(["browse", *sys.argv[1:]]))
