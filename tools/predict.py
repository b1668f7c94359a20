import sys

from retinanet.cli.predict import main

sys.exit(main())
