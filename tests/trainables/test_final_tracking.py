"""The run of a final training in a store that is elsewhere, away or secret."""

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from analysis.records import mlflow_store
from analysis.records import reader as load
from analysis.records.mlflow_models import DataSet
from trainables.final.recipe import TrainError
from trainables.final.tracking import NOWHERE, MlflowRun
from trainables.train import main as train


def started(uri: str | None) -> MlflowRun:
    return MlflowRun(uri, "digits-lt", "final x", {"level": "final"}, {"größe/lr": 0.1})


def test_the_environment_says_where_the_run_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    run = started(None)
    run.metrics({"loss": 0.5})
    run.close("FINISHED")
    found = load.connect(f"sqlite:///{tmp_path / 'team.db'}").get_run(run.run_id)
    assert found.info.status == "FINISHED" and found.data.params == {"größe/lr": "0.1"}
    assert not (tmp_path / "mlflow.db").exists()
    assert started(NOWHERE).run_id is None


@pytest.mark.parametrize(("val", "context"), [(0, "train, test"), (2, "train, val, test")])
def test_the_data_of_the_run_name_the_splits_that_were_used(uri, val, context):
    run = started(uri)
    data = DataSet("digits-lt", "abc", {"train": 5, "val": val, "test": 3})
    run.model("m", {"test/accuracy": 0.5}, data, at=1, folder=None)
    (used,) = load.connect(uri).get_run(run.run_id).inputs.dataset_inputs
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": context}


class Hanging(BaseHTTPRequestHandler):
    """A server that is alive and takes nothing: it answers its health check, and everything else with an error."""

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


def test_a_password_is_not_shown_by_what_refuses_it():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(TrainError, match=r"http://me:\*\*\*@127.0.0.1:\d+.*choose another store with") as caught:
            started(f"http://me:secretword@127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    error: BaseException | None = caught.value
    while error is not None:
        assert "secretword" not in str(error)
        error = None if error.__suppress_context__ and error.__cause__ is None else error.__cause__ or error.__context__


def test_what_is_printed_to_go_on_with_has_no_password(tmp_path, capsys):
    code = train([str(tmp_path / "no.yaml"), "--tracking-uri", "http://me:secretword@127.0.0.1:9"])
    assert code == 2 and "secretword" not in capsys.readouterr().err


def test_a_store_that_goes_away_is_not_asked_at_every_step(uri, monkeypatch, caplog):
    run = started(uri)
    asked = []

    def down(self, name):
        asked.append(name)
        raise mlflow_store.StoreError("no MLflow server answers")

    real = mlflow_store.Client.__getattr__
    monkeypatch.setattr(mlflow_store.Client, "__getattr__", down)
    monkeypatch.setattr("trainables.final.tracking.WRITE_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        for step in range(50):
            run.metrics({"loss": float(step)}, step)
    assert asked == ["log_batch"] and len(caplog.records) == 1
    # and nothing is lost where it comes back
    monkeypatch.setattr(mlflow_store.Client, "__getattr__", real)
    run.close("FINISHED")
    history = load.connect(uri).get_metric_history(run.run_id, "loss")
    assert [point.value for point in history] == [float(step) for step in range(50)]
