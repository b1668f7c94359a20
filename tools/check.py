import sys

from retinanet.cli.check import main

sys.exit(main())
