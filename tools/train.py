import sys

from retinanet.__main__ import main

sys.exit(main(["train", *sys.argv[1:]]))
