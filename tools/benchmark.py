import sys

from retinanet.cli.benchmark import main

sys.exit(main())
