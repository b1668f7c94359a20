import sys

from retinanet.cli.ablate import main

sys.exit(main())
