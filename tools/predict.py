import sys

from retinanet.__main__ import main

sys.exit(main(["predict", *sys.argv[1:]]))
