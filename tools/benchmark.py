import sys

from retinanet.__main__ import main

sys.exit(main(["benchmark", *sys.argv[1:]]))
