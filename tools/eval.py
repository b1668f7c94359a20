import sys

from retinanet.__main__ import main

sys.exit(main(["eval", *sys.argv[1:]]))
