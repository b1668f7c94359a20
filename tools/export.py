import sys

from retinanet.__main__ import main

sys.exit(main(["export", *sys.argv[1:]]))
