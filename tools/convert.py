import sys

from retinanet.__main__ import main

sys.exit(main(["convert", *sys.argv[1:]]))
