import sys

from retinanet.__main__ import main

sys.exit(main(["publish", *sys.argv[1:]]))
