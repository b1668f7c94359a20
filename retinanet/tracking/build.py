"""Build a tracker by its name in `train.trackers`."""

from retinanet.config.train import Tracker
from retinanet.tracking.mlflow_tracker import MlflowTracker
from retinanet.tracking.trackio_tracker import TrackioTracker
from retinanet.tracking.wandb_tracker import WandbTracker


def build_tracker(name: Tracker) -> WandbTracker | MlflowTracker | TrackioTracker:
    """Build a tracker.

    Raises:
        InputError: its package is not installed.
    """
    match name:
        case "wandb":
            return WandbTracker()
        case "mlflow":
            return MlflowTracker()
        case "trackio":
            return TrackioTracker()
