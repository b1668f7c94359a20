"""Generate the bundled shapes dataset: shapes on textured backgrounds, in COCO format."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from retinanet.data.synthetic.shapes import write_shapes
from retinanet.data.synthetic.sprites import CLASSES
from retinanet.errors import InputError
from retinanet.runtime.console import escape_unprintable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m retinanet.data.synthetic",
        description=__doc__,
        epilog=f"Classes: {', '.join(CLASSES)}. Writes DIR/train/*.png, DIR/val/*.png, DIR/train.json and "
        "DIR/val.json. The same arguments give the same images. A folder that already contains them is kept; a "
        "folder that contains anything else is never changed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="output folder; created if missing")
    parser.add_argument("--train", type=int, default=1600, metavar="N", help="number of training images")
    parser.add_argument("--val", type=int, default=160, metavar="N", help="number of validation images")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the images")
    args = parser.parse_args(argv)
    escape_unprintable()
    try:
        if not write_shapes(args.folder, num_train=args.train, num_val=args.val, seed=args.seed):
            print(f"{args.folder.resolve()} already contains this dataset")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
