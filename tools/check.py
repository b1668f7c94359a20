import sys

from retinanet.__main__ import main

sys.exit(main(["check", *sys.argv[1:]]))
