"""The end of a training run: its last log lines, and a report page from the detections of its last evaluation."""

import logging

from retinanet.engine.divergence import ADVICE
from retinanet.engine.evaluate import Evaluation
from retinanet.engine.evaluate_checkpoint import Evaluated, annotations_of
from retinanet.engine.evaluation_report import explain, facts_of_evaluation, write_report
from retinanet.engine.result import TrainResult
from retinanet.engine.run_files import REPORT_FILE
from retinanet.engine.setup import Run
from retinanet.evaluation.analysis import analyse
from retinanet.report.evaluation_page import COMMAND
from retinanet.runtime.activity import Activity
from retinanet.runtime.console import format_duration
from retinanet.runtime.distributed import is_main, on_main
from retinanet.runtime.stop import StopRequest, write_preempted
from retinanet.visualization.html import check_page

log = logging.getLogger(__name__)

MAX_DETECTIONS = 500_000  # about a minute: analysing 100 detections in each of 5,000 images takes 46 s on two cores
MAX_RESAMPLES = 1000
MAX_RESAMPLED = 50_000_000  # resamples times detections: a few seconds


class _Stopped(Exception):
    """A signal asked the run to stop."""


def write_run_report(run: Run, evaluation: Evaluation, step: int, *, stop: StopRequest, activity: Activity) -> None:
    """Write `report.html` to the run folder, and log its path. Call this on the main process only.

    The run is complete by then, so errors here must not fail it: they are logged as a warning, and a stop request ends
    the report before its next phase. With more than `MAX_DETECTIONS`, no report is written; `retinanet eval` can write
    it.

    Args:
        evaluation: the last one of the run, after `step` steps.
    """
    assert run.val_data is not None
    file, by_hand = run.folder / REPORT_FILE, f"retinanet eval {run.folder} --report FILE.html"

    def begin(phase: str) -> None:
        if stop.signal_name is not None:
            raise _Stopped
        activity.begin(phase, run.state.step)

    count = sum(len(found.scores) for found in evaluation.detections.values())
    if count > MAX_DETECTIONS:
        log.info("no report: it would take minutes for %d detections; to write it: %s", count, by_hand)
        return
    try:
        check_page(file, command=COMMAND, option="run folder")
        begin("measuring anchors")
        cfg, data = run.cfg, run.val_data
        source = {"annotations": annotations_of(cfg)}
        evaluated = Evaluated(cfg, data, evaluation, source)
        explanation = explain(evaluated, with_anchors=True)
        begin("analysing the evaluation")
        analysis = analyse(
            data,
            evaluation.detections,
            max_detections=cfg.evaluation.max_detections,
            num_resamples=min(MAX_RESAMPLES, MAX_RESAMPLED // max(count, 1)),
            diagnoses=explanation.diagnoses,
        )
        write_report(
            file,
            evaluated,
            analysis,
            title=str(run.folder),
            facts={"weights": f"after {step} of {run.num_steps} steps"} | facts_of_evaluation(evaluated),
            run_folder=run.folder,
            anchors=explanation.anchors,
            begin=begin,
        )
        log.info("report: %s", file)
    except _Stopped:
        log.info("no report, because of %s; to write it: %s", stop.signal_name, by_hand)
    except Exception as error:
        log.warning("no report: %s; the run is complete. To write it: %s", str(error) or type(error).__name__, by_hand)


def finish(run: Run, result: TrainResult) -> None:
    """Log the end of a run and check that its last checkpoint was written. Collective.

    Raises:
        InputError: the last checkpoint was not written.
    """
    done = f"stopped by {result.stopped_by} after" if result.stopped_by else "trained"
    log.info("%s %d steps in %s; checkpoints are in %s",
             done, result.step, format_duration(result.seconds), run.checkpoints.folder)  # fmt: skip
    if result.diverged:
        log.warning("training diverged: the weights of the last checkpoint are unusable. %s", ADVICE)
    # Every process raises the error: otherwise torchrun would kill the others as soon as one exits with an error.
    on_main(lambda: run.checkpoints.check_saved(result.step))
    if result.stopped_by and result.is_preempted and is_main():
        write_preempted(run.folder, step=result.step, signal_name=result.stopped_by)
