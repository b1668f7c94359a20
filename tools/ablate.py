import sys

from retinanet.__main__ import main

sys.exit(main(["ablate", *sys.argv[1:]]))
