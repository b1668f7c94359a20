import sys

from retinanet.cli.train import main

sys.exit(main())
