import sys

from retinanet.cli.eval import main

sys.exit(main())
