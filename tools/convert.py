import sys

from retinanet.cli.convert import main

sys.exit(main())
