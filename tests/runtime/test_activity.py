import time

from retinanet.runtime.activity import Activity


def test_activity_is_described_by_phase_step_and_images():
    activity = Activity()
    assert str(activity) == "starting"
    activity.begin("scoring", 4)
    assert str(activity) == "scoring, step 4"
    activity.begin("training", 6, image_ids=(12, "cat"))
    assert str(activity) == "training, step 6, images [12, 'cat']"


def test_next_phase_releases_the_batches_and_counts_as_progress():
    activity = Activity()
    batches = [object()]
    activity.begin("training", 6, batches, (12,))
    first = activity.current
    assert first.batches is batches
    time.sleep(0.001)
    activity.begin("reading images", 7)
    assert len(activity.current.batches) == 0 and activity.current.began > first.began
